"""The durable seam: append, read, lease, fence. One contract, tested over every store.

Invariants that a store keeps:
- `(conversation, seq)` is unique and gapless from 1; an append is all or nothing.
- A durable append is fsynced before it returns. An append that is not durable is ordered with
  the others and at the latest made durable by the next durable one.
- An append carries the fencing token of a lease; a token older than the newest one granted for
  that conversation is refused with Fenced, whatever the clock says.
- Listeners hear of events after they are stored, in order.
- What is in the log stays as it is, with one exception: `purge` puts tombstones in the place of
  events, so that places and numbers stay.
- What events spend is counted once, in the transaction that stores them, where an account is named;
  it stays counted when they are purged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from orchestrator.loop.events import AnyEvent
from serving.errors import WarmloopError
from serving.spending import Spending


class Fenced(WarmloopError):
    """Another worker holds the conversation now; the caller must stop at once."""


class JournalFull(WarmloopError):
    """Nothing could be stored (disk full, database down); nothing was acknowledged."""


class JournalBusy(WarmloopError):
    """Another front door holds this journal; SQLite has one writer process."""

    exit_code = 2


class AlreadyAccepted(WarmloopError):
    """A response is already stored under this Idempotency-Key or id; nothing was stored now."""

    def __init__(self, ref: ResponseRef) -> None:
        super().__init__(f"already accepted as {ref.response_id}")
        self.ref = ref


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event at its place in the log."""

    seq: int
    event: AnyEvent


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one conversation until `expires_at` (Unix seconds)."""

    conversation: str
    owner: str
    token: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class ResponseRef:
    """Where a response lies: its conversation, and the seq of its ResponseAccepted."""

    response_id: str
    conversation: str
    first_seq: int


@dataclass(frozen=True, slots=True)
class Purgeable:
    """What a sweep may purge now."""

    responses: Sequence[ResponseRef] = ()
    """Ended, and not to be stored."""
    conversations: Sequence[str] = ()
    """Without news for longer than they are kept."""


class Account(msgspec.Struct, frozen=True, gc=False):
    """Where it is counted what is spent: whose, in which stretch of time, by which process."""

    tenant: str
    ends_at: float
    """Unix time of the stretch's end."""
    expires_at: float
    """From here on nobody asks for it any more."""
    writer: str
    """One life of a process."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a tenant has spent in a stretch of time."""

    tenant: str
    ends_at: float
    spending: Spending


class Journal(Protocol):
    """Conversations as append-only logs. All methods raise JournalFull when the store fails."""

    async def start(self) -> None:
        """Be ready; once, before anything else."""

    @property
    def overloaded(self) -> bool:
        """More waits to be stored than should: take on nothing new now."""

    async def append(
        self,
        lease: Lease,
        events: Sequence[AnyEvent],
        *,
        durable: bool = True,
        account: Account | None = None,
    ) -> int:
        """Store `events` after the last one, and count in `account` what they spend; returns the
        seq of the last.

        Raises Fenced, and AlreadyAccepted when one of them is a ResponseAccepted whose
        idempotency key has been used; then none is stored.
        """

    async def read(self, conversation: str, after: int = 0) -> list[Recorded]:
        """Events with seq > `after`, in order; an unknown conversation reads as empty."""

    async def lease(self, conversation: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or renew the lease; None while another owner's has not run out.

        A new grant gets a higher token; a renewal by the same owner keeps its token.
        """

    async def release(self, lease: Lease, *, wake_at: float = 0.0) -> None:
        """Give the lease up at once; a stale lease is ignored.

        What is unfinished in the conversation is not due before `wake_at` (Unix seconds), unless
        somebody takes the lease earlier.
        """

    async def find_response(self, response_id: str) -> ResponseRef | None:
        """Look a response up, unless it was purged; indexed with its ResponseAccepted."""

    async def find_idempotent(self, key: str) -> ResponseRef | None:
        """The response that was accepted under this Idempotency-Key."""

    async def due(self, now: float, limit: int) -> list[ResponseRef]:
        """Responses without an end that nobody runs and that need not wait any more, oldest
        first: no lease that is still valid at `now`, and no later `wake_at`."""

    async def next_wake(self, now: float) -> float | None:
        """The first `wake_at` after `now` of a response without an end."""

    async def asking(self, after: str, limit: int) -> list[str]:
        """Conversations that asked a person for more than was decided, the oldest first, from the
        one behind `after` on (empty: the first). Not all of it need still wait: their logs say."""

    async def present(self, conversations: Sequence[str]) -> list[str]:
        """Those of them that are there, and not gone for good; one question for all."""

    async def purge(
        self,
        lease: Lease,
        tombstones: Sequence[Recorded],
        responses: Sequence[str],
        *,
        whole: bool = False,
    ) -> None:
        """Put tombstones in place of events, and take responses out of the index, durably.

        `whole`: nothing of the conversation is left. Raises Fenced.
        """

    async def purgeable(self, *, ended_before: float, idle_before: float, limit: int) -> Purgeable:
        """Responses with `store: false` that ended before, and conversations whose newest news
        is older; at most `limit` of each."""

    async def spend(self, charges: Sequence[tuple[Account, Spending]]) -> None:
        """Count what was spent without an event."""

    async def spent(self, after: float, *, but_by: str) -> list[Spent]:
        """What was spent in stretches that end after that, but for what that writer has spent."""

    async def forget_spent(self, now: float) -> None:
        """Drop what has expired."""

    async def send(self, note: str) -> None:
        """Tell the other processes on this journal; a note may be lost."""

    def listen(self, heard: Callable[[str], object]) -> None:
        """Be told, on the running loop, what other processes send."""

    async def scrub(self) -> bool:
        """Leave nothing of what was purged in the store's own files; False: try again later."""

    async def wait(self, conversation: str, after: int, timeout_s: float) -> bool:
        """True as soon as there are events with seq > `after`; False when time is up."""

    async def close(self) -> None:
        """Store what is pending and let go of the file."""
