"""The journal in PostgreSQL: several processes on several machines, one writer task in each.

    append ─► queue ─► writer task: all that is queued, one transaction ─► futures, notes to others
    read   ─► the tail in memory of what this process writes, else a connection of the pool

Leases are counted by the database's clock, so that front doors need not agree on the time. What a
process keeps in memory of a conversation is true while it holds the lease; what others write it
hears of by NOTIFY (`postgres_notes.py`), and looks for itself every LOOK_S in case it did not.

The database may go away and come back. Meanwhile every call fails with JournalFull within the
statement's time, nothing is acknowledged, and the next call connects again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.clock import Clock, SystemClock
from orchestrator.journal import postgres_queries as sql
from orchestrator.journal.base import (
    Account,
    JournalFull,
    Lease,
    Purgeable,
    Recorded,
    ResponseRef,
    Spent,
)
from orchestrator.journal.postgres_link import Failures, Link, migrate, unusable
from orchestrator.journal.postgres_notes import Notes
from orchestrator.journal.postgres_operations import Append, Grant, Operation, Purge, Release
from orchestrator.journal.postgres_writer import Writer, columns
from orchestrator.journal.tails import Tails
from orchestrator.journal.watch import Nobody, Watch, watched
from orchestrator.loop.budgets import spending_of
from orchestrator.loop.events import AnyEvent, decode, encode
from serving.config.journal import JournalConfig
from serving.spending import Spending

MAX_BATCH = 1024
"""Operations in one transaction: bounds how long the first of them waits."""
LOOK_S = 2.0
"""Who waits looks by himself so often, in case a note was lost."""


class PostgresJournal:
    """`start` connects. `clock`: for tests; leases are then counted by it."""

    def __init__(
        self,
        config: JournalConfig,
        *,
        clock: Clock | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or Nobody()
        self._link = Link(config)
        self._max_queued = config.max_queued
        self._clock = clock or SystemClock()
        self._writer = Writer(self._link, clock)
        self._tails = Tails()
        self._queue: deque[Operation] = deque()
        self._bell = asyncio.Event()
        self._closed = False
        self._pool: Any = None
        self._task: asyncio.Task[None] | None = None
        owner = secrets.token_hex(6)
        self._notes = Notes(self._link, owner, self._tails.tell, self._tails.wake_all)

    async def start(self) -> None:
        if self._task is not None:
            return
        try:
            connection = await self._link.connect()
            try:
                await migrate(connection)
            finally:
                connection.terminate()
            self._pool = await self._link.pool()
        except Failures as error:
            raise unusable(error) from error
        self._task = asyncio.create_task(self._write())
        self._notes.start()

    @property
    def overloaded(self) -> bool:
        return len(self._queue) >= self._max_queued

    async def append(
        self,
        lease: Lease,
        events: Sequence[AnyEvent],
        *,
        durable: bool = True,
        account: Account | None = None,
    ) -> int:
        payloads = [encode(event).decode() for event in events]
        operation = Append(
            lease.conversation,
            _future(),
            lease=lease,
            events=events,
            payloads=payloads,
            durable=durable,
            account=account if account and spending_of(events) else None,
        )
        return await watched(self._watch, self._put(operation), durable=durable)

    async def lease(self, conversation: str, owner: str, ttl_s: float) -> Lease | None:
        granted: Lease | None = await self._put(
            Grant(conversation, _future(), owner=owner, ttl_s=ttl_s)
        )
        return granted

    async def release(self, lease: Lease, *, wake_at: float = 0.0) -> None:
        await self._put(Release(lease.conversation, _future(), lease=lease, wake_at=wake_at))

    async def read(self, conversation: str, after: int = 0) -> list[Recorded]:
        if self._writer.holds(conversation):
            found = self._tails.read(conversation, after)
            if found is not None:
                return found
        rows = await self._ask(sql.READ, conversation, after)
        return [Recorded(seq, decode(payload)) for seq, payload in rows]

    async def find_response(self, response_id: str) -> ResponseRef | None:
        return next(iter(await self._refs(sql.FIND_RESPONSE, response_id)), None)

    async def find_idempotent(self, key: str) -> ResponseRef | None:
        return next(iter(await self._refs(sql.FIND_IDEMPOTENT, key)), None)

    async def due(self, now: float, limit: int) -> list[ResponseRef]:
        return await self._refs(sql.DUE, now, limit)

    async def next_wake(self, now: float) -> float | None:
        ((at,),) = await self._ask(sql.NEXT_WAKE, now)
        return None if at is None else float(at)

    async def wait(self, conversation: str, after: int, timeout_s: float) -> bool:
        async def stored() -> bool:
            last = self._tails.last(conversation) if self._writer.holds(conversation) else None
            return await in_store() if last is None or last <= after else True

        async def in_store() -> bool:
            try:
                rows = await self._ask(sql.LAST, conversation)
            except JournalFull:
                return False  # there is time: it may come back
            last = rows[0][0] if rows else 0
            self._tails.tell(conversation, last)
            return bool(last > after)

        until = self._clock.now() + timeout_s
        while (left_s := until - self._clock.now()) > 0:
            slice_s = min(left_s, LOOK_S)
            woken = await self._tails.wait(conversation, slice_s, self._clock, stored)
            if woken and await stored():
                return True
        return await stored()

    async def asking(self, after: str, limit: int) -> list[str]:
        return [name for (name,) in await self._ask(sql.ASKING, after, limit)]

    async def present(self, conversations: Sequence[str]) -> list[str]:
        return [name for (name,) in await self._ask(sql.PRESENT, conversations)]

    async def purge(
        self,
        lease: Lease,
        tombstones: Sequence[Recorded],
        responses: Sequence[str],
        *,
        whole: bool = False,
    ) -> None:
        operation = Purge(
            lease.conversation,
            _future(),
            lease=lease,
            seqs=[each.seq for each in tombstones],
            payloads=[encode(each.event).decode() for each in tombstones],
            responses=responses,
            whole=whole,
        )
        await self._put(operation)
        self._tails.forget(lease.conversation)

    async def purgeable(self, *, ended_before: float, idle_before: float, limit: int) -> Purgeable:
        unstored = await self._refs(sql.UNSTORED, ended_before, limit)
        idle = await self._ask(sql.IDLE, idle_before, limit)
        return Purgeable(unstored, [name for (name,) in idle])

    async def spend(self, charges: Sequence[tuple[Account, Spending]]) -> None:
        if charges:
            await self._ask(sql.SPEND, *columns(charges))

    async def spent(self, after: float, *, but_by: str) -> list[Spent]:
        rows = await self._ask(sql.SPENT, after, but_by)
        return [Spent(tenant, ends_at, Spending(*sums)) for tenant, ends_at, *sums in rows]

    async def forget_spent(self, now: float) -> None:
        await self._ask(sql.FORGET_SPENT, now)

    async def send(self, note: str) -> None:
        self._notes.tell(note)

    def listen(self, heard: Callable[[str], object]) -> None:
        self._notes.listen(heard)

    async def scrub(self) -> bool:
        """Nothing to do: what was overwritten goes with the next (auto)vacuum."""
        return True

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._bell.set()
        if self._task is not None:
            await self._task
        await self._notes.stop()
        self._writer.close()
        if self._pool is not None:
            self._pool.terminate()

    async def _put(self, operation: Operation) -> Any:
        if self._closed or self._task is None:
            raise JournalFull("the journal is closed")
        self._queue.append(operation)
        self._bell.set()
        return await operation.future

    async def _refs(self, query: str, *values: str | float) -> list[ResponseRef]:
        return [ResponseRef(*row) for row in await self._ask(query, *values)]

    async def _ask(self, query: str, *values: Any | Sequence[str]) -> list[Any]:
        if self._pool is None or self._closed:
            raise JournalFull("the journal is closed")
        if any(isinstance(value, str) and "\0" in value for value in values):
            return []  # PostgreSQL refuses that byte, so nothing has such a name
        timeout_s = self._link.timeout_s
        try:
            async with asyncio.timeout(2 * timeout_s), self._pool.acquire(timeout=timeout_s) as one:
                try:
                    return list(await one.fetch(query, *values))
                except (OSError, TimeoutError, asyncio.CancelledError):
                    one.terminate()  # giving it back politely would wait for the server
                    raise
        except Failures as error:
            raise unusable(error) from error

    # -- the writer task --

    async def _write(self) -> None:
        while not self._closed or self._queue:
            await self._bell.wait()
            self._bell.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
                await self._writer.commit(batch)
                for operation in batch:
                    self._answer(operation)
            if self._closed:
                self._bell.set()

    def _answer(self, operation: Operation) -> None:
        conversation = operation.conversation
        if isinstance(operation, Append) and operation.error is None and operation.first_seq:
            size = sum(map(len, operation.payloads))
            self._tails.publish(conversation, operation.first_seq, operation.events, size)
            self._notes.tell_news(conversation, operation.result)
        elif not self._writer.holds(conversation) or (
            isinstance(operation, Grant) and operation.has_moved
        ):
            self._tails.forget(conversation)
        if operation.future.done():
            return
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.result)


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()
