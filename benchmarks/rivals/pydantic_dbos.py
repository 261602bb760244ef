"""PydanticAI on DBOS: an agent with DBOSDurability in a workflow, its tool a DBOS step; SQLite.

Each model turn and each tool call is a DBOS step, whose result is committed before the next one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID
from pydantic_ai import Agent
from pydantic_ai.durable_exec.dbos import DBOSDurability
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from benchmarks.rivals import workload


def history() -> list[ModelMessage]:
    messages: list[ModelMessage] = [ModelRequest([SystemPromptPart(workload.INSTRUCTIONS)])]
    for item in workload.past()[:-1]:
        if item["type"] == "function_call":
            call = ToolCallPart(item["name"], item["arguments"], item["call_id"])
            messages.append(ModelResponse([call]))
        elif item["type"] == "function_call_output":
            part = ToolReturnPart(workload.TOOL, item["output"], item["call_id"])
            messages.append(ModelRequest([part]))
        elif item["role"] == "user":
            messages.append(ModelRequest([UserPromptPart(item["content"])]))
        else:
            messages.append(ModelResponse([TextPart(item["content"])]))
    return messages


asked: Counter[str] = Counter()
wanted = 0


def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    ModelMessagesTypeAdapter.dump_json(messages)  # what would be sent
    name = DBOS.workflow_id or ""
    step = asked[name]
    asked[name] += 1
    if step == wanted:
        return ModelResponse([TextPart("done")])
    return ModelResponse(
        [ToolCallPart(workload.TOOL, json.dumps(workload.arguments(step)), f"call_{step}")]
    )


async def look_up(item: str, count: int = 1) -> str:
    """Find an item's price."""
    return workload.looked_up(item, count)


async def case(
    folder: Path, steps: int
) -> tuple[Callable[[str], Awaitable[None]], Callable[[], Any]]:
    global wanted  # noqa: PLW0603 - DBOS takes functions of modules
    wanted = steps
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )
    durability = DBOSDurability()
    agent = Agent(FunctionModel(model), name=f"bench-{steps}", capabilities=[durability])
    agent.tool_plain(DBOS.step()(look_up))
    before = history()

    @DBOS.workflow(name=f"bench-{steps}")
    async def turn() -> str:
        return (await agent.run("And now?", message_history=before)).output

    DBOS.launch()

    async def one(name: str) -> None:
        with SetWorkflowID(name):
            assert await turn() == "done"
        assert asked[name] == steps + 1

    async def close() -> None:
        DBOS.destroy()

    return one, close


if __name__ == "__main__":
    print(json.dumps(workload.measure(case)), flush=True)
