"""What may be asked of the PostgreSQL journal's writer, and in which order it does it.

Operations of one conversation keep their order; those of different ones may change places. So the
n-th operation of each conversation in a batch is in round n, and a round is few statements.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.journal.base import Account, Lease
from orchestrator.loop.events import AnyEvent, ResponseAccepted, ResponseFinished
from serving.errors import WarmloopError


@dataclass(slots=True, eq=False)
class Operation:
    """Something for the writer, and the future of whoever waits for it."""

    conversation: str
    future: asyncio.Future[Any]
    result: Any = None
    error: WarmloopError | None = None
    durable = True


@dataclass(slots=True, eq=False)
class Grant(Operation):
    owner: str = ""
    ttl_s: float = 0.0
    has_moved: bool = False
    """Somebody else has the conversation, or may have had it: what memory has of it may be old."""


@dataclass(slots=True, eq=False, kw_only=True)
class Held(Operation):
    lease: Lease


@dataclass(slots=True, eq=False, kw_only=True)
class Release(Held):
    wake_at: float = 0.0


@dataclass(slots=True, eq=False, kw_only=True)
class Purge(Held):
    seqs: Sequence[int]
    payloads: Sequence[str]
    responses: Sequence[str]
    whole: bool


@dataclass(slots=True, eq=False, kw_only=True)
class Append(Held):
    events: Sequence[AnyEvent]
    payloads: Sequence[str]
    durable: bool
    first_seq: int = 0
    known: int = 0
    """Events that turned out to be stored already."""
    account: Account | None = None
    """Where it is counted what they spend; None: nowhere."""

    @property
    def is_plain(self) -> bool:
        """Does it leave the index of responses as it is?"""
        return not any(isinstance(e, ResponseAccepted | ResponseFinished) for e in self.events)


@dataclass(slots=True)
class Round:
    grants: list[Grant] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)
    others: list[Held] = field(default_factory=list)


def rounds_of(batch: Iterable[Operation]) -> list[Round]:
    rounds: list[Round] = []
    seen: Counter[str] = Counter()
    for operation in batch:
        number = seen[operation.conversation]
        seen[operation.conversation] += 1
        if number == len(rounds):
            rounds.append(Round())
        if isinstance(operation, Grant):
            rounds[number].grants.append(operation)
        elif isinstance(operation, Append):
            rounds[number].appends.append(operation)
        elif isinstance(operation, Held):
            rounds[number].others.append(operation)
    return rounds
