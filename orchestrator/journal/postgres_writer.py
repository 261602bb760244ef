"""What one process writes to the PostgreSQL journal, one batch at a time, on one connection.

    commit(batch)   operations of one conversation keep their order: its n-th is in round n
        round       grants in one statement, appends in one, releases in one
                    └ refused ones (Fenced, AlreadyAccepted) have written nothing and fail alone

An append is checked against the fence in the statement that stores it: its conversation's row is
held FOR SHARE, which no grant of a lease can pass. Most batches are one statement, one fsync; one
more statement counts what tenants with a budget have spent.

When a connection breaks, nobody knows whether its last batch was stored. All of it is told
JournalFull, and what came last of each conversation is in doubt: the next append of the same lease
looks first, and what is there already is not stored twice. A doubt is kept until then, or until the
conversation is another's: whoever forgot it would take what nobody was told of for acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from msgspec.structs import astuple

from orchestrator.clock import Clock
from orchestrator.journal import postgres_queries as sql
from orchestrator.journal.base import Account, AlreadyAccepted, Fenced, Lease, ResponseRef
from orchestrator.journal.postgres_link import Connection, Failures, Link, unusable
from orchestrator.journal.postgres_operations import (
    Append,
    Grant,
    Operation,
    Purge,
    Release,
    Round,
    rounds_of,
)
from orchestrator.loop.budgets import spending_of
from orchestrator.loop.events import ResponseAccepted, ResponseFinished
from serving.spending import Spending

log = logging.getLogger("warmloop.journal")

MAX_HEADS = 16_384
"""Conversations whose newest seq and fence are kept in memory."""


@dataclass(frozen=True, slots=True)
class Head:
    """A conversation as this process knows it; `seq` is the last one that was acknowledged."""

    id: int
    fence: int
    seq: int
    in_doubt: bool = False


class Writer:
    """Owns the writing connection; one batch at a time."""

    def __init__(self, link: Link, clock: Clock | None) -> None:
        self._link = link
        self._clock = clock
        self._connection: Connection | None = None
        self._synced = True
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self._doubts: dict[str, Head] = {}
        self._most_doubts = MAX_HEADS
        self._staged: dict[str, Head | None] = {}
        self._found: dict[str, Head] = {}
        """What a batch found of conversations of which nothing was known."""

    def holds(self, conversation: str) -> bool:
        """Does this process write to it, as far as it knows?"""
        return self._known(conversation) is not None

    async def commit(self, batch: Sequence[Operation]) -> None:
        """Do all of the batch and commit it; results and errors are left in the operations."""
        self._staged, self._found = {}, {}
        try:
            async with asyncio.timeout(2 * self._link.timeout_s):
                await self._commit(batch)
        except Exception as error:  # whatever it was: nothing is acknowledged, nobody may hang
            self._doubt(batch)
            self.close()
            for operation in batch:
                operation.error = unusable(error)  # one each: whoever raises it adds to it
            if not isinstance(error, Failures):
                log.exception("the journal's writer failed in an unforeseen way")
            return
        for name, head in self._staged.items():
            self._heads.pop(name, None)
            self._doubts.pop(name, None)
            if head is not None:
                (self._doubts if head.in_doubt else self._heads)[name] = head
        while len(self._heads) > MAX_HEADS:
            self._heads.popitem(last=False)

    def close(self) -> None:
        """At once, whatever the server does."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _commit(self, batch: Sequence[Operation]) -> None:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await self._link.connect()
            self._synced = True
        if len(self._doubts) > self._most_doubts:
            await self._recheck(connection)
        durable = any(operation.durable for operation in batch)
        if durable != self._synced:
            await connection.execute(f"SET synchronous_commit = {'on' if durable else 'off'}")
            self._synced = durable
        rounds = rounds_of(batch)
        alone = len(rounds) == 1 and self._is_one_statement(rounds[0])
        async with nullcontext() if alone else connection.transaction():
            for each in rounds:
                if each.grants:
                    await self._grant(connection, each.grants)
                if each.appends:
                    await self._append(connection, each.appends)
                for other in each.others:
                    if isinstance(other, Purge):
                        await self._purge(connection, other)
                if releases := [each for each in each.others if isinstance(each, Release)]:
                    await self._release(connection, releases)

    def _is_one_statement(self, only: Round) -> bool:
        return (
            not only.grants
            and not only.others
            and all(each.is_plain and each.account is None for each in only.appends)
        )

    def _doubt(self, batch: Sequence[Operation]) -> None:
        for operation in batch:
            name = operation.conversation
            head = self._known(name) or self._found.get(name)
            if head is not None and isinstance(operation, Append):
                self._heads.pop(name, None)
                self._doubts[name] = replace(head, in_doubt=True)

    async def _recheck(self, connection: Connection) -> None:
        """Forget the doubts about conversations that others have taken since: what was appended
        under our lease is refused there. So there are as many as there are leases, at most."""
        rows = await connection.fetch(sql.HEADS, list(self._doubts))
        fences = {row["name"]: row["fence"] for row in rows}
        self._doubts = {n: h for n, h in self._doubts.items() if fences.get(n) == h.fence}
        self._most_doubts = max(MAX_HEADS, 2 * len(self._doubts))

    def _known(self, name: str) -> Head | None:
        return self._heads.get(name) or self._doubts.get(name)

    def _head(self, name: str) -> Head | None:
        return self._staged[name] if name in self._staged else self._known(name)

    def _find(self, name: str, head: Head) -> None:
        self._staged[name] = head
        if self._known(name) is None:
            self._found.setdefault(name, head)

    # -- leases --

    async def _grant(self, connection: Connection, grants: list[Grant]) -> None:
        rows = await connection.fetch(
            sql.GRANT,
            [each.conversation for each in grants],
            [each.owner for each in grants],
            [each.ttl_s for each in grants],
            self._clock.now() if self._clock else None,
        )
        granted = {row["name"]: row for row in rows}
        fresh: dict[int, str] = {}
        for each in grants:
            row, head = granted.get(each.conversation), self._head(each.conversation)
            if row is None:
                each.result, each.has_moved = None, True
                # Somebody else has it, who may be of this process: what is in doubt stays so.
                if head is not None and not head.in_doubt:
                    self._staged[each.conversation] = None
                continue
            each.result = Lease(each.conversation, each.owner, row["fence"], row["expires_at"])
            if head is None or head.fence != row["fence"]:
                each.has_moved = True
                fresh[row["id"]] = each.conversation
        if fresh:
            for row in await connection.fetch(sql.ENDS, list(fresh)):
                name = fresh[row["id"]]
                self._find(name, Head(row["id"], granted[name]["fence"], row["seq"]))

    async def _release(self, connection: Connection, releases: list[Release]) -> None:
        releases.sort(key=lambda each: each.conversation)
        rows = await connection.fetch(
            sql.RELEASE,
            [each.conversation for each in releases],
            [each.lease.token for each in releases],
            [each.lease.owner for each in releases],
            self._clock.now() if self._clock else None,
        )
        released = {row["name"]: row["id"] for row in rows}
        waking = [each for each in releases if each.wake_at and each.conversation in released]
        if waking:
            ids = [released[each.conversation] for each in waking]
            await connection.execute(sql.SET_WAKE, ids, [each.wake_at for each in waking])
        for name in released:
            self._staged[name] = None

    # -- appends --

    async def _append(self, connection: Connection, appends: list[Append]) -> None:
        await self._find_heads(connection, appends)
        going: list[tuple[Append, Head]] = []
        for each in appends:
            head = self._head(each.conversation)
            if head is None or head.fence != each.lease.token:
                each.error = _fenced(each)
            elif head.in_doubt and not await self._settle(connection, each, head):
                each.error = _fenced(each)
                self._staged[each.conversation] = None
            else:
                going.append((each, head))
        if not going:
            return
        if all(each.is_plain for each, _ in going):
            arguments = (*_fences(going), *_rows(going))
            held = {row["id"] for row in await connection.fetch(sql.APPEND, *arguments)}
            going = self._keep_held(going, held)
        else:
            held = {row["id"] for row in await connection.fetch(sql.HOLD, *_fences(going))}
            going = await self._index(connection, self._keep_held(going, held))
            await connection.execute(sql.ADD_EVENTS, *_rows(going))
        if charges := _charges(going):
            await connection.execute(sql.SPEND, *columns(charges))
        for each, head in going:
            each.first_seq = head.seq + 1 if each.events else 0
            each.result = head.seq + len(each.events)
            self._staged[each.conversation] = replace(head, seq=each.result, in_doubt=False)

    async def _find_heads(self, connection: Connection, appends: list[Append]) -> None:
        unknown = [each.conversation for each in appends if self._head(each.conversation) is None]
        if unknown:
            for row in await connection.fetch(sql.HEADS, unknown):
                self._find(row["name"], Head(row["id"], row["fence"], row["seq"]))

    async def _settle(self, connection: Connection, append: Append, head: Head) -> bool:
        """Is what the log has beyond what we know of a beginning of this append?"""
        stored = [row["payload"] for row in await connection.fetch(sql.STORED, head.id, head.seq)]
        append.known = len(stored)
        return stored == list(append.payloads[: len(stored)])

    def _keep_held(
        self, going: list[tuple[Append, Head]], held: set[int]
    ) -> list[tuple[Append, Head]]:
        for each, head in going:
            if head.id not in held:
                each.error = _fenced(each)
                self._staged[each.conversation] = None
        return [(each, head) for each, head in going if head.id in held]

    async def _index(
        self, connection: Connection, going: list[tuple[Append, Head]]
    ) -> list[tuple[Append, Head]]:
        """Index what begins and ends; returns the appends of which none is refused."""
        new: list[tuple[Append, ResponseAccepted, int, int]] = []
        for append, head in going:
            for seq, event in enumerate(append.events, head.seq + 1):
                if isinstance(event, ResponseAccepted) and seq > head.seq + append.known:
                    new.append((append, event, head.id, seq))
        if new:
            # Sorted, so that two processes never wait for each other's keys.
            new.sort(key=lambda each: (each[1].idempotency_key, each[1].response_id))
            rows = await connection.fetch(
                sql.ADD_RESPONSES,
                [event.response_id for _, event, _, _ in new],
                [id_ for _, _, id_, _ in new],
                [seq for _, _, _, seq in new],
                [event.idempotency_key or None for _, event, _, _ in new],
                [event.request.get("store") is not False for _, event, _, _ in new],
            )
            added = {row["id"] for row in rows}
            for append, event, _, _ in new:
                if event.response_id not in added and append.error is None:
                    key = event.idempotency_key or None
                    row = await connection.fetchrow(sql.FIND_USED, key, event.response_id)
                    append.error = AlreadyAccepted(ResponseRef(*row)) if row else _fenced(append)
            wrong = [e.response_id for a, e, _, _ in new if a.error and e.response_id in added]
            if wrong:
                await connection.execute(sql.TAKE_BACK, wrong)
        going = [(append, head) for append, head in going if append.error is None]
        ends = [e for append, _ in going for e in append.events if isinstance(e, ResponseFinished)]
        if ends:
            ids = [each.response_id for each in ends]
            await connection.execute(sql.END_RESPONSES, ids, [each.at for each in ends])
        return going

    # -- purging --

    async def _purge(self, connection: Connection, purge: Purge) -> None:
        row = await connection.fetchrow(sql.HEADS, [purge.conversation])
        held = row and await connection.fetch(sql.HOLD, [row["id"]], [purge.lease.token])
        if not row or not held:
            purge.error = _fenced(purge)
            return
        await connection.execute(sql.PURGE_EVENTS, row["id"], purge.seqs, purge.payloads)
        await connection.execute(sql.PURGE_RESPONSES, purge.responses)
        if purge.whole:
            await connection.execute(sql.PURGE_CONVERSATION, row["id"])


def columns(charges: Sequence[tuple[Account, Spending]]) -> list[list[Any]]:
    """For `SPEND`: each account once."""
    sums: dict[Account, Spending] = {}
    for account, spending in charges:
        sums.setdefault(account, Spending()).plus(spending)
    rows = [(*astuple(account), *spent.amounts) for account, spent in sums.items()]
    return [list(column) for column in zip(*rows, strict=True)]


def _charges(going: list[tuple[Append, Head]]) -> list[tuple[Account, Spending]]:
    """What is spent by those events that were not stored, and counted, before."""
    return [
        (each.account, spent)
        for each, _ in going
        if each.account is not None and (spent := spending_of(each.events[each.known :]))
    ]


def _fenced(operation: Operation) -> Fenced:
    return Fenced(f"{operation.conversation}: another worker holds this conversation now")


def _fences(going: list[tuple[Append, Head]]) -> tuple[list[int], list[int]]:
    return [head.id for _, head in going], [head.fence for _, head in going]


def _rows(going: list[tuple[Append, Head]]) -> tuple[list[int], list[int], list[str]]:
    """What is to be inserted: conversations, places, payloads."""
    ids: list[int] = []
    seqs: list[int] = []
    payloads: list[str] = []
    for append, head in going:
        first, fresh = head.seq + append.known + 1, append.payloads[append.known :]
        ids += [head.id] * len(fresh)
        seqs += range(first, first + len(fresh))
        payloads += fresh
    return ids, seqs, payloads
