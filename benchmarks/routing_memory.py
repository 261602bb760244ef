"""What the router remembers, in bytes: `python -m benchmarks.routing --memory`.

The real parser, identity and scheduler, with an eighth of the default capacities, see eight times
as many sessions as `router.max_sessions` allows (200,000), two turns each, by two front doors: one
is given ids, the other finds the sessions by their prefixes. Resident memory of this process is
read on the way: it grows until all tables are full, and then no more.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from benchmarks.harness.bars import Bar
from benchmarks.routing_ours import Bodies, Ours
from benchmarks.routing_workload import Message, Session, Turn
from benchmarks.routing_world import MODEL, Arrival, World
from benchmarks.virtual_time import in_virtual_time
from router.peers.memory import Room
from serving.config.model import SimulatorConfig
from serving.config.router import RouterConfig, WarmthConfig
from serving.protocol import CHAT, Usage

REPLICAS = 8
TOKENS = (500, 120, 120)
"""Of the messages: a system prompt that all share, then the session's own."""
STEPS = 8
"""How often memory is read."""
TIMES = 8
"""The capacity is exceeded so many times."""
FULL = 4
"""All tables are full by then: some hold more entries than there may be sessions."""
GROWS_BY = 1.05
"""From then on. What grew with the sessions would double."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory after so many sessions."""

    sessions: int
    grown_bytes: int
    """Both front doors together."""

    @property
    def bytes_per_session(self) -> float:
        """In one front door."""
        return self.grown_bytes / self.sessions / 2


@dataclass(frozen=True, slots=True)
class Memory:
    """All readings."""

    capacity: int
    readings: tuple[Reading, ...]

    @property
    def full(self) -> Reading:
        """The first one with all tables full."""
        return next(r for r in self.readings if r.sessions >= FULL * self.capacity)

    def bar(self) -> Bar:
        """Twice as many sessions take no more."""
        first, last = self.full, self.readings[-1]
        what = f"memory after {last.sessions:,} sessions ÷ after {first.sessions:,}, tables full"
        return Bar(what, last.grown_bytes / first.grown_bytes, GROWS_BY)


class _Bodies(Bodies):
    """Made for the moment: what is measured is the router's memory, not ours."""

    def request(self, arrival: Arrival) -> tuple[str, bytes]:
        texts = []
        for i in arrival.turn.messages:
            name = f"{arrival.session.key}/{i}" if i else "the system prompt"
            texts.append(self.text(Message(name, TOKENS[i]), i))
        return CHAT, b'{"model":"%s","messages":[%s]}' % (MODEL.encode(), b",".join(texts))


def measure(sessions: int = 0, told: Callable[[int, int], None] = lambda done, of: None) -> Memory:
    """Play so many sessions (0: as many as fit by default); `told` hears how far it is."""
    usual = RouterConfig()
    sessions = sessions or usual.max_sessions
    share = usual.max_sessions // (sessions // TIMES)
    knobs = RouterConfig(
        max_sessions=sessions // TIMES,
        warmth=WarmthConfig(max_nodes=usual.warmth.max_nodes // share),
    )
    return in_virtual_time(_play(sessions, knobs, told))


async def _play(sessions: int, knobs: RouterConfig, told: Callable[[int, int], None]) -> Memory:
    # So large that the index of what engines hold is bounded by its own capacity, not theirs.
    world = World(REPLICAS, SimulatorConfig(capacity_tokens=100_000_000, block_tokens=512))
    bodies = _Bodies(block_tokens=16)
    doors = [Ours(world, bodies, Room(), ids=ids, knobs=knobs) for ids in (True, False)]
    turns = [Turn(0.0, sum(TOKENS[:n]), 20, (), tuple(range(n))) for n in range(2, len(TOKENS) + 1)]
    gc.collect()
    before = psutil.Process().memory_info().rss
    readings = []
    for i in range(1, sessions + 1):
        session = Session(f"session-{i}", (), ())
        for turn in turns:
            for door in doors:
                with door.open(Arrival(session, turn)) as ticket:
                    await ticket.place(())
                    ticket.began()
                    ticket.ended(Usage(turn.prompt_tokens, 0, turn.output_tokens))
        if i % (sessions // STEPS) == 0:
            told(i, sessions)
            gc.collect()
            grown = psutil.Process().memory_info().rss - before
            readings.append(Reading(i, grown))
            await asyncio.sleep(1)
    return Memory(knobs.max_sessions, tuple(readings))
