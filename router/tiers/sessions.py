"""Where each session's main chain is, what it has cost, and what its last request was. Bounded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from router.tiers.history import Kind
from serving.tables.base import Tier


@dataclass(slots=True)
class Chain:
    """One session."""

    current: Tier | None = None
    """The tier that has the session's main chain; None before its first turn."""
    trying: bool = False
    """The session was picked to try the small model."""
    turns: int = 0
    spent_usd: float = 0.0
    asked: bytes = b""
    """Digest of the last request that was answered."""
    answered: tuple[Kind, Tier] | None = None
    """What that one was, and who answered it."""
    prompt_tokens: int = 0
    """Of the last answered turn; 0 where the engine did not say."""


class StoredChain(msgspec.Struct, array_like=True, frozen=True):
    """What of a session outlives its front door."""

    tenant: str
    session: bytes
    current: Tier | None
    turns: int
    spent_usd: float


class Chains:
    """Sessions by key; the least recently used go first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._chains: OrderedDict[tuple[str, bytes], Chain] = OrderedDict()
        self.version = 0
        """Changes when a session has a turn."""

    def rows(self) -> list[StoredChain]:
        """The least recently used first."""
        return [
            StoredChain(tenant, session, chain.current, chain.turns, chain.spent_usd)
            for (tenant, session), chain in self._chains.items()
            if chain.turns or chain.spent_usd
        ]

    def restore(self, rows: list[StoredChain]) -> None:
        """Of an earlier start; what has come since then is newer."""
        since, self._chains = self._chains, OrderedDict()
        for row in rows:
            chain = self.of(row.tenant, row.session)
            chain.current, chain.turns, chain.spent_usd = row.current, row.turns, row.spent_usd
        for key, chain in since.items():
            self._chains[key] = chain
            self._chains.move_to_end(key)

    def __len__(self) -> int:
        return len(self._chains)

    def of(self, tenant: str, session: bytes) -> Chain:
        """Made where there is none. Two tenants with the same session id have two."""
        self.version += 1
        key = tenant, session
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = Chain()
            while len(self._chains) > self._capacity:
                self._chains.popitem(last=False)
        self._chains.move_to_end(key)
        return chain


class Answered(msgspec.Struct, frozen=True):
    """A request whose outcome may be reported."""

    tenant: str
    kind: Kind
    tier: Tier
    seen: bool | None
    """What was concluded so far; None: nothing."""
    weight: float = 0.0
    """... and what that counted."""


class Recent:
    """Answers by request id, the oldest gone first; each can be reported once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._answered: OrderedDict[tuple[str, str], Answered] = OrderedDict()
        self._responses: OrderedDict[tuple[str, str], list[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answered)

    def add(self, request_id: str, answered: Answered, *, response: str = "") -> None:
        """`response`: the agent's response that the answer is a step of."""
        self._answered[answered.tenant, request_id] = answered
        if response:
            self._responses.setdefault((answered.tenant, response), []).append(request_id)
        while len(self._answered) > self._capacity:
            self._answered.popitem(last=False)
        while len(self._responses) > self._capacity:
            self._responses.popitem(last=False)

    def find(self, tenant: str, request_id: str) -> Answered | None:
        """One that nobody has reported."""
        return self._answered.get((tenant, request_id))

    def concluded(self, request_id: str, answered: Answered) -> None:
        """More is known of it than before."""
        self._answered[answered.tenant, request_id] = answered

    def take(self, tenant: str, name: str) -> list[Answered]:
        """Of a request, or of all of a response; empty where the name is unknown, another
        tenant's, too old or reported before."""
        names = self._responses.pop((tenant, name), [name])
        found = [self._answered.pop((tenant, each), None) for each in names]
        return [each for each in found if each is not None]
