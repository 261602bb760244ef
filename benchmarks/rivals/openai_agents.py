"""OpenAI Agents SDK: Runner with a scripted Model and a SQLiteSession in a file.

A session keeps what was said so that the next request can go on. It is not a durable execution: an
intent is not written, and nothing resumes a run whose process died.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agents import (
    Agent,
    Model,
    ModelProvider,
    ModelResponse,
    RunConfig,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

from benchmarks.rivals import workload


@function_tool(name_override=workload.TOOL, description_override=workload.TOOL_SAYS)
async def look_up(item: str, count: int = 1) -> str:
    return workload.looked_up(item, count)


class Scripted(Model):
    """Asks for the tool so many times, then answers."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._asked: Counter[str] = Counter()

    async def get_response(
        self, system_instructions: Any, input: Any, *rest: Any, **more: Any
    ) -> ModelResponse:
        json.dumps([{"role": "system", "content": system_instructions}, *input])
        name = input[0]["content"]
        step = self._asked[name]
        self._asked[name] += 1
        if step == self._steps:
            said = ResponseOutputText(type="output_text", text="done", annotations=[])
            item: Any = ResponseOutputMessage(
                id=f"msg_{step}",
                type="message",
                role="assistant",
                status="completed",
                content=[said],
            )
        else:
            item = ResponseFunctionToolCall(
                type="function_call",
                call_id=f"call_{step}",
                name=workload.TOOL,
                arguments=json.dumps(workload.arguments(step)),
            )
        return ModelResponse(output=[item], usage=Usage(), response_id=None)

    def stream_response(self, *arguments: Any, **more: Any) -> Any:
        raise NotImplementedError


class Provider(ModelProvider):
    """Gives the one model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def get_model(self, model_name: str | None) -> Model:
        return self._model


async def case(
    folder: Path, steps: int
) -> tuple[Callable[[str], Awaitable[None]], Callable[[], Any]]:
    set_tracing_disabled(True)
    agent = Agent(name="bench", instructions=workload.INSTRUCTIONS, tools=[look_up])
    config = RunConfig(model_provider=Provider(Scripted(steps)), tracing_disabled=True)

    async def one(name: str) -> None:
        session = SQLiteSession(name, folder / "sessions.db")
        # The first line is the session's name, by which the script knows whose turn it is.
        start = [{"role": "user", "content": name}, *workload.past()[:-1]]
        await session.add_items([_plain(item) for item in start])
        found = await Runner.run(
            agent, "And now?", session=session, run_config=config, max_turns=steps + 2
        )
        assert found.final_output == "done"
        session.close()

    async def close() -> None:
        return None

    return one, close


def _plain(item: dict[str, Any]) -> Any:
    if item.get("type") == "message":
        return {"role": item["role"], "content": item["content"]}
    return item


if __name__ == "__main__":
    print(json.dumps(workload.measure(case)), flush=True)
