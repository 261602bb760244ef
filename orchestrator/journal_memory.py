"""The journal's twin without a file: the same contract, gone with the process.

For tests, and for measuring what durability costs. `tests/contract/test_journal.py` holds both to
the same promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.clock import Clock, SystemClock
from orchestrator.events import AnyEvent, ResponseAccepted, ResponseFinished
from orchestrator.journal import (
    AlreadyAccepted,
    Fenced,
    JournalFull,
    Lease,
    Recorded,
    ResponseRef,
)
from orchestrator.tails import Tails


@dataclass(slots=True)
class _Log:
    entries: list[Recorded] = field(default_factory=list)
    fence: int = 0
    owner: str = ""
    expires_at: float = 0.0


class MemoryJournal:
    """Conversations in dictionaries."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._logs: dict[str, _Log] = {}
        self._refs: dict[str, ResponseRef] = {}
        self._keys: dict[str, ResponseRef] = {}
        self._open: dict[str, ResponseRef] = {}
        self._tails = Tails(max_bytes=0)
        self._closed = False

    async def append(
        self, lease: Lease, events: Sequence[AnyEvent], *, durable: bool = True
    ) -> int:
        if self._closed:
            raise JournalFull("the journal is closed")
        log = self._log(lease.conversation)
        if log.fence != lease.token:
            raise Fenced(f"{lease.conversation}: another worker holds this conversation now")
        for accepted in (event for event in events if isinstance(event, ResponseAccepted)):
            used = self._keys.get(accepted.idempotency_key) or self._refs.get(accepted.response_id)
            if used is not None:
                raise AlreadyAccepted(used)
        first = len(log.entries) + 1
        for seq, event in enumerate(events, first):
            log.entries.append(Recorded(seq, event))
            if isinstance(event, ResponseAccepted):
                ref = ResponseRef(event.response_id, lease.conversation, seq)
                self._refs[ref.response_id] = self._open[ref.response_id] = ref
                if event.idempotency_key:
                    self._keys[event.idempotency_key] = ref
            elif isinstance(event, ResponseFinished):
                self._open.pop(event.response_id, None)
        if events:
            self._tails.publish(lease.conversation, first, events, 0)
        return len(log.entries)

    async def read(self, conversation: str, after: int = 0) -> list[Recorded]:
        log = self._logs.get(conversation)
        return log.entries[after:] if log else []

    async def lease(self, conversation: str, owner: str, ttl_s: float) -> Lease | None:
        log = self._log(conversation)
        now = self._clock.now()
        if log.owner != owner:
            if log.owner and log.expires_at > now:
                return None
            log.fence += 1
            log.owner = owner
        log.expires_at = now + ttl_s
        return Lease(conversation, owner, log.fence, log.expires_at)

    async def release(self, lease: Lease) -> None:
        log = self._log(lease.conversation)
        if log.fence == lease.token and log.owner == lease.owner:
            log.owner, log.expires_at = "", 0.0

    async def find_response(self, response_id: str) -> ResponseRef | None:
        return self._refs.get(response_id)

    async def find_idempotent(self, key: str) -> ResponseRef | None:
        return self._keys.get(key)

    async def unfinished(self) -> list[ResponseRef]:
        return sorted(self._open.values(), key=lambda ref: (ref.first_seq, ref.response_id))

    async def wait(self, conversation: str, after: int, timeout_s: float) -> bool:
        log = self._logs.get(conversation)
        if log and len(log.entries) > after:
            return True
        return await self._tails.wait(conversation, timeout_s, self._clock)

    async def close(self) -> None:
        self._closed = True

    def _log(self, conversation: str) -> _Log:
        return self._logs.setdefault(conversation, _Log())
