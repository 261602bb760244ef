"""What agents ask of engines, in numbers: a workload's turns, whoever made it.

    Workload (synthetic, or a trace) ──► demand() ──► Demand ──► capacity_model

Of a turn's prompt, `fresh` tokens are in no cache, however large; a `head` is what other sessions
begin with, too, and always warm; what lies between is the session's own, and warm if it has not
been driven out since the turn before.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.routing_workload import Session, Workload


@dataclass(frozen=True, slots=True)
class Ask:
    """One turn, in tokens and seconds."""

    prompt: int
    fresh: int
    head: int
    output: int
    think_s: float
    """Since the answer before it."""
    kept: int = 0
    """Of its own, what the session had in a cache while it thought: prompt and answer before."""

    @property
    def own(self) -> int:
        """... and what it has there from now on."""
        return max(0, self.prompt - self.head) + self.output

    @property
    def cold(self) -> int:
        """What is computed where only the head is left."""
        return max(self.fresh, self.prompt - self.head)


@dataclass(frozen=True, slots=True)
class Demand:
    """One workload."""

    name: str
    tasks: int
    asks: Sequence[Ask]
    heads: int
    """Tokens that all shared heads take together."""
    left: float
    """Of its own, what a task leaves in a cache when it ends: tokens, on average."""

    @property
    def turns(self) -> float:
        """Of a task, on average."""
        return len(self.asks) / self.tasks

    @property
    def think_s(self) -> float:
        return statistics.fmean(ask.think_s for ask in self.asks)

    @property
    def prompt(self) -> float:
        return statistics.fmean(ask.prompt for ask in self.asks)

    @property
    def fresh(self) -> float:
        return statistics.fmean(ask.fresh for ask in self.asks)

    @property
    def output(self) -> float:
        return statistics.fmean(ask.output for ask in self.asks)


def demand(workload: Workload) -> Demand:
    """Counted block by block, in the order of the sessions. Heads are what several begin with."""
    size = workload.block_tokens
    shared = _shared(workload.sessions)
    seen: set[int] = set()
    asks, left = [], 0
    for session in workload.sessions:
        own = 0
        for turn in session.turns:
            usable = turn.blocks[: (turn.prompt_tokens - 1) // size]
            hits = next((i for i, block in enumerate(usable) if block not in seen), len(usable))
            head = next((i for i, b in enumerate(usable) if b not in shared), len(usable))
            seen.update(turn.blocks[hits:])
            fresh = turn.prompt_tokens - hits * size
            ask = Ask(turn.prompt_tokens, fresh, head * size, turn.output_tokens, turn.think_s, own)
            asks.append(ask)
            own = ask.own
        left += own
    tasks = len(workload.sessions)
    return Demand(workload.name, tasks, asks, len(shared) * size, left / tasks)


def _shared(sessions: Sequence[Session]) -> set[int]:
    """Blocks that more than one session has."""
    found: Counter[int] = Counter()
    for session in sessions:
        found.update(set().union(*(turn.blocks for turn in session.turns)))
    return {block for block, times in found.items() if times > 1}
