"""The journal's twin without a file: the same contract, gone with the process.

For tests, and for measuring what durability costs. `tests/contract/test_journal.py` holds both to
the same promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.clock import Clock, SystemClock
from orchestrator.journal.base import (
    Account,
    AlreadyAccepted,
    Fenced,
    JournalFull,
    Lease,
    Purgeable,
    Recorded,
    ResponseRef,
    Spent,
)
from orchestrator.journal.tails import Tails
from orchestrator.loop.budgets import spending_of
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ApprovalRequested,
    ResponseAccepted,
    ResponseFinished,
)
from serving.spending import Spending


@dataclass(slots=True)
class _Log:
    entries: list[Recorded] = field(default_factory=list)
    fence: int = 0
    owner: str = ""
    expires_at: float = 0.0
    wake_at: float = 0.0
    created_at: float = 0.0
    purged: bool = False


@dataclass(slots=True)
class _Response:
    ref: ResponseRef
    key: str
    stored: bool
    ended_at: float | None = None


class MemoryJournal:
    """Conversations in dictionaries."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._logs: dict[str, _Log] = {}
        self._responses: dict[str, _Response] = {}
        self._keys: dict[str, ResponseRef] = {}
        self._tails = Tails(max_bytes=0)
        self._spent: dict[Account, Spending] = {}
        self._listeners: list[Callable[[str], object]] = []
        self._closed = False

    async def start(self) -> None:
        """It is ready since it was made."""

    @property
    def overloaded(self) -> bool:
        return False

    async def append(
        self,
        lease: Lease,
        events: Sequence[AnyEvent],
        *,
        durable: bool = True,
        account: Account | None = None,
    ) -> int:
        if self._closed:
            raise JournalFull("the journal is closed")
        log = self._held(lease)
        for accepted in (event for event in events if isinstance(event, ResponseAccepted)):
            used = self._keys.get(accepted.idempotency_key)
            if used is None and (known := self._responses.get(accepted.response_id)):
                used = known.ref
            if used is not None:
                raise AlreadyAccepted(used)
        first = len(log.entries) + 1
        for seq, event in enumerate(events, first):
            log.entries.append(Recorded(seq, event))
            if isinstance(event, ResponseAccepted):
                ref = ResponseRef(event.response_id, lease.conversation, seq)
                key, stored = event.idempotency_key, event.request.get("store") is not False
                self._responses[ref.response_id] = _Response(ref, key, stored)
                if key:
                    self._keys[key] = ref
            elif isinstance(event, ResponseFinished) and event.response_id in self._responses:
                self._responses[event.response_id].ended_at = event.at
        if account is not None and (spent := spending_of(events)) is not None:
            self._count(account, spent)
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
        log.wake_at = 0.0
        return Lease(conversation, owner, log.fence, log.expires_at)

    async def release(self, lease: Lease, *, wake_at: float = 0.0) -> None:
        log = self._log(lease.conversation)
        if log.fence == lease.token and log.owner == lease.owner:
            log.owner, log.expires_at, log.wake_at = "", self._clock.now(), wake_at

    async def find_response(self, response_id: str) -> ResponseRef | None:
        found = self._responses.get(response_id)
        return found.ref if found else None

    async def find_idempotent(self, key: str) -> ResponseRef | None:
        return self._keys.get(key)

    async def due(self, now: float, limit: int) -> list[ResponseRef]:
        due = [
            ref
            for ref, log in self._open()
            if log.wake_at <= now and (not log.owner or log.expires_at <= now)
        ]
        due.sort(key=lambda ref: (self._log(ref.conversation).wake_at, ref.response_id))
        return due[:limit]

    async def next_wake(self, now: float) -> float | None:
        return min((log.wake_at for _, log in self._open() if log.wake_at > now), default=None)

    async def asking(self, after: str, limit: int) -> list[str]:
        names = list(self._logs)
        behind = names[names.index(after) + 1 :] if after in self._logs else names
        return [name for name in behind if self._asks(name)][:limit]

    async def present(self, conversations: Sequence[str]) -> list[str]:
        return [
            each for each in conversations if each in self._logs and not self._logs[each].purged
        ]

    def _asks(self, name: str) -> bool:
        log = [each.event for each in self._logs[name].entries]
        asked = sum(isinstance(event, ApprovalRequested) for event in log)
        return asked > sum(isinstance(event, ApprovalDecided) for event in log)

    async def purge(
        self,
        lease: Lease,
        tombstones: Sequence[Recorded],
        responses: Sequence[str],
        *,
        whole: bool = False,
    ) -> None:
        log = self._held(lease)
        for tombstone in tombstones:
            log.entries[tombstone.seq - 1] = tombstone
        for response_id in responses:
            if gone := self._responses.pop(response_id, None):
                self._keys.pop(gone.key, None)
        log.purged = log.purged or whole
        self._tails.forget(lease.conversation)

    async def purgeable(self, *, ended_before: float, idle_before: float, limit: int) -> Purgeable:
        unstored = [
            each.ref
            for each in self._responses.values()
            if not each.stored and each.ended_at is not None and each.ended_at <= ended_before
        ]
        alive = {
            each.ref.conversation
            for each in self._responses.values()
            if each.ended_at is None or each.ended_at > idle_before
        }
        idle = [
            name
            for name, log in self._logs.items()
            if not log.purged
            and max(log.created_at, log.expires_at) <= idle_before
            and name not in alive
        ]
        return Purgeable(unstored[:limit], idle[:limit])

    async def spend(self, charges: Sequence[tuple[Account, Spending]]) -> None:
        for account, spending in charges:
            self._count(account, spending)

    def _count(self, account: Account, spending: Spending) -> None:
        self._spent.setdefault(account, Spending()).plus(spending)

    async def spent(self, after: float, *, but_by: str) -> list[Spent]:
        found: dict[tuple[str, float], Spending] = {}
        for account, spending in self._spent.items():
            if account.ends_at > after and account.writer != but_by:
                place = account.tenant, account.ends_at
                found.setdefault(place, Spending()).plus(spending)
        return [Spent(*place, spending) for place, spending in found.items()]

    async def forget_spent(self, now: float) -> None:
        for account in [each for each in self._spent if each.expires_at <= now]:
            del self._spent[account]

    async def send(self, note: str) -> None:
        for heard in self._listeners:
            heard(note)

    def listen(self, heard: Callable[[str], object]) -> None:
        self._listeners.append(heard)

    async def scrub(self) -> bool:
        return True

    async def wait(self, conversation: str, after: int, timeout_s: float) -> bool:
        log = self._logs.get(conversation)
        if log and len(log.entries) > after:
            return True
        return await self._tails.wait(conversation, timeout_s, self._clock)

    async def close(self) -> None:
        self._closed = True

    def _log(self, conversation: str) -> _Log:
        log = self._logs.get(conversation)
        if log is None:
            log = self._logs[conversation] = _Log(created_at=self._clock.now())
        return log

    def _held(self, lease: Lease) -> _Log:
        log = self._log(lease.conversation)
        if log.fence != lease.token:
            raise Fenced(f"{lease.conversation}: another worker holds this conversation now")
        return log

    def _open(self) -> Iterator[tuple[ResponseRef, _Log]]:
        for each in self._responses.values():
            if each.ended_at is None:
                yield each.ref, self._log(each.ref.conversation)
