"""LangGraph: a model node and its ToolNode, AsyncSqliteSaver, `durability="sync"`.

With that a checkpoint is committed before the next node begins; SQLite's own default is FULL, so
that it is fsynced. The history is the graph's initial state.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from benchmarks.rivals import workload


@tool(workload.TOOL, description=workload.TOOL_SAYS)
async def look_up(item: str, count: int = 1) -> str:
    return workload.looked_up(item, count)


def history() -> list[AnyMessage]:
    messages: list[AnyMessage] = [SystemMessage(workload.INSTRUCTIONS)]
    for item in workload.past():
        if item["type"] == "function_call":
            call = {
                "name": item["name"],
                "args": json.loads(item["arguments"]),
                "id": item["call_id"],
            }
            messages.append(AIMessage("", tool_calls=[call]))
        elif item["type"] == "function_call_output":
            messages.append(ToolMessage(item["output"], tool_call_id=item["call_id"]))
        elif item["role"] == "user":
            messages.append(HumanMessage(item["content"]))
        else:
            messages.append(AIMessage(item["content"]))
    return messages


async def case(
    folder: Path, steps: int
) -> tuple[Callable[[str], Awaitable[None]], Callable[[], Any]]:
    asked: Counter[str] = Counter()

    async def model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        json.dumps(convert_to_openai_messages(state["messages"]))  # what would be sent
        name = config["configurable"]["thread_id"]
        step = asked[name]
        asked[name] += 1
        if step == steps:
            return {"messages": [AIMessage("done")]}
        call = {"name": workload.TOOL, "args": workload.arguments(step), "id": f"call_{step}"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    def after_model(state: MessagesState) -> str:
        newest = state["messages"][-1]
        return "tools" if isinstance(newest, AIMessage) and newest.tool_calls else END

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode([look_up]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", after_model, ["tools", END])
    graph.add_edge("tools", "model")
    opened = AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db"))
    saver = await opened.__aenter__()
    app = graph.compile(checkpointer=saver)

    async def one(name: str) -> None:
        config = {"configurable": {"thread_id": name}, "recursion_limit": 10_000}
        found = await app.ainvoke({"messages": history()}, config, durability="sync")
        assert found["messages"][-1].content == "done"
        assert sum(isinstance(m, ToolMessage) for m in found["messages"]) == 15 + steps

    async def close() -> None:
        await opened.__aexit__(None, None, None)

    return one, close


if __name__ == "__main__":
    print(json.dumps(workload.measure(case)), flush=True)
