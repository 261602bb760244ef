"""What our front door adds to a request: `python -m benchmarks.gateway [--json FILE]`.

A trivial engine is asked directly and through the front door, by turns, in one run, with chat
requests of 20 KB that say `model: auto` (so that every decision and the alias rewrite are made):

    1 client     p50 of whole answers; first byte, whole stream and longest gap of SSE streams
    64 clients   requests a second; CPU of the front door's process for each

Ratios and differences of one run mean something; absolute figures hold for a quiet machine only.
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
from collections.abc import Callable, Iterator
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
BAR_ADDED_P50_S = 0.0005


@dataclass(frozen=True)
class Lone:
    """One client at a time; times in microseconds, medians unless named otherwise."""

    answer_p50_us: float
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
    """Of the front door's process, for each request; None when asked directly."""


class Target:
    """A port to send to: the engine's or the front door's, with ready-made requests."""

    def __init__(self, port: int, model: str) -> None:
        self.port = port
        self.whole = [
            parts.request_bytes(model, i, size=BODY_BYTES, stream=False) for i in range(SESSIONS)
        ]
        self.stream = [
            parts.request_bytes(model, i, size=BODY_BYTES, stream=True) for i in range(SESSIONS)
        ]
        self.answers: list[parts.Timing] = []
        self.streams: list[parts.Timing] = []
        self.crowd_requests = 0
        self.crowd_s = 0.0
        self.crowd_cpu_s = 0.0

    async def lone(self, requests: list[bytes], count: int, into: list[parts.Timing]) -> None:
        client = await parts.connect(self.port)
        for i in range(count):
            timing = await client.request(requests[i % SESSIONS])
            if timing.status != 200:
                raise SystemExit(f"port {self.port} answered {timing.status}")
            into.append(timing)
        client.close()

    async def crowd(self, count: int, process: psutil.Process | None) -> None:
        clients = [await parts.connect(self.port) for _ in range(SESSIONS)]

        async def work(i: int) -> None:
            for _ in range(count // SESSIONS):
                await clients[i].request(self.whole[i])

        before = _cpu_s(process)
        started = time.perf_counter()
        await asyncio.gather(*(work(i) for i in range(SESSIONS)))
        self.crowd_s += time.perf_counter() - started
        self.crowd_cpu_s += _cpu_s(process) - before
        self.crowd_requests += count // SESSIONS * SESSIONS
        for client in clients:
            client.close()

    def summary(self) -> tuple[Lone, Crowd]:
        answers = sorted(t.total_s * 1e6 for t in self.answers)
        gaps = [t.longest_gap_s * 1e6 for t in self.streams]
        lone = Lone(
            answer_p50_us=statistics.median(answers),
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


async def measure(
    direct: Target, through: Target, front: psutil.Process, rounds: int, tick: Callable[[], None]
) -> None:
    """By turns, so that a noisy minute falls on both alike."""
    for target in (direct, through):
        warm: list[parts.Timing] = []
        await target.lone(target.whole, 1000, warm)
        await target.lone(target.stream, 200, warm)
    for _ in range(rounds):
        for target in (direct, through):
            await target.lone(target.whole, 200, target.answers)
            await target.lone(target.stream, 100, target.streams)
            await target.crowd(2048, front if target is through else None)
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


def _print(console: Console, direct: tuple[Lone, Crowd], through: tuple[Lone, Crowd]) -> None:
    table = Table(title=f"Forwarding, {BODY_BYTES // 1000} KB requests")
    for column in ("what", "direct", "through", "added"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for label, name in (
        ("whole answer, p50", "answer_p50_us"),
        ("whole answer, p99", "answer_p99_us"),
        (f"SSE of {parts.EVENTS}: first byte, p50", "first_byte_us"),
        (f"SSE of {parts.EVENTS}: whole stream, p50", "stream_us"),
        ("SSE longest gap, p50", "longest_gap_p50_us"),
        ("SSE longest gap, worst", "longest_gap_max_us"),
    ):
        a, b = getattr(direct[0], name), getattr(through[0], name)
        table.add_row(label, f"{a:,.0f} µs", f"{b:,.0f} µs", f"{b - a:+,.0f} µs")
    table.add_row("SSE streams with a 40 ms stall", str(direct[0].stalls), str(through[0].stalls))
    a, b = direct[1].requests_per_s, through[1].requests_per_s
    table.add_row(f"{SESSIONS} clients", f"{a:,.0f}/s", f"{b:,.0f}/s", f"{b / a:.0%}")
    table.add_row(f"{SESSIONS} clients: CPU a request", "", f"{through[1].cpu_us or 0:,.0f} µs")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="more rounds, steadier figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--front", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        parts.run_engine()
        return 0
    if options.front:
        parts.run_front_door(options.front)
        return 0
    console = Console()
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        engine_port, _ = stack.enter_context(_child(log, "--engine"))
        front_port, front = stack.enter_context(
            _child(log, "--front", f"http://127.0.0.1:{engine_port}")
        )
        _wait_ready(front_port)
        direct, through = Target(engine_port, "bench-engine"), Target(front_port, "auto")
        progress = stack.enter_context(Progress(console=console, transient=True))
        task = progress.add_task("asking, direct and through", total=2 * options.rounds)
        uvloop.run(measure(direct, through, front, options.rounds, lambda: progress.advance(task)))
    results = direct.summary(), through.summary()
    _print(console, *results)
    added_s = (results[1][0].answer_p50_us - results[0][0].answer_p50_us) / 1e6
    stalls = results[1][0].stalls
    fine = added_s <= BAR_ADDED_P50_S and stalls <= results[0][0].stalls
    console.print(
        f"bar: added p50 at most {BAR_ADDED_P50_S * 1e3:.1f} ms with one client, "
        f"and no stall of ours: {'reached' if fine else 'MISSED'}"
    )
    if options.json:
        load = os.getloadavg()[0]
        figures = {
            name: {"one_client": asdict(lone), f"{SESSIONS}_clients": asdict(crowd)}
            for name, (lone, crowd) in zip(("direct", "through"), results, strict=True)
        }
        text = json.dumps({**figures, "cpus": os.cpu_count(), "load_1m": load}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
