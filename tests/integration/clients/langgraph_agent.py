"""One tool task by LangGraph.

    python langgraph_agent.py URL MODEL PROMPT [forced]

Once by each API. `forced`: it asks for a call in the first turn, and for none in those after it.
"""

import sys
from typing import Literal

from langchain_core.messages import AnyMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


@tool
def price_of(what: Literal["helmet", "glove"]) -> str:
    """The price of an article."""
    print("TOOL", what)
    return "42 euros"


def main(api: str, url: str, model: str, prompt: str, forced: str = "") -> None:
    chat = ChatOpenAI(
        model=model,
        base_url=f"{url}/v1",
        api_key="none",
        temperature=0 if forced else None,
        use_responses_api=api == "responses",
    )
    first = chat.bind_tools([price_of], tool_choice="required" if forced else None)
    later = chat.bind_tools([price_of], tool_choice="none" if forced else None)

    def turn(state: MessagesState) -> dict[str, list[AnyMessage]]:
        messages = state["messages"]
        return {"messages": [(first if len(messages) == 1 else later).invoke(messages)]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", turn)
    graph.add_node("tools", ToolNode([price_of]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    ended = graph.compile().invoke({"messages": [("user", prompt)]}, {"recursion_limit": 8})
    last = ended["messages"][-1].content
    print("ANSWER", last if isinstance(last, str) else "".join(part["text"] for part in last))


for each in ("responses", "chat"):
    main(each, *sys.argv[1:])
