"""What our front door adds to a request: `python -m benchmarks.gateway [--json FILE]`.

A trivial engine is asked directly and through the front door, by turns, in one run, with chat
requests of 20 KB that say `model: auto` (so that every decision and the alias rewrite are made):

    1 client     p50 of whole answers; first byte, whole stream and longest gap of SSE streams
    64 clients   requests a second; CPU of the proxy's process for each

A third column is a yardstick: an aiohttp proxy that decides nothing. Compare columns of one run;
absolute figures hold for a quiet machine only. The bar is held against the p50 of all rounds; the
quietest round's (of 200 requests each way) is printed beside it, since neighbours only add time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import gateway_parts as parts

BODY_BYTES = 20_000
SESSIONS = 64
STALL_S = 0.040
BAR_ADDED_P50_US = 500


@dataclass(frozen=True)
class Lone:
    """One client at a time; times in microseconds, medians unless named otherwise."""

    answer_p50_us: float
    answer_quiet_p50_us: float
    """The p50 of the round in which it was least."""
    answer_p99_us: float
    first_byte_us: float
    stream_us: float
    longest_gap_p50_us: float
    longest_gap_max_us: float
    stalls: int
    """Streams with a gap of 40 ms or more: what Nagle's algorithm costs."""


@dataclass(frozen=True)
class Crowd:
    """64 clients at once."""

    requests_per_s: float
    cpu_us: float | None
    """Of the proxy's process, for each request; None when asked directly."""


class Target:
    """A port to send to: the engine's or the front door's, with ready-made requests."""

    def __init__(self, port: int, model: str, process: psutil.Process | None = None) -> None:
        self.port = port
        self.process = process
        self.whole = [
            parts.request_bytes(model, i, size=BODY_BYTES, stream=False) for i in range(SESSIONS)
        ]
        self.stream = [
            parts.request_bytes(model, i, size=BODY_BYTES, stream=True) for i in range(SESSIONS)
        ]
        self.answers: list[parts.Timing] = []
        self.round_p50s: list[float] = []
        self.streams: list[parts.Timing] = []
        self.crowd_requests = 0
        self.crowd_s = 0.0
        self.crowd_cpu_s = 0.0

    async def round(self) -> None:
        """200 whole answers and 100 streams, one after the other, then a crowd."""
        timings: list[parts.Timing] = []
        await self.lone(self.whole, 200, timings)
        self.answers += timings
        self.round_p50s.append(statistics.median(t.total_s for t in timings))
        await self.lone(self.stream, 100, self.streams)
        await self.crowd(2048)

    async def lone(self, requests: list[bytes], count: int, into: list[parts.Timing]) -> None:
        client = await parts.connect(self.port)
        for i in range(count):
            timing = await client.request(requests[i % SESSIONS])
            if timing.status != 200:
                raise SystemExit(f"port {self.port} answered {timing.status}")
            into.append(timing)
        client.close()

    async def crowd(self, count: int) -> None:
        clients = [await parts.connect(self.port) for _ in range(SESSIONS)]

        async def work(i: int) -> None:
            for _ in range(count // SESSIONS):
                await clients[i].request(self.whole[i])

        before = _cpu_s(self.process)
        started = time.perf_counter()
        await asyncio.gather(*(work(i) for i in range(SESSIONS)))
        self.crowd_s += time.perf_counter() - started
        self.crowd_cpu_s += _cpu_s(self.process) - before
        self.crowd_requests += count // SESSIONS * SESSIONS
        for client in clients:
            client.close()

    def summary(self) -> tuple[Lone, Crowd]:
        answers = sorted(t.total_s * 1e6 for t in self.answers)
        gaps = [t.longest_gap_s * 1e6 for t in self.streams]
        lone = Lone(
            answer_p50_us=statistics.median(answers),
            answer_quiet_p50_us=min(self.round_p50s) * 1e6,
            answer_p99_us=answers[int(len(answers) * 0.99)],
            first_byte_us=statistics.median(t.first_byte_s * 1e6 for t in self.streams),
            stream_us=statistics.median(t.total_s * 1e6 for t in self.streams),
            longest_gap_p50_us=statistics.median(gaps),
            longest_gap_max_us=max(gaps),
            stalls=sum(t.longest_gap_s >= STALL_S for t in self.streams),
        )
        cpu = self.crowd_cpu_s / self.crowd_requests * 1e6 if self.crowd_cpu_s else None
        return lone, Crowd(self.crowd_requests / self.crowd_s, cpu)


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _child(stderr: IO[bytes], *arguments: str) -> Iterator[tuple[int, psutil.Process]]:
    """A part of the benchmark in a process of its own, ended with the block."""
    argv = [sys.executable, "-m", "benchmarks.gateway", *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                stderr.seek(0)
                raise SystemExit(f"{arguments[0]} did not start:\n{stderr.read()[-2000:].decode()}")
            yield int(line), psutil.Process(process.pid)
        finally:
            process.terminate()


async def measure(targets: Sequence[Target], rounds: int, tick: Callable[[], None]) -> None:
    """By turns, so that a noisy minute falls on all alike."""
    for target in targets:
        warm: list[parts.Timing] = []
        await target.lone(target.whole, 1000, warm)
        await target.lone(target.stream, 200, warm)
    for _ in range(rounds):
        for target in targets:
            await target.round()
            tick()


def _wait_ready(port: int) -> None:
    """The front door listens before it has found its engine."""

    async def ask() -> int:
        client = await parts.connect(port)
        timing = await client.request(b"GET /ready HTTP/1.1\r\nhost: bench\r\n\r\n")
        client.close()
        return timing.status

    deadline = time.monotonic() + 30
    while uvloop.run(ask()) != 200:
        if time.monotonic() > deadline:
            raise SystemExit("the front door found no engine within 30 s")
        time.sleep(0.1)


def _print(console: Console, results: Mapping[str, tuple[Lone, Crowd]]) -> None:
    direct, through = results["direct"], results["through"]
    table = Table(title=f"Forwarding, {BODY_BYTES // 1000} KB requests")
    for column in ("what", *results, "added"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for label, name in (
        ("whole answer, p50", "answer_p50_us"),
        ("whole answer, p50 of the quietest round", "answer_quiet_p50_us"),
        ("whole answer, p99", "answer_p99_us"),
        (f"SSE of {parts.EVENTS}: first byte, p50", "first_byte_us"),
        (f"SSE of {parts.EVENTS}: whole stream, p50", "stream_us"),
        ("SSE longest gap, p50", "longest_gap_p50_us"),
        ("SSE longest gap, worst", "longest_gap_max_us"),
    ):
        values = [getattr(lone, name) for lone, _ in results.values()]
        added = getattr(through[0], name) - getattr(direct[0], name)
        table.add_row(label, *(f"{value:,.0f} µs" for value in values), f"{added:+,.0f} µs")
    crowds = [crowd for _, crowd in results.values()]
    table.add_row(
        "SSE streams with a 40 ms stall", *(str(lone.stalls) for lone, _ in results.values())
    )
    table.add_row(f"{SESSIONS} clients", *(f"{c.requests_per_s:,.0f}/s" for c in crowds))
    table.add_row(
        f"{SESSIONS} clients: CPU a request",
        *(f"{c.cpu_us:,.0f} µs" if c.cpu_us else "" for c in crowds),
    )
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="more rounds, steadier figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--front", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--yardstick", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        parts.run_engine()
        return 0
    if options.front:
        parts.run_front_door(options.front)
        return 0
    if options.yardstick:
        parts.run_yardstick(options.yardstick)
        return 0
    console = Console()
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        engine_port, _ = stack.enter_context(_child(log, "--engine"))
        url = f"http://127.0.0.1:{engine_port}"
        front_port, front = stack.enter_context(_child(log, "--front", url))
        yard_port, yard = stack.enter_context(_child(log, "--yardstick", url))
        _wait_ready(front_port)
        targets = {
            "direct": Target(engine_port, "bench-engine"),
            "yardstick": Target(yard_port, "bench-engine", yard),
            "through": Target(front_port, "auto", front),
        }
        progress = stack.enter_context(Progress(console=console, transient=True))
        task = progress.add_task("asking", total=len(targets) * options.rounds)
        uvloop.run(measure([*targets.values()], options.rounds, lambda: progress.advance(task)))
    results = {name: target.summary() for name, target in targets.items()}
    _print(console, results)
    direct, through = results["direct"][0], results["through"][0]
    added_us = through.answer_p50_us - direct.answer_p50_us
    fine = added_us <= BAR_ADDED_P50_US and through.stalls <= direct.stalls
    load = os.getloadavg()[0]
    console.print(
        f"bar: added p50 at most {BAR_ADDED_P50_US} µs with one client ({added_us:.0f}), and no "
        f"stall of ours ({through.stalls}): {'reached' if fine else 'MISSED'}; "
        f"{os.cpu_count()} cores, load {load:.1f}"
    )
    if options.json:
        figures: dict[str, object] = {
            name: {"one_client": asdict(lone), f"{SESSIONS}_clients": asdict(crowd)}
            for name, (lone, crowd) in results.items()
        }
        text = json.dumps({**figures, "cpus": os.cpu_count(), "load_1m": load}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
