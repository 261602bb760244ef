"""The journal in one SQLite file: one process, one writer thread, group commit.

    append ─► queue ─► writer thread: all that is queued, one transaction, one fsync ─► futures
    read   ─► the tail in memory, else a reader thread with a connection of its own

The file is in WAL mode. A batch with a durable append in it is committed with synchronous=FULL,
which fsyncs the WAL before COMMIT returns; futures are resolved after that. A batch of streamed
deltas alone is committed with NORMAL: it survives the death of the process, and the next durable
batch fsyncs it along.

`journal.db.lock` is held with flock, so there is one writer process; what it keeps in memory of a
conversation (its newest seq, its fence) is therefore true. When anything fails, the whole batch is
rolled back, that memory is dropped, every append of the batch gets JournalFull, and the next batch
starts afresh: nothing was acknowledged, and nothing has to be repaired.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.clock import Clock, SystemClock
from orchestrator.journal.base import (
    Account,
    JournalBusy,
    JournalFull,
    Lease,
    Purgeable,
    Recorded,
    ResponseRef,
    Spent,
)
from orchestrator.journal.schemas import missing
from orchestrator.journal.sqlite_writer import Append, Operation, Renew, Scrub, Write, Writer
from orchestrator.journal.tails import Tails
from orchestrator.journal.watch import Nobody, Watch, watched
from orchestrator.loop.budgets import spending_of
from orchestrator.loop.events import AnyEvent, decode, encode
from serving.spending import Spending

MAX_QUEUED = 4096
"""Operations that may wait for the writer before nothing new is taken on."""
MAX_BATCH = 2048
"""Operations in one transaction: bounds how long the first of them waits."""
CHECKPOINT_PAGES = 4096
"""16 MiB between checkpoints: fewer fsyncs of the main file than with the default of 4."""
WAL_BYTES = 17 * 2**20
"""What the WAL grows to between two checkpoints, frame headers and the last batch included."""

# -- Named queries of the readers; the writer's are in sqlite_writer.py. --

# The log of a conversation after a place.
READ = """
SELECT seq, payload FROM events
WHERE conversation = (SELECT id FROM conversations WHERE name = ?) AND seq > ? ORDER BY seq
"""

# The newest place of a log; no row when there is none.
LAST = """
SELECT seq FROM events
WHERE conversation = (SELECT id FROM conversations WHERE name = ?) ORDER BY seq DESC LIMIT 1
"""

_REF = "SELECT r.id, c.name, r.first_seq FROM responses r JOIN conversations c"

# A response by its id.
FIND_RESPONSE = f"{_REF} ON c.id = r.conversation WHERE r.id = ? AND r.purged = 0"

# A response by the Idempotency-Key it came under.
FIND_IDEMPOTENT = f"{_REF} ON c.id = r.conversation WHERE r.idempotency_key = ?"

# What a dead process left behind, and what has waited long enough.
DUE = f"""
{_REF} ON c.id = r.conversation
WHERE r.finished = 0 AND r.purged = 0 AND r.wake_at <= ?1 AND (c.owner = '' OR c.expires_at <= ?1)
ORDER BY r.wake_at, r.id LIMIT ?2
"""

# When the next one has waited long enough.
NEXT_WAKE = """
SELECT min(wake_at) FROM responses WHERE finished = 0 AND purged = 0 AND wake_at > ?
"""

# Responses that were not to be stored, some time after their end.
UNSTORED = f"""
{_REF} ON c.id = r.conversation
WHERE r.stored = 0 AND r.purged = 0 AND r.finished = 1 AND r.ended_at <= ? LIMIT ?
"""

# Conversations without news for longer than they are kept; who writes has a lease, and
# `expires_at` says until when the last one was held.
IDLE = """
SELECT name FROM conversations c
WHERE purged = 0 AND created_at <= ?1 AND expires_at <= ?1 AND NOT EXISTS (
    SELECT 1 FROM responses r WHERE r.conversation = c.id AND (r.finished = 0 OR r.ended_at > ?1)
) ORDER BY created_at LIMIT ?2
"""

# Those of these conversations (a JSON list) that are there.
PRESENT = """
SELECT name FROM conversations
WHERE purged = 0 AND name IN (SELECT value FROM json_each(?))
"""

# Conversations that asked a person for more than was decided, after one of them.
ASKING = """
SELECT c.name FROM events e JOIN conversations c ON c.id = e.conversation
WHERE substr(e.payload, 1, 18) = '{"type":"approval_'
    AND e.conversation > coalesce((SELECT id FROM conversations WHERE name = ?1), 0)
GROUP BY e.conversation
HAVING sum(CASE substr(e.payload, 19, 1) WHEN 'r' THEN 1 ELSE -1 END) > 0
ORDER BY e.conversation LIMIT ?2
"""


# What tenants have spent in stretches that end after a time, but for what one writer has.
SPENT = """
SELECT tenant, ends_at, sum(turns), sum(tool_calls), sum(tokens), sum(seconds), sum(cost_usd)
FROM spending WHERE ends_at > ? AND writer <> ? GROUP BY ends_at, tenant
"""


class SqliteJournal:
    """Opens or creates the file at once. Raises JournalBusy, JournalFull."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        max_queued: int = MAX_QUEUED,
        watch: Watch | None = None,
    ) -> None:
        self._path = Path(path)
        self._watch = watch or Nobody()
        self._max_queued = max_queued
        self._clock = clock or SystemClock()
        self._tails = Tails()
        self._queue: deque[Operation | None] = deque()
        self._woken = False
        self._closed = False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._path)
        except OSError as error:
            raise JournalFull(f"{path}: cannot be opened: {error}") from error
        try:
            connection = _connect(self._path)
            _migrate(connection)
            self._reading = _connect(self._path)
        except (sqlite3.Error, JournalFull) as error:
            os.close(self._lock)
            raise JournalFull(f"{path}: cannot be used as a journal: {error}") from error
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-read")
        self._writer = Writer(connection, self._clock)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._write, name="journal-write", daemon=True)
        self._thread.start()

    async def start(self) -> None:
        """It is ready since it was made."""

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
        operation = Append(asyncio.get_running_loop(), lease, events, payloads, durable)
        if account is not None and (spent := spending_of(events)) is not None:
            operation.charges = ((account, spent),)
        self._put(operation)
        return await watched(self._watch, operation.future, durable=durable)

    async def lease(self, conversation: str, owner: str, ttl_s: float) -> Lease | None:
        operation = Renew(asyncio.get_running_loop(), conversation, owner, ttl_s)
        self._put(operation)
        granted: Lease | None = await operation.future
        return granted

    async def release(self, lease: Lease, *, wake_at: float = 0.0) -> None:
        await self._write_by(lambda writer: writer.release(lease, wake_at))

    async def read(self, conversation: str, after: int = 0) -> list[Recorded]:
        found = self._tails.read(conversation, after)
        if found is not None:
            return found
        rows = await self._ask(READ, conversation, after)
        return [Recorded(seq, decode(payload)) for seq, payload in rows]

    async def find_response(self, response_id: str) -> ResponseRef | None:
        return next(iter(await self._refs(FIND_RESPONSE, response_id)), None)

    async def find_idempotent(self, key: str) -> ResponseRef | None:
        return next(iter(await self._refs(FIND_IDEMPOTENT, key)), None)

    async def due(self, now: float, limit: int) -> list[ResponseRef]:
        return await self._refs(DUE, now, limit)

    async def next_wake(self, now: float) -> float | None:
        ((at,),) = await self._ask(NEXT_WAKE, now)
        return None if at is None else float(at)

    async def asking(self, after: str, limit: int) -> list[str]:
        return [name for (name,) in await self._ask(ASKING, after, limit)]

    async def present(self, conversations: Sequence[str]) -> list[str]:
        names = msgspec.json.encode(conversations).decode()
        return [name for (name,) in await self._ask(PRESENT, names)]

    async def purge(
        self,
        lease: Lease,
        tombstones: Sequence[Recorded],
        responses: Sequence[str],
        *,
        whole: bool = False,
    ) -> None:
        rows = [(encode(each.event).decode(), each.seq) for each in tombstones]
        await self._write_by(lambda writer: writer.purge(lease, rows, responses, whole))
        self._tails.forget(lease.conversation)

    async def purgeable(self, *, ended_before: float, idle_before: float, limit: int) -> Purgeable:
        unstored = await self._refs(UNSTORED, ended_before, limit)
        idle = await self._ask(IDLE, idle_before, limit)
        return Purgeable(unstored, [name for (name,) in idle])

    async def spend(self, charges: Sequence[tuple[Account, Spending]]) -> None:
        await self._write_by(lambda writer: writer.spend(charges))

    async def spent(self, after: float, *, but_by: str) -> list[Spent]:
        rows = await self._ask(SPENT, after, but_by)
        return [Spent(tenant, ends_at, Spending(*sums)) for tenant, ends_at, *sums in rows]

    async def forget_spent(self, now: float) -> None:
        await self._write_by(lambda writer: writer.forget_spent(now))

    async def send(self, note: str) -> None:
        """Nobody else is on this journal."""

    def listen(self, heard: Callable[[str], object]) -> None:
        """Nobody else is on this journal."""

    async def scrub(self) -> bool:
        operation = Scrub(asyncio.get_running_loop())
        self._put(operation)
        return bool(await operation.future)

    async def wait(self, conversation: str, after: int, timeout_s: float) -> bool:
        async def stored() -> bool:
            last = self._tails.last(conversation)
            if last is None:
                last = next(iter(await self._ask(LAST, conversation)), (0,))[0]
            return last > after

        return await self._tails.wait(conversation, timeout_s, self._clock, stored)

    async def close(self) -> None:
        if self._closed:
            return
        self._put(None)
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._readers.shutdown()
        self._reading.close()
        self._writer.close()
        os.close(self._bell)
        os.close(self._lock)

    async def _write_by(self, action: Callable[[Writer], object]) -> None:
        operation = Write(asyncio.get_running_loop(), action)
        self._put(operation)
        await operation.future

    def _put(self, operation: Operation | None) -> None:
        """Hand it to the writer thread, which ends with None."""
        if self._closed:
            raise JournalFull(f"{self._path}: the journal is closed")
        # A descriptor, not a queue.SimpleQueue: a thread that sleeps in a lock of Python's is woken
        # while we hold the interpreter, goes to sleep again for that, and costs twice as much.
        self._queue.append(operation)
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._bell, 1)

    async def _refs(self, query: str, *values: str | float) -> list[ResponseRef]:
        return [ResponseRef(*row) for row in await self._ask(query, *values)]

    async def _ask(self, query: str, *values: str | float) -> list[tuple[Any, ...]]:
        def fetch() -> list[tuple[Any, ...]]:
            try:
                return self._reading.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise JournalFull(f"{self._path}: cannot be read: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, fetch)

    # -- the writer thread --

    def _write(self) -> None:
        wal = self._path.with_name(self._path.name + "-wal")
        _extend(wal)
        waiting = self._queue
        closing = False
        while not closing:
            if not waiting:
                os.eventfd_read(self._bell)
                # Before the look into the queue: whoever comes after it rings again.
                self._woken = False
            batch: list[Operation] = []
            while waiting and len(batch) < MAX_BATCH:
                operation = waiting.popleft()
                if operation is None:
                    closing = True
                    break
                batch.append(operation)
            if batch:
                if self._writer.commit(batch):
                    _extend(wal)
                _answer(batch, self._tails)


def _answer(batch: list[Operation], tails: Tails) -> None:
    """Publish and resolve the futures on their loop, with one wake-up for the whole batch."""

    def resolve() -> None:
        for operation in batch:
            if isinstance(operation, Append) and (first := operation.first_seq):
                size = sum(map(len, operation.payloads))
                tails.publish(operation.lease.conversation, first, operation.events, size)
            future = operation.future
            if not future.done():
                if operation.error is not None:
                    future.set_exception(operation.error)
                else:
                    future.set_result(operation.result)

    try:
        batch[0].loop.call_soon_threadsafe(resolve)
    except RuntimeError:
        return  # the loop is closed: nobody waits for these any more


def _lock(path: Path) -> int:
    """Hold `PATH.lock`; the file says who does. The system lets go of it when the process dies."""
    file = path.with_name(path.name + ".lock")
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise JournalBusy(
            f"{path}: in use by process {holder}; stop it first (warmloop down), "
            "or give this stack another journal.path"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _connect(path: Path) -> sqlite3.Connection:
    # Used by one thread at a time, but not by the one that opens it.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    connection.execute("PRAGMA secure_delete=ON")  # what is purged is overwritten
    return connection


def _extend(wal: Path) -> None:
    """Let the WAL have its full size at once, as it has anyway after the first checkpoint.

    An fsync of a file that grows commits the file system's own journal, too, and costs almost
    twice as much. SQLite takes the zeros for what a reset leaves behind: a frame without its salt
    ends the log. They are written, not allocated: the first write into what is only allocated
    changes the file system's records like growth. Nothing else writes to the WAL meanwhile, and
    SQLite holds no POSIX lock on it that closing it here could lose.
    """
    with contextlib.suppress(OSError):  # what is only a gain in speed may fail
        handle = os.open(wal, os.O_WRONLY | os.O_CLOEXEC)
        try:
            size = end = os.fstat(handle).st_size
            zeros = bytes(2**20)
            try:
                while end < WAL_BYTES:
                    end += os.pwrite(handle, zeros[: WAL_BYTES - end], end)
            except OSError:  # no room: leave what there is to those who need it
                os.ftruncate(handle, size)
        finally:
            os.close(handle)


def _migrate(connection: sqlite3.Connection) -> None:
    """Apply the numbered migrations that this file has not seen; void the leases of the dead."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    for number, sql in missing("sqlite", version):
        connection.executescript(f"BEGIN;\n{sql}\nPRAGMA user_version={number};\nCOMMIT;")
    # The lock says that no other process runs, so nobody holds what these leases say.
    connection.execute("UPDATE conversations SET owner = '', expires_at = 0 WHERE owner != ''")
