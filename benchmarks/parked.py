"""What a conversation that waits costs: memory of the process, bytes on disk, time to start again.

    a session = a request, one model turn, a call of a tool whose answer comes tomorrow: the run is
                parked. It has no task, no lease, no state; the journal's index holds its wake_at.

Memory is what the process holds after all sessions are parked beyond what it held after the first
hundreds, by the system's count (RSS) and by Python's own (with --traced, on fewer sessions, since
counting is slow). Then the journal is closed and opened again by a new worker, which must not load
what waits, and one session is cancelled.

    python -m benchmarks.parked [--sessions N] [--traced N] [--dir DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from orchestrator.agents import Agents, resolve
from orchestrator.clock import SystemClock
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import Later, tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.acceptance import Admission
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig, AgentLimits

BAR_BYTES = 3 * 1024
DAY_S = 86_400.0
FIRST = 500
"""Sessions before memory is first looked at: code is loaded and pools are filled by then."""
AT_ONCE = 200
TEXT = "Please look into this tomorrow, and tell me what you found. " * 8


@dataclass(frozen=True, slots=True)
class Found:
    sessions: int
    rss_bytes_each: float
    traced_bytes_each: float
    disk_bytes_each: float
    parked_per_s: float
    start_s: float
    """A new worker on the journal: opened, recovered, ready."""
    started_runs: int
    cancel_s: float


class Waiting:
    """A worker over a journal in a file, with a tool that answers tomorrow."""

    def __init__(self, folder: Path, clock: SystemClock) -> None:
        self.clock = clock
        self.journal = SqliteJournal(folder / "journal.db", clock=clock)

        @tool(kind="pure")
        def look(n: int) -> Later:
            """Look tomorrow."""
            return Later(clock.now() + DAY_S, "looked")

        limits = AgentLimits(max_seconds=10 * DAY_S)
        config = AgentConfig(instructions="Look.", reply_tool=False, limits=limits)
        agents = Agents([resolve("desk", config, [from_function(look)])])
        self.model = ScriptedModel(script, keep_turns=False)
        self.worker = Worker(journal=self.journal, agents=agents, models=self.model, clock=clock)

    async def park(self, numbers: Iterable[int]) -> None:
        asking: list[asyncio.Task[Admission]] = []
        for number in numbers:
            while self.worker.active >= AT_ONCE:  # noqa: ASYNC110  it parks without a word
                await asyncio.sleep(0.001)
            name, now = f"conv_{number:032x}", self.clock.now()
            item = {"type": "message", "role": "user", "content": TEXT}
            asked = ResponseAccepted(f"resp_{number:032x}", now, [item], {"model": "desk"})
            start = ConversationStarted("desk@1", now)
            asking.append(asyncio.create_task(self.worker.accept(name, asked, start=start)))
            if len(asking) == AT_ONCE:
                await asyncio.gather(*asking)
                asking.clear()
        await asyncio.gather(*asking)
        while self.worker.active:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def script(turn: ModelTurn) -> Iterable[Scripted]:
    return says("done") if b"looked" in turn.body else calls(("look", {"n": 1}))


def rss() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def measure(sessions: int, folder: Path) -> Found:
    clock = SystemClock()
    waiting = Waiting(folder, clock)
    async with waiting.worker:
        await waiting.park(range(FIRST))
        before, began = rss(), time.perf_counter()
        await waiting.park(range(FIRST, FIRST + sessions))
        seconds = time.perf_counter() - began
        grown = rss() - before
        assert waiting.worker.active == 0
        assert len(await waiting.journal.due(clock.now() + 2 * DAY_S, FIRST)) == FIRST
    await waiting.journal.close()
    disk = (folder / "journal.db").stat().st_size
    began = time.perf_counter()
    again = Waiting(folder, clock)
    async with again.worker:
        start_s = time.perf_counter() - began
        started = again.worker.active
        began = time.perf_counter()
        await again.worker.cancel(f"resp_{0:032x}")
        cancel_s = time.perf_counter() - began
    await again.journal.close()
    return Found(
        sessions,
        grown / sessions,
        0.0,
        disk / (sessions + FIRST),
        sessions / seconds,
        start_s,
        started,
        cancel_s,
    )


async def traced(sessions: int, folder: Path) -> float:
    waiting = Waiting(folder, SystemClock())
    async with waiting.worker:
        await waiting.park(range(FIRST))
        gc.collect()
        tracemalloc.start()
        await waiting.park(range(FIRST, FIRST + sessions))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    await waiting.journal.close()
    return held / sessions


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parked",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--traced", type=int, default=0)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, run = Console(), Run("parked", options)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        found = asyncio.run(measure(options.sessions, Path(folder)))
    if options.traced:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            each = asyncio.run(traced(options.traced, Path(folder)))
        found = replace(found, traced_bytes_each=each)
    for line in said(found):
        console.print(line, highlight=False)
    bars = [Bar("memory of a parked session by RSS, bytes", found.rss_bytes_each, BAR_BYTES)]
    if options.json:
        run.write(options.json, found, bars)
    return conclude(console, bars)


def said(found: Found) -> list[str]:
    """What the bar does not hold."""
    lines = [
        f"{found.sessions:,} parked sessions, {found.parked_per_s:,.0f} parked a second",
        f"disk each: {found.disk_bytes_each:,.0f} B",
        f"a new worker starts in {found.start_s:.2f} s and loads {found.started_runs} of them",
        f"one of them is found, folded and cancelled in {1000 * found.cancel_s:.1f} ms",
    ]
    if found.traced_bytes_each:
        lines.append(f"memory each by tracemalloc: {found.traced_bytes_each:,.0f} B")
    return lines


if __name__ == "__main__":
    sys.exit(main())
