"""SIGKILL around calls that are looked up, tried again, timed, approved, passed on or ahead.

A child process (`calls_child.py`) is killed at a point that it announces, and started again. What
is compared: the journal, and the ledger that the tools wrote outside of it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ApprovalRequested,
    CallReady,
    ModelIntent,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
    TimerSet,
    ToolFailed,
    ToolIntent,
    ToolResult,
)
from orchestrator.tools.children import ids_of
from tests.integration import killing

CHILD = Path(__file__).parent / "calls_child.py"
KEY = "conv_1:1:call_1_0"
E = TypeVar("E")
BEGUN = ["after ModelRouted+OutputDelta+CallReady", "tool started", "tool ran"]


@dataclass
class Bench:
    """A folder with a journal, and the child that works in it."""

    folder: Path

    def start(self, scenario: str, stop: str = "") -> str:
        """Run the child; kill it where it stops. Returns its last line."""
        return killing.run(CHILD, str(self.folder), scenario, stop)[-1]

    def crash_and_finish(self, scenario: str, *stops: str) -> None:
        for stop in stops:
            last = self.start(scenario, stop)
            assert last.startswith("stopped"), f"never came to {stop!r}: {last!r}"
        assert self.start(scenario) == "finished completed"

    async def log(self, conversation: str = "conv_1") -> list[AnyEvent]:
        return await killing.log_in(self.folder, conversation)

    async def found(self, kind: type[E], conversation: str = "conv_1") -> list[E]:
        return [event for event in await self.log(conversation) if isinstance(event, kind)]

    def ledger(self) -> list[dict[str, Any]]:
        file = self.folder / "ledger"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def acted(self) -> list[str]:
        return [line["key"] for line in self.ledger()]


@pytest.fixture
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with killing.folder_for(request, tmp_path) as folder:
        yield Bench(folder)


async def outputs(bench: Bench) -> list[str]:
    return [each.output for each in await bench.found(ToolResult)]


@killing.BOTH_IN_FULL
async def test_a_queryable_call_that_acted_is_told_and_not_run_again(bench: Bench) -> None:
    bench.crash_and_finish("queryable", "tool ran")
    assert bench.acted() == [KEY]
    assert await outputs(bench) == ["acted"]
    assert len(await bench.found(ToolIntent)) == 1


@killing.BOTH_IN_FULL
async def test_a_queryable_call_that_did_nothing_is_run(bench: Bench) -> None:
    bench.crash_and_finish("queryable", "tool started")
    assert bench.acted() == [KEY]
    assert await outputs(bench) == ["acted"]
    assert [each.attempt for each in await bench.found(ToolIntent)] == [1, 2]


@killing.BOTH_IN_FULL
async def test_a_queryable_call_that_nobody_can_tell_of_is_a_person_s_to_decide(
    bench: Bench,
) -> None:
    (bench.folder / "unsure").touch()
    bench.crash_and_finish("queryable", "tool ran")
    (asked,) = await bench.found(ApprovalRequested)
    assert asked.reason == "outcome_unknown"
    # The person said: run it again.
    assert bench.acted() == [KEY, KEY]
    assert len(await bench.found(ToolResult)) == 1


@killing.BOTH_IN_FULL
async def test_a_retry_keeps_its_time_and_its_count_over_a_crash(bench: Bench) -> None:
    bench.crash_and_finish("retry", "after ToolFailed")
    assert [each.attempt for each in await bench.found(ToolIntent)] == [1, 2, 3]
    failures = await bench.found(ToolFailed)
    assert [each.attempt for each in failures] == [1, 2]
    times = [line["at"] for line in bench.ledger()]
    assert bench.acted() == [KEY] * 3
    for failure, next_try in zip(failures, times[1:], strict=True):
        assert next_try >= failure.retry_at


@killing.BOTH
@pytest.mark.parametrize("stop", ["after TimerSet", "before ToolResult"])
async def test_a_timer_is_set_once_and_rings_at_its_time(bench: Bench, stop: str) -> None:
    bench.crash_and_finish("timer", stop)
    (timer,) = await bench.found(TimerSet)
    (result,) = await bench.found(ToolResult)
    assert result.at >= timer.until
    assert result.output == "0.5 seconds have passed"


@killing.BOTH_IN_FULL
@pytest.mark.parametrize(
    "stop",
    [
        "before ModelRouted+ModelResult+ApprovalRequested+ResponseFinished",
        "after ModelRouted+ModelResult+ApprovalRequested+ResponseFinished",
        "before ResponseAccepted+ApprovalDecided",
        "after ResponseAccepted+ApprovalDecided",
        "after ToolIntent",
        "before ToolResult",
    ],
)
async def test_a_person_is_asked_and_the_call_runs_once(bench: Bench, stop: str) -> None:
    bench.crash_and_finish("approval", stop)
    assert len(await bench.found(ToolResult)) == 1
    asked = await bench.found(ApprovalRequested)
    decided = await bench.found(ApprovalDecided)
    assert [each.approval_id for each in asked] == [each.approval_id for each in decided]
    # Only where it died inside the call it may have acted twice, and then a person said so.
    doubtful = [each for each in asked if each.reason == "outcome_unknown"]
    assert len(doubtful) == (stop in ("after ToolIntent", "before ToolResult"))
    # A turn that was sampled again has ids of its own.
    keys = [key.removesuffix("_2") for key in bench.acted()]
    assert keys == [KEY] * (2 if stop == "before ToolResult" else 1)


@killing.BOTH_IN_FULL
@pytest.mark.parametrize(
    "stop",
    [
        "after ConversationStarted+ResponseAccepted",
        "tool ran",
        "after ModelRouted+ModelResult+ResponseFinished",
        "before ToolResult+ModelIntent",
    ],
)
async def test_a_child_runs_once_and_its_answer_is_delivered_once(bench: Bench, stop: str) -> None:
    bench.crash_and_finish("children", stop, *([] if stop.startswith("after C") else [stop]))
    child = ids_of(KEY).conversation
    assert len(await bench.found(ResponseAccepted, child)) == 1
    assert len(await bench.found(ResponseFinished, child)) == 1
    assert await outputs(bench) == ["done"]
    assert set(bench.acted()) == {f"{child}:1:call_1_0"}
    if stop.startswith("after"):  # else it died inside the child's own call
        assert len(bench.acted()) == 1


@killing.BOTH_IN_FULL
@pytest.mark.parametrize("stop", BEGUN)
async def test_a_turn_that_died_after_a_call_of_it_began_is_never_sampled_again(
    bench: Bench, stop: str
) -> None:
    bench.crash_and_finish("ahead", stop)
    assert len(await bench.found(CallReady)) == 1
    assert [(each.step, each.attempt) for each in await bench.found(ModelIntent)] == [
        (1, 1),
        (2, 1),
    ]
    first = (await bench.found(ModelResult))[0]
    assert [call.call_id for call in first.calls] == ["call_1_0"]
    assert set(bench.acted()) == {KEY}
    assert await outputs(bench) == ["acted"]
