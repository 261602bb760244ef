"""PostgreSQL that breaks off, dies, hangs or is full in the middle of work: nothing is acknowledged
that is not stored, nothing is stored or counted twice, and all goes on by itself when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest.mock import ANY

import pytest

from orchestrator.clock import SystemClock
from orchestrator.journal import postgres_writer
from orchestrator.journal.base import Account, JournalFull, Lease
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.journal.postgres_operations import Operation
from orchestrator.loop.events import (
    AnyEvent,
    ModelIntent,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
)
from serving.config.journal import JournalConfig
from tests.postgres import SmallServer

CONVERSATIONS, STEPS = 12, 40
PATIENCE_S = 60.0
ACCOUNT = Account("acme", 60.0, 120.0, "w1")


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    """One of our own: it is killed, frozen and filled."""
    made = SmallServer()
    yield made
    made.close()


@asynccontextmanager
async def opened(url: str, timeout_s: float = 2.0) -> AsyncIterator[PostgresJournal]:
    config = JournalConfig(url=url, statement_timeout_s=timeout_s, connect_timeout_s=timeout_s)
    journal = PostgresJournal(config)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()


async def leased(journal: PostgresJournal, conversation: str = "c") -> Lease:
    lease = await journal.lease(conversation, "a", 600)
    assert lease is not None
    return lease


class Work:
    """Many conversations at once, each of which writes a response, step by step, as a run does:
    what is not acknowledged is tried again."""

    def __init__(self, journal: PostgresJournal, *, soft: bool = True) -> None:
        self.journal = journal
        self.soft = soft
        self.refused = 0
        self.stored = 0
        self.done = False
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def all(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(self._one(f"c{number}") for number in range(CONVERSATIONS)))
        self.done = True

    async def _one(self, name: str) -> None:
        lease = await leased(self.journal, name)
        pending: list[AnyEvent] = []
        for step, event in enumerate(script(name)):
            pending.append(event)
            await self.may_go_on.wait()
            try:
                # Every third is not waited for durably, as streamed text is not.
                durable = not self.soft or step % 3 > 0
                await self.journal.append(lease, pending, durable=durable, account=ACCOUNT)
            except JournalFull:
                self.refused += 1
                await asyncio.sleep(0.02)
            else:
                pending = []
                self.stored += 1
        while pending:
            try:
                await self.journal.append(lease, pending, account=ACCOUNT)
                pending = []
            except JournalFull:
                await asyncio.sleep(0.05)


def script(name: str) -> list[AnyEvent]:
    return [
        ResponseAccepted(f"r_{name}", 1.0, [], idempotency_key=f"k_{name}"),
        *(kind(step, 1, 1.0) for step in range(STEPS // 2) for kind in (ModelIntent, ModelResult)),
        ResponseFinished(f"r_{name}", 2.0, "completed"),
    ]


async def is_whole(url: str) -> None:
    """Every log holds every event, once, in order, and what they spent is counted once."""
    async with opened(url) as journal:
        for number in range(CONVERSATIONS):
            log = await journal.read(f"c{number}")
            assert [each.event for each in log] == script(f"c{number}")
            assert [each.seq for each in log] == list(range(1, len(log) + 1))
        assert await journal.due(float("inf"), 99) == []
        (spent,) = await journal.spent(0.0, but_by="")
        assert spent.spending.turns == CONVERSATIONS * (STEPS // 2)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  nobody rings a bell
            await asyncio.sleep(0.001)


async def disturb(work: Work, act: Callable[[], Awaitable[None]], times: int) -> None:
    """Act while work goes on: each time after some more was stored."""
    for number in range(1, times + 1):
        goal = number * CONVERSATIONS * STEPS // (times + 1)
        await until(lambda goal=goal: work.done or work.stored >= goal)
        await act()


async def test_connections_that_are_cut_lose_nothing_and_double_nothing(
    server: SmallServer,
) -> None:
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'warmloop' AND datname LIKE 'test_%'"
    )
    async with server.database() as url:
        async with opened(url) as journal:
            work = Work(journal)
            cutting = asyncio.create_task(disturb(work, lambda: server.execute(cut), 12))
            await work.all()
            await cutting
        assert work.refused > 0
        await is_whole(url)


async def unheard(journal: PostgresJournal, lease: Lease, patch: pytest.MonkeyPatch) -> None:
    """An append that is stored, and the connection breaks before anybody hears of it."""
    commit = journal._writer._commit

    async def breaks_after(batch: Sequence[Operation]) -> None:
        await commit(batch)
        raise ConnectionResetError("it was stored, and nobody heard of it")

    with patch.context() as broken:
        broken.setattr(journal._writer, "_commit", breaks_after)
        with pytest.raises(JournalFull):
            await journal.append(lease, [ModelResult(1, 1, 1.0)], account=ACCOUNT)


async def is_stored_once(journal: PostgresJournal, lease: Lease) -> None:
    """What was unheard, sent again with one event more: nothing stands or counts twice."""
    again: list[AnyEvent] = [ModelResult(1, 1, 1.0), ModelResult(2, 1, 1.0)]
    assert await journal.append(lease, again, account=ACCOUNT) == 2
    assert [each.event for each in await journal.read("c")] == again
    (spent,) = await journal.spent(0.0, but_by="")
    assert spent.spending.turns == 2


@pytest.mark.parametrize("order", ["in doubt, then forgotten", "forgotten, then in doubt"])
async def test_what_is_in_doubt_is_not_stored_twice_after_many_other_conversations(
    server: SmallServer, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(postgres_writer, "MAX_HEADS", 4)
    async with server.database() as url, opened(url) as journal:
        lease = await leased(journal)
        if order.startswith("in doubt"):
            await unheard(journal, lease, monkeypatch)
        for number in range(20):
            await leased(journal, f"other-{number}")
        if order.startswith("forgotten"):
            await unheard(journal, lease, monkeypatch)
        assert len(journal._writer._heads) <= 4
        assert await journal.lease("c", "a", 600) == replace(lease, expires_at=ANY)
        await is_stored_once(journal, lease)


async def test_doubts_of_conversations_that_others_have_now_are_forgotten(
    server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "MAX_HEADS", 4)
    async with server.database() as url, opened(url) as journal:
        for number in range(20):
            lease = await journal.lease(f"c{number}", "a", 0.001)
            assert lease is not None
            await unheard(journal, lease, monkeypatch)
            await asyncio.sleep(0.01)
            async with opened(url) as other:
                assert await other.lease(f"c{number}", "b", 600) is not None
        await leased(journal, "last")
        assert len(journal._writer._doubts) <= 8


async def test_what_is_in_doubt_stays_so_when_somebody_else_asks_for_the_lease(
    server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server.database() as url, opened(url) as journal:
        lease = await leased(journal)
        await unheard(journal, lease, monkeypatch)
        assert await journal.lease("c", "somebody else here", 10) is None
        await is_stored_once(journal, lease)


async def test_what_another_one_stores_is_seen_although_it_was_in_doubt_and_no_news_came(
    server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server.database() as url, opened(url) as journal, opened(url) as other:
        await journal._notes.stop()  # as with a connection that broke: news are lost
        lease = await journal.lease("c", "a", 1.0)
        assert lease is not None
        first, second, third = (
            ModelIntent(1, 1, 1.0),
            ModelResult(1, 1, 1.0),
            ModelIntent(2, 1, 2.0),
        )
        await journal.append(lease, [first])
        await unheard(journal, lease, monkeypatch)
        async with asyncio.timeout(PATIENCE_S):
            while (theirs := await other.lease("c", "b", 600)) is None:  # noqa: ASYNC110  it runs out
                await asyncio.sleep(0.05)
        await other.append(theirs, [third])
        assert await journal.lease("c", "a", 600) is None
        assert [each.event for each in await journal.read("c")] == [first, second, third]


async def test_a_server_that_is_killed_and_comes_back_loses_nothing(server: SmallServer) -> None:
    async def crash() -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    async with server.database() as url:
        async with opened(url) as journal:
            # A server that is killed may forget what was never said to be durable.
            work = Work(journal, soft=False)
            crashing = asyncio.create_task(disturb(work, crash, 2))
            await work.all()
            await crashing
        assert work.refused > 0
        await is_whole(url)


async def test_a_full_disk_acknowledges_nothing_and_heals_by_itself(server: SmallServer) -> None:
    async with server.database() as url, opened(url) as journal:
        work = Work(journal)
        lease = await leased(journal, "another")

        async def full_for_a_while() -> None:
            work.may_go_on.clear()
            await server.fill(url)
            work.may_go_on.set()
            try:
                await until(lambda: work.refused >= 2 * CONVERSATIONS)
                stored = work.stored
                with pytest.raises(JournalFull, match=r"could not extend file (?s:.)*disk space"):
                    await journal.append(lease, [ModelIntent(1, 1, 1.0)])
                assert work.stored == stored
                assert await journal.read("another") == []
            finally:
                await asyncio.to_thread(server.free)

        filling = asyncio.create_task(disturb(work, full_for_a_while, 1))
        await work.all()
        await filling
        assert await journal.append(lease, [ModelIntent(1, 1, 1.0)]) == 1
        await is_whole(url)


async def test_a_full_log_ends_the_server_and_what_it_acknowledged_is_there_when_it_is_back(
    server: SmallServer,
) -> None:
    async def full_for_a_while() -> None:
        work.may_go_on.clear()
        await server.fill_log()
        work.may_go_on.set()
        await until(lambda: work.refused >= 2 * CONVERSATIONS)
        await asyncio.to_thread(server.start)

    async with server.database() as url:
        async with opened(url) as journal:
            # A server that crashes may forget what was never said to be durable.
            work = Work(journal, soft=False)
            filling = asyncio.create_task(disturb(work, full_for_a_while, 1))
            await work.all()
            await filling
        await is_whole(url)


async def test_a_server_that_hangs_is_an_error_in_time_and_then_all_goes_on(
    server: SmallServer,
) -> None:
    asks: Sequence[Callable[[PostgresJournal, Lease], Awaitable[object]]] = (
        lambda journal, lease: journal.append(lease, [ModelIntent(2, 1, 1.0)]),
        lambda journal, _: journal.lease("other", "a", 10),
        lambda journal, _: journal.read("elsewhere"),
        lambda journal, _: journal.find_response("r"),
    )
    async with server.database() as url, opened(url, timeout_s=0.5) as journal:
        lease = await leased(journal)
        await journal.append(lease, [ModelIntent(1, 1, 1.0)])
        server.freeze()
        try:
            began = SystemClock.now()
            for ask in asks:
                async with asyncio.timeout(PATIENCE_S):
                    with pytest.raises(JournalFull, match="cannot be used"):
                        await ask(journal, lease)
            assert SystemClock.now() - began < PATIENCE_S / 2
        finally:
            server.thaw()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert await journal.append(lease, [ModelIntent(2, 1, 1.0)]) == 2
                    break
                except JournalFull:
                    await asyncio.sleep(0.1)
        assert [each.seq for each in await journal.read("c")] == [1, 2]


async def test_who_waits_for_news_hears_of_them_after_the_server_came_back(
    server: SmallServer,
) -> None:
    async with server.database() as url, opened(url) as writes, opened(url) as follows:
        lease = await leased(writes)
        waiting = asyncio.create_task(follows.wait("c", 0, PATIENCE_S))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await writes.append(lease, [ModelIntent(1, 1, 1.0)])
                    break
                except JournalFull:
                    await asyncio.sleep(0.1)
            assert await waiting is True


async def test_a_database_that_is_not_there_is_said_without_its_password(
    server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_JOURNAL_PASSWORD", "s3cret")
    journal = PostgresJournal(JournalConfig(url=server.url("nowhere")))
    with pytest.raises(JournalFull, match='database "nowhere" does not exist') as caught:
        await journal.start()
    assert "s3cret" not in str(caught.value)
    await journal.close()
