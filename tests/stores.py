"""Every kind of journal, for tests that hold all of them to the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.clock import Clock
from orchestrator.journal.base import Journal
from orchestrator.journal.memory import MemoryJournal
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.journal.sqlite import SqliteJournal
from serving.config.journal import JournalConfig
from tests.postgres import Server

KINDS = ("memory", "sqlite", "postgres")


@asynccontextmanager
async def opened(
    kind: str, request: pytest.FixtureRequest, folder: Path, clock: Clock
) -> AsyncIterator[Journal]:
    """A new, empty journal of that kind."""
    async with AsyncExitStack() as life:
        journal: Journal
        if kind == "memory":
            journal = MemoryJournal(clock=clock)
        elif kind == "sqlite":
            journal = SqliteJournal(folder / "journal.db", clock=clock)
        else:
            postgres: Server = request.getfixturevalue("postgres")
            url = await life.enter_async_context(postgres.database())
            journal = PostgresJournal(JournalConfig(url=url), clock=clock)
        life.push_async_callback(journal.close)
        await journal.start()
        yield journal
