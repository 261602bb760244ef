"""SIGKILL between and inside the steps of a run: each row of the crash table, seen happening.

A child process (`crash_child.py`) runs an agent and is killed at a point that it announces; then it
is started again and must finish. What is checked afterwards: the journal, the ledger that the tools
wrote outside of it, and every prompt, byte for byte, against a run without a crash. The same holds
over SQLite and over PostgreSQL, where the dead process' lease has to run out first; the run without
a crash is one for both.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ApprovalRequested,
    ModelFailed,
    ModelIntent,
    ModelResult,
    OutputDelta,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)
from tests.integration import killing
from tests.postgres import SmallServer

CHILD = Path(__file__).parent / "crash_child.py"
TURNS = 4


@dataclass
class Bench:
    """A folder with a journal, and the child that works in it."""

    folder: Path
    turns: int = TURNS

    def start(self, stop: str = "") -> str:
        """Run the child; kill it where it stops. Returns its last line."""
        return killing.run(CHILD, str(self.folder), str(self.turns), stop)[-1]

    def running(self, stop: str) -> AbstractContextManager[killing.Child]:
        """The child, to be frozen where it stops."""
        return killing.running(CHILD, str(self.folder), str(self.turns), stop)

    async def log(self) -> list[AnyEvent]:
        return await killing.log_in(self.folder, "conv_1")

    def lines(self, name: str) -> list[dict[str, Any]]:
        file = self.folder / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def keys(self) -> list[str]:
        return [line["key"] for line in self.lines("ledger")]

    def prompts(self) -> dict[int, set[str]]:
        """Turn → the bodies it was asked with; one, if it is the same however often."""
        found: dict[int, set[str]] = {}
        for line in self.lines("prompts"):
            found.setdefault(line["turn"], set()).add(first_attempt(line["body"]))
        return found

    async def crash_and_finish(self, stop: str) -> tuple[list[AnyEvent], list[AnyEvent]]:
        """The log as the crash left it, and as it is in the end."""
        last = self.start(stop)
        assert last.startswith("stopped"), f"never came to {stop!r}: {last!r}"
        left = await self.log()
        ran_before = self.keys()
        assert self.start() == "finished completed"
        log = await self.log()
        check(log, self.keys())
        # No call whose result the journal has runs again.
        done = {each.call_id for each in left if isinstance(each, ToolResult)}
        again = self.keys()[len(ran_before) :]
        assert not [key for key in again if key.rpartition(":")[2] in done]
        return left, log


def first_attempt(text: str) -> str:
    """Without the numbers of later attempts in ids of calls: a turn that was sampled again is
    another answer, and its calls have other ids. All else must be the same."""
    return re.sub(r"(call_\d+_\d+)_\d+", r"\1", text)


def check(log: list[AnyEvent], ledger: list[str]) -> None:
    """What holds for every finished run, however often it was killed."""
    asked = [each for each in log if isinstance(each, ApprovalRequested)]
    accepted = [each for each in log if isinstance(each, ResponseAccepted)]
    assert len(accepted) == 1 + sum(isinstance(each, ApprovalDecided) for each in log)
    assert all(each.reason == "outcome_unknown" for each in asked)
    assert isinstance(log[-1], ResponseFinished)
    assert log[-1].status == "completed"
    intents = {each.call_id: each for each in log if isinstance(each, ToolIntent)}
    results = [each for each in log if isinstance(each, ToolResult)]
    assert len({each.call_id for each in results}) == len(results), "a call with two results"
    assert {each.call_id for each in results} == set(intents)
    assert set(ledger) <= {each.key for each in intents.values()}, "an effect without intent"
    for result in results:
        key = intents[result.call_id].key
        assert key == f"conv_1:{result.step}:{result.call_id}"
        attempts = intents[result.call_id].attempt
        if result.outcome == "ok":
            assert 1 <= ledger.count(key) <= attempts
        else:
            assert result.outcome == "outcome_unknown"
            assert ledger.count(key) <= 1
    assert [each.step for each in log if isinstance(each, ModelResult)] == sorted(
        {each.step for each in log if isinstance(each, ModelIntent)}
    )


def outcomes(log: list[AnyEvent]) -> list[str]:
    return [each.outcome for each in log if isinstance(each, ToolResult)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    assert bench.start() == "finished completed"
    return bench


@pytest.fixture
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with killing.folder_for(request, tmp_path) as folder:
        yield Bench(folder)


async def test_without_a_crash_every_call_runs_once(undisturbed: Bench) -> None:
    log = await undisturbed.log()
    check(log, undisturbed.keys())
    assert len(undisturbed.keys()) == len(set(undisturbed.keys())) == 5
    assert set(outcomes(log)) == {"ok"}


@killing.BOTH
async def test_killed_before_the_input_is_committed_a_retry_makes_one_turn(
    bench: Bench, undisturbed: Bench
) -> None:
    left, _ = await bench.crash_and_finish("before ConversationStarted+ResponseAccepted")
    assert left == []
    assert bench.prompts() == undisturbed.prompts()


@killing.BOTH
async def test_killed_after_the_commit_the_retry_finds_the_same_turn(
    bench: Bench, undisturbed: Bench
) -> None:
    left, _ = await bench.crash_and_finish("after ConversationStarted+ResponseAccepted")
    assert [type(each) for each in left][-1] is ResponseAccepted
    assert bench.prompts() == undisturbed.prompts()


@killing.BOTH
async def test_killed_during_the_stream_what_was_delivered_stays_and_is_superseded(
    bench: Bench, undisturbed: Bench
) -> None:
    left, log = await bench.crash_and_finish("streamed")
    assert isinstance(left[-1], OutputDelta)
    assert log[: len(left)] == left
    superseded = log[len(left)]
    assert isinstance(superseded, ModelFailed)
    assert superseded.superseded
    assert superseded.wasted_tokens > 0
    again = log[len(left) + 1]
    assert isinstance(again, ModelIntent)
    assert (again.step, again.attempt) == (1, 2)
    assert bench.prompts() == undisturbed.prompts()


@killing.BOTH
async def test_killed_before_the_answer_is_journaled_it_is_sampled_again_and_no_tool_has_run(
    bench: Bench, undisturbed: Bench
) -> None:
    left, _ = await bench.crash_and_finish("before ModelResult+ToolIntent")
    assert not [each for each in left if isinstance(each, ModelResult | ToolIntent)]
    assert len(bench.lines("prompts")) == len(undisturbed.lines("prompts")) + 1
    assert list(map(first_attempt, bench.keys())) == undisturbed.keys()
    assert bench.prompts() == undisturbed.prompts()


@killing.BOTH
async def test_killed_with_the_intent_journaled_an_idempotent_tool_runs_once(
    bench: Bench, undisturbed: Bench
) -> None:
    left, log = await bench.crash_and_finish("after ModelResult+ToolIntent")
    assert isinstance(left[-1], ToolIntent)
    assert bench.keys() == undisturbed.keys()
    assert set(outcomes(log)) == {"ok"}
    assert bench.prompts() == undisturbed.prompts()


@killing.BOTH
async def test_killed_after_an_idempotent_tool_ran_it_repeats_with_its_key(
    bench: Bench, undisturbed: Bench
) -> None:
    _, log = await bench.crash_and_finish("tool ran 0")
    first = bench.keys()[0]
    assert bench.keys().count(first) == 2
    intents = [each for each in log if isinstance(each, ToolIntent) and each.key == first]
    assert [each.attempt for each in intents] == [1, 2]
    assert bench.prompts() == undisturbed.prompts()


@killing.BOTH
@pytest.mark.parametrize("stop", ["tool started 2", "tool ran 2"])
async def test_killed_inside_any_other_tool_its_outcome_is_unknown_and_it_never_runs_again(
    bench: Bench, undisturbed: Bench, stop: str
) -> None:
    _, log = await bench.crash_and_finish(stop)
    assert outcomes(log).count("outcome_unknown") == 1
    assert sum(line["tool"] == "count_blindly" for line in bench.lines("ledger")) == (
        1 if stop == "tool ran 2" else 0
    )
    told = bench.prompts()[3].pop()
    assert "outcome_unknown" in told
    for turn in (0, 1, 2):
        assert bench.prompts()[turn] == undisturbed.prompts()[turn]


@killing.BOTH
async def test_killed_with_one_of_two_parallel_calls_done_only_the_other_is_dealt_with(
    bench: Bench, undisturbed: Bench
) -> None:
    left, log = await bench.crash_and_finish("slow ran 1")
    assert isinstance(left[-1], ToolResult)
    assert left[-1].outcome == "ok"
    done_key = f"conv_1:{left[-1].step}:{left[-1].call_id}"
    assert bench.keys().count(done_key) == 1
    assert outcomes(log).count("outcome_unknown") == 1  # the slow one, which is unsafe
    assert bench.prompts()[1] == undisturbed.prompts()[1]


@killing.BOTH
@pytest.mark.parametrize("stop", ["before ToolResult+ModelIntent", "after ToolResult+ModelIntent"])
async def test_killed_around_a_result_the_next_prompt_has_the_same_bytes(
    bench: Bench, undisturbed: Bench, stop: str
) -> None:
    _, log = await bench.crash_and_finish(stop)
    assert set(outcomes(log)) == {"ok"}
    assert bench.prompts() == undisturbed.prompts()
    bodies = [line["body"] for line in bench.lines("prompts") if line["turn"] == 1]
    expected = [line["body"] for line in undisturbed.lines("prompts") if line["turn"] == 1]
    assert set(bodies) == set(expected), "the very next prompt, byte for byte"


@killing.BOTH
async def test_killed_around_the_final_answer_there_is_one_answer(bench: Bench) -> None:
    _, log = await bench.crash_and_finish("before ModelRouted+ModelResult+ResponseFinished")
    assert sum(isinstance(each, ResponseFinished) for each in log) == 1


@pytest.mark.parametrize("bench", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    "point",
    ["before ModelResult+ToolIntent", "before ToolResult+ModelIntent", "before ModelRouted"],
)
async def test_a_worker_that_was_frozen_beyond_its_lease_stores_and_does_nothing_more(
    bench: Bench, undisturbed: Bench, point: str
) -> None:
    with bench.running(killing.FREEZE + point) as zombie:
        assert zombie.until("frozen").startswith(f"frozen {point}")
        assert bench.start() == "finished completed"  # another worker, once the lease has run out
        log, ledger, prompts = await bench.log(), bench.lines("ledger"), bench.lines("prompts")
        zombie.thaw()
        assert zombie.until("finished") == "finished completed"
    check(log, bench.keys())
    assert await bench.log() == log
    assert bench.lines("ledger") == ledger
    assert bench.lines("prompts") == prompts
    assert bench.prompts() == undisturbed.prompts()


class FileDisk:
    """What SQLite writes to: full for the child alone."""

    async def fill(self, child: killing.Child) -> None:
        child.limit_files(4096)

    async def free(self, child: killing.Child) -> None:
        with suppress(ProcessLookupError):  # a dead one has its limit no more
            child.limit_files(2**40)


@dataclass
class DatabaseDisk:
    """What PostgreSQL writes to, whoever asks it to."""

    server: SmallServer
    url: str

    async def fill(self, _: killing.Child) -> None:
        await self.server.fill(self.url)

    async def free(self, _: killing.Child) -> None:
        await asyncio.to_thread(self.server.free)


@pytest.fixture(params=["sqlite", "postgres"])
async def disk(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[FileDisk | DatabaseDisk]:
    """The one that the bench's journal lies on."""
    if request.param == "sqlite":
        yield FileDisk()
        return
    server = await asyncio.to_thread(SmallServer)
    try:
        async with killing.database_in(tmp_path, server) as url:
            yield DatabaseDisk(server, url)
    finally:
        await asyncio.to_thread(server.close)


@pytest.mark.parametrize("healed", [True, False], ids=["healed", "killed"])
async def test_while_the_disk_is_full_no_effect_begins_and_nothing_is_lost(
    disk: FileDisk | DatabaseDisk, bench: Bench, undisturbed: Bench, healed: bool
) -> None:
    decided = "ModelResult+ToolIntent"
    with bench.running(f"{killing.FREEZE}before {decided}") as child:
        assert child.until("frozen").startswith("frozen")
        await disk.fill(child)
        child.thaw()
        assert child.until("refused") == f"refused {decided}"
        assert bench.keys() == []
        if healed:
            await disk.free(child)
            assert child.until("finished") == "finished completed"
    if not healed:
        await disk.free(child)
        assert not [each for each in await bench.log() if isinstance(each, ToolIntent)]
        assert bench.start() == "finished completed"
    check(await bench.log(), bench.keys())
    assert list(map(first_attempt, bench.keys())) == undisturbed.keys()
    assert bench.prompts() == undisturbed.prompts()


@killing.BOTH_IN_FULL
async def test_a_run_that_is_killed_fifteen_times_at_random_still_completes(
    bench: Bench,
) -> None:
    choose = random.Random(20261122)
    bench.turns = 18
    kills = 0
    results: dict[str, ToolResult] = {}
    while kills < 15:
        last = bench.start(str(choose.randint(3, 14)))
        if last.startswith("finished"):
            break
        assert last.startswith("stopped"), last
        kills += 1
        log = await bench.log()
        known = {each.call_id: each for each in log if isinstance(each, ToolResult)}
        assert results.items() <= known.items(), "a result was lost or changed"
        results = known
    assert kills == 15
    assert bench.start() == "finished completed"
    check(await bench.log(), bench.keys())
