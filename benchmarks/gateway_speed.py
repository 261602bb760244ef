"""Gateway benchmark, what a request costs: one client, streams, a crowd; all doors by turns.

    1 client     p50, p99 of whole answers; first byte, whole stream and longest gap of SSE streams
    64 clients   requests a second; CPU of the door's process for each

Each round asks every door, the next round in another order, so that a noisy minute falls on all
alike. Ratios are taken within the run.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import gateway_client as clients
from benchmarks.gateway_doors import Door
from benchmarks.harness.stats import percentile

BODY_BYTES = 20_000
SESSIONS = 64
STALL_S = 0.040


@dataclass(frozen=True)
class Figures:
    """What one door showed; microseconds, medians unless named otherwise."""

    answer_p50_us: float
    answer_p99_us: float
    first_byte_us: float
    stream_us: float
    longest_gap_p50_us: float
    longest_gap_max_us: float
    pieces_p50: float
    """In how many pieces a stream of 33 events came: one that holds chunks back sends few."""
    stalls: int
    """Streams with a silence of 40 ms or more: what Nagle's algorithm costs."""
    requests_per_s: float
    """With 64 clients."""
    cpu_us: float | None
    """Of the door's processes, for each of these requests; None when the engine is asked."""


class Target:
    """A door with ready-made requests, and what it has shown so far."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.whole, self.stream = (
            [
                clients.chat_request(door.model, clients.conversation(i, BODY_BYTES), stream=stream)
                for i in range(SESSIONS)
            ]
            for stream in (False, True)
        )
        self.answers: list[clients.Timing] = []
        self.streams: list[clients.Timing] = []
        self.crowd_requests = 0
        self.crowd_s = 0.0
        self.crowd_cpu_s = 0.0

    async def warm(self) -> None:
        await self.lone(self.whole, 1000, [])
        await self.lone(self.stream, 200, [])

    async def round(self) -> None:
        """200 whole answers and 100 streams, one after the other, then a crowd."""
        await self.lone(self.whole, 200, self.answers)
        await self.lone(self.stream, 100, self.streams)
        await self.crowd(2048)

    async def lone(self, requests: Sequence[bytes], count: int, into: list[clients.Timing]) -> None:
        client = await clients.connect(self.door.port)
        for i in range(count):
            timing = await client.request(requests[i % SESSIONS])
            if timing.status != 200:
                raise SystemExit(
                    f"{self.door.name} answered {timing.status}: {timing.body[:500]!r}"
                )
            into.append(timing)
        client.close()

    async def crowd(self, count: int) -> None:
        crowd = [await clients.connect(self.door.port) for _ in range(SESSIONS)]

        async def work(i: int) -> None:
            for _ in range(count // SESSIONS):
                timing = await crowd[i].request(self.whole[i])
                if timing.status != 200:
                    raise SystemExit(f"{self.door.name} answered {timing.status}")

        before = self.door.cpu_s()
        started = time.perf_counter()
        await asyncio.gather(*(work(i) for i in range(SESSIONS)))
        self.crowd_s += time.perf_counter() - started
        self.crowd_cpu_s += self.door.cpu_s() - before
        self.crowd_requests += count // SESSIONS * SESSIONS
        for client in crowd:
            client.close()

    def figures(self) -> Figures:
        answers = [t.total_s * 1e6 for t in self.answers]
        gaps = [t.longest_gap_s * 1e6 for t in self.streams]
        return Figures(
            answer_p50_us=statistics.median(answers),
            answer_p99_us=percentile(answers, 0.99),
            first_byte_us=statistics.median(t.first_byte_s * 1e6 for t in self.streams),
            stream_us=statistics.median(t.total_s * 1e6 for t in self.streams),
            longest_gap_p50_us=statistics.median(gaps),
            longest_gap_max_us=max(gaps),
            pieces_p50=statistics.median(t.pieces for t in self.streams),
            stalls=sum(max(t.first_byte_s, t.longest_gap_s) >= STALL_S for t in self.streams),
            requests_per_s=self.crowd_requests / self.crowd_s,
            cpu_us=self.crowd_cpu_s / self.crowd_requests * 1e6 if self.door.process else None,
        )


async def measure(
    targets: Sequence[Target], rounds: int, tick: Callable[[], None]
) -> dict[str, Figures]:
    """Every door's figures, by name."""
    for target in targets:
        await target.warm()
    for i in range(rounds):
        shift = i % len(targets)
        for target in (*targets[shift:], *targets[:shift]):
            await target.round()
            tick()
    return {target.door.name: target.figures() for target in targets}
