"""Calls in a running conversation: tried again, timed, kept whole; the test moves the clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.clock import FakeClock, sleep
from orchestrator.journal.base import Lease
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    ResponseAccepted,
    ResponseFinished,
    ResultKept,
    TimerSet,
    ToolFailed,
    ToolIntent,
    ToolResult,
)
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import ToolContext, ToolError, ToolOutput, tool
from orchestrator.tools.builtin import built_in
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig

Wanted = tuple[str, object]


class Desk:
    """One conversation whose model makes these calls, one a turn, and then is done."""

    def __init__(self, *wanted: Wanted | list[Wanted], **limits: Any) -> None:
        self.clock = FakeClock()
        self.journal = MemoryJournal(clock=self.clock)
        self.turns: list[ModelTurn] = []
        self.wanted = iter(wanted)
        self.broken_until = 99

        @tool(kind="idempotent")
        async def flaky(context: ToolContext) -> str:
            """Work from some attempt on."""
            if context.attempt < self.broken_until:
                raise ToolError("busy", retry_after_ms=1000, transient=True)
            return "worked"

        @tool(kind="pure")
        async def long() -> str:
            """Say much."""
            return "0123456789" * 200

        @tool(kind="unsafe")
        async def dear() -> ToolOutput:
            """Cost."""
            return ToolOutput("had", cost_usd=2.0, quota={"left": 1})

        @tool(kind="idempotent")
        async def lost() -> str:
            """Await what somebody has cancelled."""
            raise asyncio.CancelledError

        @tool(kind="idempotent")
        async def slow() -> str:
            """Take two seconds."""
            await sleep(self.clock, 2.0)
            return "done"

        own = [from_function(each) for each in (flaky, long, dear, lost, slow)]
        own += [built_in(f"builtin:{name}", "tools") for name in ("sleep", "read_result")]
        config = AgentConfig.model_validate({"reply_tool": False, "limits": limits})
        self.worker = Worker(
            journal=self.journal,
            agents=Agents([resolve("desk", config, own)]),
            models=ScriptedModel(self.play),
            clock=self.clock,
            park_s=1e9,
        )

    def play(self, turn: ModelTurn) -> list[Scripted]:
        self.turns.append(turn)
        wanted = next(self.wanted, None)
        if wanted is None:
            return says("done")
        return calls(*wanted) if isinstance(wanted, list) else calls(wanted)

    async def begin(self) -> None:
        accepted = ResponseAccepted("r", self.clock.now(), [{"role": "user", "content": "go"}])
        start = ConversationStarted("desk@1", self.clock.now())
        await self.worker.accept("c", accepted, start=start)

    async def found(self, kind: type[Any]) -> list[Any]:
        log = await self.journal.read("c")
        return [each.event for each in log if isinstance(each.event, kind)]

    async def until(self, kind: type[Any], count: int) -> list[Any]:
        for _ in range(1000):
            if len(found := await self.found(kind)) >= count:
                return found
            await asyncio.sleep(0)
        raise AssertionError(f"there are not {count} {kind.__name__}")

    async def quiet(self) -> None:
        """Let the run come to where it waits for the clock."""
        for _ in range(50):
            await asyncio.sleep(0)


async def test_a_call_that_may_work_later_is_tried_again_at_the_time_that_its_tool_says() -> None:
    desk = Desk(("flaky", {}))
    desk.broken_until = 3
    async with desk.worker:
        began = desk.clock.now()
        await desk.begin()
        (failed,) = await desk.until(ToolFailed, 1)
        assert failed.retry_at == began + 1
        desk.clock.advance(0.9)
        await desk.quiet()
        assert len(await desk.found(ToolIntent)) == 1
        desk.clock.advance(0.1)
        await desk.until(ToolFailed, 2)
        desk.clock.advance(1)
        (result,) = await desk.until(ToolResult, 1)
        await desk.worker.run("c")
    assert result.output == "worked"
    assert [each.attempt for each in await desk.found(ToolIntent)] == [1, 2, 3]
    assert len({each.key for each in await desk.found(ToolIntent)}) == 1


async def test_a_call_that_never_works_is_told_to_the_model_after_so_many_tries() -> None:
    desk = Desk(("flaky", {}), tool_attempts=2)
    async with desk.worker:
        await desk.begin()
        await desk.until(ToolFailed, 1)
        desk.clock.advance(1)
        (result,) = await desk.until(ToolResult, 1)
        await desk.worker.run("c")
    assert result.outcome == "error"
    assert json.loads(result.output)["error_code"] == "busy"


async def test_a_retry_after_the_end_of_the_response_is_not_waited_for() -> None:
    desk = Desk(("flaky", {}), max_seconds=0.5)
    async with desk.worker:
        await desk.begin()
        await desk.worker.run("c")
    assert await desk.found(ToolFailed) == []
    assert (await desk.found(ToolResult))[0].code == "busy"


async def test_sleeping_holds_the_run_until_its_time() -> None:
    desk = Desk(("sleep", {"seconds": 60}))
    async with desk.worker:
        began = desk.clock.now()
        await desk.begin()
        (timer,) = await desk.until(TimerSet, 1)
        assert timer.until == began + 60
        await desk.quiet()
        desk.clock.advance(59)
        await desk.quiet()
        assert await desk.found(ToolResult) == []
        desk.clock.advance(1)
        await desk.worker.run("c")
    assert [each.output for each in await desk.found(ToolResult)] == ["60 seconds have passed"]


async def test_sleeping_beyond_the_response_s_own_end_is_refused() -> None:
    desk = Desk(("sleep", {"seconds": 3600}), max_seconds=60)
    async with desk.worker:
        await desk.begin()
        await desk.worker.run("c")
    (result,) = await desk.found(ToolResult)
    assert result.code == "too_late"


async def test_a_long_result_is_cut_for_the_model_and_read_on_by_its_handle() -> None:
    read = {"handle": "call_1_0", "offset": 1990, "length": 10}
    desk = Desk(("long", {}), ("read_result", read), tool_result_bytes=300)
    async with desk.worker:
        await desk.begin()
        await desk.worker.run("c")
    shown, rest = await desk.found(ToolResult)
    assert len(shown.output) <= 300
    assert 'read_result(handle="call_1_0"' in shown.output
    assert rest.output == "0123456789\n[the end]"
    (kept,) = await desk.found(ResultKept)
    assert len(kept.text) == 2000


async def test_what_a_tool_costs_counts_against_the_response_s_limit() -> None:
    desk = Desk(("dear", {}), max_cost_usd=1.0)
    async with desk.worker:
        await desk.begin()
        await desk.worker.run("c")
    (result,) = await desk.found(ToolResult)
    assert (result.cost_usd, result.quota) == (2.0, {"left": 1})


@pytest.mark.parametrize("beside", [[], [("long", {})]])
async def test_a_tool_whose_code_leaks_a_cancellation_fails_once(beside: list[Wanted]) -> None:
    desk = Desk([("lost", {}), *beside])
    async with desk.worker:
        await desk.begin()
        results = await desk.until(ToolResult, 1 + len(beside))
        (ended,) = await desk.until(ResponseFinished, 1)
    lost = next(each for each in results if each.call_id.endswith("_0"))
    assert (lost.outcome, lost.code) == ("error", "tool_failed")
    assert len(await desk.found(ToolIntent)) == 1 + len(beside)
    assert ended.status == "completed"


@pytest.mark.parametrize("together", [1, 2])
async def test_a_call_takes_as_long_as_its_tool_and_not_as_the_disk_before_it(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    desk = Desk([("slow", {})] * together)
    store = desk.journal.append

    async def append(lease: Lease, events: Sequence[AnyEvent], **how: Any) -> int:
        if any(isinstance(each, ToolIntent) for each in events):
            desk.clock.advance(5.0)
        return await store(lease, events, **how)

    monkeypatch.setattr(desk.journal, "append", append)
    async with desk.worker:
        await desk.begin()
        await desk.until(ToolIntent, together)
        await desk.quiet()
        desk.clock.advance(2.0)
        results = await desk.until(ToolResult, together)
        await desk.worker.run("c")
    assert [each.seconds for each in results] == [2.0] * together
