"""What the SQLite journal's writer thread does to the file, one batch at a time.

    commit(batch)   BEGIN, each operation in order, one INSERT for all events, one for what each
                    tenant has spent, COMMIT
                    └ an operation that is refused (Fenced, AlreadyAccepted) has written nothing
                      and fails alone; any error of SQLite fails the whole batch
                    then each Scrub, which fails alone: the batch is stored by then

sqlite3 gives up Python's global lock in every statement and may wait long to get it back, so a
batch uses few statements: rows go in by the hundred.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import astuple

from orchestrator.clock import Clock
from orchestrator.journal.base import (
    Account,
    AlreadyAccepted,
    Fenced,
    JournalFull,
    Lease,
    ResponseRef,
)
from orchestrator.loop.events import AnyEvent, ResponseAccepted, ResponseFinished
from serving.errors import WarmloopError
from serving.spending import Spending

MAX_HEADS = 16_384
"""Conversations whose newest seq and fence are kept in memory."""

# -- Named queries. --

# A conversation's fence and lease, and when what is unfinished in it is due.
HEAD = """
SELECT id, fence, owner, expires_at, (
    SELECT max(wake_at) FROM responses r WHERE r.conversation = c.id AND finished = 0
) FROM conversations c WHERE name = ?
"""

# The newest place of a log.
LAST = "SELECT seq FROM events WHERE conversation = ? ORDER BY seq DESC LIMIT 1"

# A new conversation.
CREATE = "INSERT INTO conversations (name, created_at) VALUES (?, ?)"

# A lease that was granted, renewed or given up.
SET_LEASE = "UPDATE conversations SET fence = ?, owner = ?, expires_at = ? WHERE id = ?"

# Index a response that was accepted.
ADD_RESPONSE = """
INSERT INTO responses (id, conversation, first_seq, idempotency_key, stored) VALUES (?, ?, ?, ?, ?)
"""

# Who used this Idempotency-Key, or this id.
FIND_USED = """
SELECT r.id, c.name, r.first_seq FROM responses r JOIN conversations c ON c.id = r.conversation
WHERE r.idempotency_key = ? OR r.id = ?
"""

# A response that ended.
END_RESPONSE = "UPDATE responses SET finished = 1, ended_at = ? WHERE id = ?"

# When the unfinished response of a conversation is due.
SET_WAKE = "UPDATE responses SET wake_at = ? WHERE conversation = ? AND finished = 0"

# A tombstone in the place of an event.
PURGE_EVENT = "UPDATE events SET payload = ? WHERE conversation = ? AND seq = ?"

# A response that is not to be found any more; its id stays taken.
PURGE_RESPONSE = "UPDATE responses SET purged = 1, idempotency_key = NULL WHERE id = ?"

# A conversation of which nothing is left.
PURGE_CONVERSATION = "UPDATE conversations SET purged = 1 WHERE id = ?"

# What a tenant has spent more.
SPEND = """
INSERT INTO spending (
    tenant, ends_at, expires_at, writer, turns, tool_calls, tokens, seconds, cost_usd
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    turns = turns + excluded.turns,
    tool_calls = tool_calls + excluded.tool_calls,
    tokens = tokens + excluded.tokens,
    seconds = seconds + excluded.seconds,
    cost_usd = cost_usd + excluded.cost_usd
"""

# What no budget looks at any more.
FORGET_SPENT = "DELETE FROM spending WHERE expires_at <= ?"

# The main file gets all of the log beside it, and that log becomes empty.
SCRUB = "PRAGMA wal_checkpoint(TRUNCATE)"

# Events, so many rows at once; few sizes, so that the statements stay prepared.
ROWS = (512, 256, 128, 64, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1)
_INSERT = "INSERT INTO events (conversation, seq, payload) VALUES "
ADD_EVENTS = {n: _INSERT + ", ".join(["(?,?,?)"] * n) for n in ROWS}


INDEXED = frozenset({ResponseAccepted, ResponseFinished})
"""Events that change the index of responses, too."""


class Operation:
    """Something for the writer, and the future of whoever waits for it."""

    __slots__ = ("error", "future", "loop", "result")
    durable = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: WarmloopError | None = None

    def apply(self, writer: Writer) -> Any:
        raise NotImplementedError


class Append(Operation):
    __slots__ = ("charges", "durable", "events", "first_seq", "indexed", "lease", "payloads")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lease: Lease,
        events: Sequence[AnyEvent],
        payloads: list[str],
        durable: bool,
    ) -> None:
        super().__init__(loop)
        self.lease = lease
        self.events = events
        self.payloads = payloads
        self.durable = durable
        self.first_seq = 0
        self.charges: Sequence[tuple[Account, Spending]] = ()
        self.indexed = not INDEXED.isdisjoint(map(type, events))

    def apply(self, writer: Writer) -> int:
        return writer.append(self)


class Renew(Operation):
    __slots__ = ("conversation", "owner", "ttl_s")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, conversation: str, owner: str, ttl_s: float
    ) -> None:
        super().__init__(loop)
        self.conversation = conversation
        self.owner = owner
        self.ttl_s = ttl_s

    def apply(self, writer: Writer) -> Lease | None:
        return writer.renew(self.conversation, self.owner, self.ttl_s)


class Write(Operation):
    __slots__ = ("action",)

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[Writer], object]) -> None:
        super().__init__(loop)
        self.action = action

    def apply(self, writer: Writer) -> object:
        return self.action(writer)


class Scrub(Operation):
    """Truncate the write-ahead log, once the batch is committed."""

    __slots__ = ()

    def apply(self, writer: Writer) -> bool:
        return False


class _Head:
    """What the newest committed state of a conversation is; true, since nobody else writes."""

    __slots__ = ("expires_at", "fence", "owner", "rowid", "seq", "wake_at")

    def __init__(self, rowid: int, seq: int) -> None:
        self.rowid = rowid
        self.seq = seq
        self.fence = 0
        self.owner = ""
        self.expires_at = self.wake_at = 0.0


class Writer:
    """Owns the writing connection; used by the writer thread alone."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._clock = clock
        self._heads: OrderedDict[str, _Head] = OrderedDict()
        self._rows: list[int | str] = []
        self._spent: dict[Account, Spending] = {}
        self._synced = True

    def commit(self, batch: Sequence[Operation]) -> bool:
        """Do all of the batch and commit it; results and errors are left in the operations. True
        when the write-ahead log was to be truncated."""
        try:
            self._sync(any(operation.durable for operation in batch))
            alone = len(batch) == 1 and self._is_one_insert(batch[0])
            if not alone:
                self._execute("BEGIN IMMEDIATE")
            for operation in batch:
                try:
                    operation.result = operation.apply(self)
                except (Fenced, AlreadyAccepted) as refused:
                    operation.error = refused
            self._insert_rows()
            if self._spent:
                self._insert_spent()
            if not alone:
                self._execute("COMMIT")
        except Exception as error:  # whatever it was: nothing is stored, and nobody may hang
            self._undo()
            for operation in batch:
                operation.error = JournalFull(f"the journal cannot store anything: {error}")
                if isinstance(operation, Append):
                    operation.first_seq = 0
            return False
        scrubs = [operation for operation in batch if isinstance(operation, Scrub)]
        for operation in scrubs:
            self._scrub(operation)
        return bool(scrubs)

    def _scrub(self, operation: Scrub) -> None:
        try:
            operation.result = self._execute(SCRUB).fetchone()[0] == 0
        except Exception as error:  # the batch is committed: this must not fail the rest of it
            operation.error = JournalFull(f"the journal's log cannot be truncated: {error}")

    def _is_one_insert(self, operation: Operation) -> bool:
        """Is one statement all that it takes? It is then a transaction by itself."""
        return (
            isinstance(operation, Append)
            and len(operation.events) in ADD_EVENTS
            and operation.lease.conversation in self._heads
            and not operation.indexed
            and not operation.charges
        )

    def close(self) -> None:
        self._connection.close()

    def append(self, operation: Append) -> int:
        head = self._held(operation.lease)
        seq = first = head.seq + 1
        if operation.indexed:
            self._index(operation.events, head, first)
        self.spend(operation.charges)
        rows, rowid = self._rows, head.rowid
        for payload in operation.payloads:
            rows += (rowid, seq, payload)
            seq += 1
        head.seq = seq - 1
        operation.first_seq = first if operation.payloads else 0
        return head.seq

    def _index(self, events: Sequence[AnyEvent], head: _Head, first: int) -> None:
        for event in events:
            # Refuse before anything of this append is written: it must be all or nothing.
            if isinstance(event, ResponseAccepted):
                self._refuse_used(event)
        for seq, event in enumerate(events, first):
            if isinstance(event, ResponseAccepted):
                self._accept(event, head, seq)
            elif isinstance(event, ResponseFinished):
                self._execute(END_RESPONSE, (event.at, event.response_id))

    def renew(self, conversation: str, owner: str, ttl_s: float) -> Lease | None:
        head = self._head(conversation)
        now = self._clock.now()
        if head.owner != owner:
            if head.owner and head.expires_at > now:
                return None
            head.fence += 1
            head.owner = owner
        head.expires_at = now + ttl_s
        self._execute(SET_LEASE, (head.fence, head.owner, head.expires_at, head.rowid))
        self._set_wake(head, 0.0)
        return Lease(conversation, owner, head.fence, head.expires_at)

    def release(self, lease: Lease, wake_at: float) -> None:
        head = self._head(lease.conversation)
        if head.fence == lease.token and head.owner == lease.owner:
            # When it was given up: what was written under it is news until then.
            head.owner, head.expires_at = "", self._clock.now()
            self._execute(SET_LEASE, (head.fence, "", head.expires_at, head.rowid))
            self._set_wake(head, wake_at)

    def purge(
        self,
        lease: Lease,
        tombstones: Sequence[tuple[str, int]],
        responses: Sequence[str],
        whole: bool,
    ) -> None:
        head = self._held(lease)
        for payload, seq in tombstones:
            self._execute(PURGE_EVENT, (payload, head.rowid, seq))
        for response_id in responses:
            self._execute(PURGE_RESPONSE, (response_id,))
        if whole:
            self._execute(PURGE_CONVERSATION, (head.rowid,))

    def spend(self, charges: Sequence[tuple[Account, Spending]]) -> None:
        for account, spending in charges:
            if (sums := self._spent.get(account)) is None:
                sums = self._spent[account] = Spending()
            sums.plus(spending)

    def forget_spent(self, now: float) -> None:
        self._execute(FORGET_SPENT, (now,))

    def _set_wake(self, head: _Head, wake_at: float) -> None:
        if head.wake_at != wake_at:
            head.wake_at = wake_at
            self._execute(SET_WAKE, (wake_at, head.rowid))

    def _held(self, lease: Lease) -> _Head:
        head = self._head(lease.conversation)
        if head.fence != lease.token:
            raise Fenced(f"{lease.conversation}: another worker holds this conversation now")
        return head

    def _refuse_used(self, event: ResponseAccepted) -> None:
        key = event.idempotency_key or None
        if row := self._execute(FIND_USED, (key, event.response_id)).fetchone():
            raise AlreadyAccepted(ResponseRef(*row))

    def _accept(self, event: ResponseAccepted, head: _Head, seq: int) -> None:
        key = event.idempotency_key or None
        stored = event.request.get("store") is not False
        self._execute(ADD_RESPONSE, (event.response_id, head.rowid, seq, key, stored))

    def _head(self, name: str) -> _Head:
        head = self._heads.get(name)
        if head is not None:
            self._heads.move_to_end(name)
            return head
        row = self._execute(HEAD, (name,)).fetchone()
        if row is None:
            rowid = self._execute(CREATE, (name, self._clock.now())).lastrowid
            head = _Head(int(rowid or 0), 0)
        else:
            self._insert_rows()  # rows that wait may be this conversation's
            last = self._execute(LAST, (row[0],)).fetchone()
            head = _Head(row[0], last[0] if last else 0)
            head.fence, head.owner, head.expires_at = row[1:4]
            head.wake_at = row[4] or 0.0
        self._heads[name] = head
        if len(self._heads) > MAX_HEADS:
            self._heads.popitem(last=False)
        return head

    def _insert_rows(self) -> None:
        rows, self._rows = self._rows, []
        at, left = 0, len(rows) // 3
        for size in ROWS:
            while left >= size:
                self._execute(ADD_EVENTS[size], rows[at : at + 3 * size])
                at += 3 * size
                left -= size
            if not left:
                break

    def _insert_spent(self) -> None:
        spent, self._spent = self._spent, {}
        for account, sums in spent.items():
            self._execute(SPEND, (*astuple(account), *sums.amounts))

    def _sync(self, durable: bool) -> None:
        if durable != self._synced:
            self._execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._synced = durable

    def _undo(self) -> None:
        # What is in memory ran ahead of the file: forget it.
        self._heads.clear()
        self._rows = []
        self._spent = {}
        if self._connection.in_transaction:
            self._connection.rollback()
