"""One tool task by LangGraph: python langgraph_agent.py URL MODEL responses|chat PROMPT"""

import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


@tool
def price_of(what: str) -> str:
    """The price of an article."""
    print("TOOL", what)
    return "42 euros"


def main(url: str, model: str, api: str, prompt: str) -> None:
    chat = ChatOpenAI(
        model=model, base_url=f"{url}/v1", api_key="none", use_responses_api=api == "responses"
    ).bind_tools([price_of])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [chat.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([price_of]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    ended = graph.compile().invoke({"messages": [("user", prompt)]}, {"recursion_limit": 8})
    last = ended["messages"][-1].content
    print("ANSWER", last if isinstance(last, str) else "".join(part["text"] for part in last))


main(*sys.argv[1:])
