"""Built-in tools: waiting, and reading on in a long result."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from orchestrator.loop.events import Call
from orchestrator.loop.state import Shown
from orchestrator.tools.base import ChildRuns, Ready, ToolContext
from orchestrator.tools.builtin import built_in
from orchestrator.tools.toolbox import Ran, Toolbox
from serving.config.agent import AgentLimits
from serving.errors import ConfigError

NAMES = ("sleep", "wait_until", "read_result", "note", "recall")


class Host:
    """Keeps one result."""

    children: ChildRuns | None = None

    async def kept(self, handle: str) -> str | None:
        return "0123456789" if handle == "call_1_0" else None

    async def notes(self) -> Sequence[str]:
        return ["the bell costs 5", "ask for the size"]

    def history(self) -> Sequence[Shown]:
        return ()


async def run(name: str, **arguments: object) -> Ran:
    box = Toolbox(built_in(f"builtin:{each}", "tools") for each in NAMES)
    ready = box.prepare(Call("call_9_0", name, json.dumps(arguments)))
    assert isinstance(ready, Ready), ready
    context = ToolContext("k", call_id="call_9_0", at=1000.0, host=Host())
    ran = await box.run(ready, context, AgentLimits())
    assert isinstance(ran, Ran)
    return ran


async def test_sleeping_is_an_answer_that_comes_later() -> None:
    ran = await run("sleep", seconds=60)
    assert (ran.later, ran.output) == (1060.0, "60 seconds have passed")


async def test_waiting_until_a_time_takes_its_offset_into_account() -> None:
    ran = await run("wait_until", time="1970-01-01T02:00:00+01:00")
    assert (ran.later, ran.output) == (3600.0, "it is 1970-01-01T01:00:00+00:00")


@pytest.mark.parametrize("time", ["tomorrow", "2026-11-28T09:00:00"])
async def test_a_time_that_is_none_is_refused_with_an_example(time: str) -> None:
    ran = await run("wait_until", time=time)
    assert ran.code == "invalid_arguments"
    assert "+00:00" in ran.output


async def test_a_long_result_is_read_on_piece_by_piece() -> None:
    assert (await run("read_result", handle="call_1_0", offset=2, length=3)).output == (
        "234\n[5 of 10 characters]"
    )
    assert (await run("read_result", handle="call_1_0", offset=8)).output == "89\n[the end]"


async def test_a_handle_that_nobody_gave_is_an_error() -> None:
    assert (await run("read_result", handle="call_7_0")).code == "invalid_arguments"


async def test_notes_are_recalled_in_their_order() -> None:
    assert (await run("note", text="x")).output == "noted"
    assert (await run("recall")).output == "1. the bell costs 5\n2. ask for the size"


def test_what_is_not_built_in_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sleep'"):
        built_in("builtin:slep", "agents.x.tools")
