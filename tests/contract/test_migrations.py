"""A journal at any schema that a release may have left opens, means the same, and goes on.

Each begins as the oldest release wrote it (`tests/golden`), and is taken to the schema in question
by the migrations themselves.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Literal, Protocol

import asyncpg
import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.journal.base import Journal, JournalFull
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.journal.schemas import migrations
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import ResponseAccepted, ResponseFinished
from orchestrator.loop.machine import fold_all
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, says
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig, AgentLimits
from serving.config.journal import JournalConfig
from tests.golden.meaning import FOLDS, HERE, meanings, restore
from tests.postgres import Server

PATIENCE_S = 60.0


class Store(Protocol):
    """Where a journal lies, empty at first."""

    kind: Literal["sqlite", "postgres"]
    oldest: str
    """The golden journal of the first schema, by its name in `folds.json`."""

    async def leave(self, schema: int) -> None:
        """As a release left it that knew so many migrations."""

    def journal(self) -> Journal:
        """By today's code, not started."""

    async def schema(self) -> int:
        """The one that it is at."""

    async def claim(self, schema: int) -> None:
        """It says that it is at that one."""

    async def tables(self) -> Any:
        """All that its schema is made of, to be compared."""


class Sqlite:
    kind = "sqlite"
    oldest = "journal-0.1.0"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def leave(self, schema: int) -> None:
        restore(self.oldest, self._path)
        with closing(sqlite3.connect(self._path)) as connection:
            for number, script in enumerate(migrations("sqlite")[1:schema], 2):
                connection.executescript(f"{script}\nPRAGMA user_version={number}")

    def journal(self) -> Journal:
        return SqliteJournal(self._path)

    async def schema(self) -> int:
        return int(self._rows("PRAGMA user_version")[0][0])

    async def claim(self, schema: int) -> None:
        self._rows(f"PRAGMA user_version={schema}")

    async def tables(self) -> Any:
        return self._rows("SELECT name, sql FROM sqlite_master ORDER BY name")

    def _rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self._path)) as connection:
            return connection.execute(query).fetchall()


class Postgres:
    kind = "postgres"
    oldest = "journal-0.2.0"  # written as postgres-0.2.0, too

    def __init__(self, url: str) -> None:
        self._url = url

    async def leave(self, schema: int) -> None:
        async with self._connected() as connection:
            await connection.execute((HERE / "postgres-0.2.0.sql").read_text(encoding="utf-8"))
            for script in migrations("postgres")[1:schema]:
                await connection.execute(script)
        for number in range(2, schema + 1):
            await self.claim(number)

    def journal(self) -> Journal:
        return PostgresJournal(JournalConfig(url=self._url))

    async def schema(self) -> int:
        # Each number is there once: it is the primary key.
        async with self._connected() as connection:
            rows = await connection.fetch(
                "SELECT version FROM warmloop_migrations ORDER BY version"
            )
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        return len(rows)

    async def claim(self, schema: int) -> None:
        async with self._connected() as connection:
            await connection.execute("INSERT INTO warmloop_migrations VALUES ($1)", schema)

    async def tables(self) -> Any:
        async with self._connected() as connection:
            return [await connection.fetch(query) for query in (COLUMNS, INDEXES, CONSTRAINTS)]

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self._url)
        try:
            yield connection
        finally:
            await connection.close()


COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
CONSTRAINTS = """
SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""


@asynccontextmanager
async def store_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Store]:
    if kind == "sqlite":
        yield Sqlite(folder / "journal.db")
        return
    postgres: Server = request.getfixturevalue("postgres")
    async with postgres.database() as url:
        yield Postgres(url)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with store_of(request.param, request, tmp_path) as made:
        yield made


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Journal]:
    journal = store.journal()
    try:
        await journal.start()
        yield journal
    finally:
        await journal.close()


def each_schema(*kinds: Literal["sqlite", "postgres"], first: int = 1) -> pytest.MarkDecorator:
    """For a test that is to hold whatever has been released; 0: there is nothing yet."""
    cases = [(kind, n) for kind in kinds for n in range(first, len(migrations(kind)) + 1)]
    return pytest.mark.parametrize(("store", "schema"), cases, indirect=["store"])


@each_schema("sqlite", "postgres")
async def test_whichever_schema_it_is_at_it_means_the_same_and_is_then_todays(
    store: Store, schema: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    await store.leave(schema)
    assert await store.schema() == schema
    async with opened(store) as journal:
        assert await meanings(journal) == json.loads(FOLDS.read_text("utf-8"))[store.oldest]
        assert [each.response_id for each in await journal.due(float("inf"), 9)] == ["resp_5"]
        found = await journal.find_idempotent("key-1")
        assert found is not None
        assert found.response_id == "resp_1"
        assert await journal.asking("", 9) == []
    assert await store.schema() == len(migrations(store.kind))
    (tmp_path / "fresh").mkdir()
    async with store_of(store.kind, request, tmp_path / "fresh") as fresh:
        async with opened(fresh):
            pass
        assert await store.tables() == await fresh.tables()


@tool(kind="pure")
def look(n: int = 0) -> str:
    """Look."""
    return f"seen {n}"


@each_schema("sqlite", "postgres")
async def test_whichever_schema_it_is_at_its_conversations_go_on(store: Store, schema: int) -> None:
    await store.leave(schema)
    asked: list[list[dict[str, Any]]] = []

    def script(turn: ModelTurn) -> Iterator[Scripted]:
        asked.append(json.loads(turn.body)["messages"])
        return iter(says("and on"))

    # They began long ago.
    limits = AgentLimits(max_seconds=1e12)
    config = AgentConfig(version=2, instructions="Look.", reply_tool=False, limits=limits)
    agents = Agents([resolve("desk", config, [from_function(look)])])
    async with opened(store) as journal:
        before = {name: await journal.read(name) for name in ("finished", "open")}
        worker = Worker(journal=journal, agents=agents, models=ScriptedModel(script))
        async with asyncio.timeout(PATIENCE_S), worker:
            await worker.run("open")  # in which a process died
            more = ResponseAccepted("resp_new", 1e9, [{"role": "user", "content": "Go on."}])
            await worker.accept("finished", more)
            await worker.run("finished")
    async with opened(store) as journal:
        for name, log in before.items():
            now = await journal.read(name)
            assert now[: len(log)] == log
            assert [each.seq for each in now] == list(range(1, len(now) + 1))
            last = now[-1].event
            assert isinstance(last, ResponseFinished)
            assert last.status == "completed"
            assert fold_all(now).run is None
        assert await journal.due(float("inf"), 9) == []
        assert await journal.find_response("resp_new") is not None
    opened_again, went_on = asked
    assert opened_again[-1]["content"] == "seen 0"  # the call that was cut ran again
    texts = json.dumps(went_on)
    assert all(text in texts for text in ("result 3", "the end", "Go on."))


@each_schema("postgres", first=0)  # a SQLite journal has one process: its lock sees to that
async def test_several_that_start_at_once_migrate_once(store: Store, schema: int) -> None:
    if schema:
        await store.leave(schema)
    logs = json.loads(FOLDS.read_text("utf-8"))[store.oldest] if schema else {}
    async with AsyncExitStack() as life:
        journals = [store.journal() for _ in range(3)]
        for each in journals:
            life.push_async_callback(each.close)
        await asyncio.gather(*(each.start() for each in journals))
        assert await store.schema() == len(migrations(store.kind))
        for each in journals:
            assert await meanings(each) == logs


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_a_journal_of_a_later_release_is_refused_and_left_alone(store: Store) -> None:
    known = len(migrations(store.kind))
    await store.leave(known)
    await store.claim(known + 1)
    before = await store.tables()
    with pytest.raises(JournalFull) as refused:
        async with opened(store):
            pass
    said = str(refused.value)
    assert "of a later release" in said
    assert f"its schema is {known + 1}, this release knows {known}" in said
    assert "start that release" in said
    assert await store.schema() == known + 1
    assert await store.tables() == before
