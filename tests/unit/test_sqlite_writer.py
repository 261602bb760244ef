"""The SQLite journal's writer: what of a batch fails together, and what alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.journal import sqlite_writer
from orchestrator.journal.base import JournalFull
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.journal.sqlite_writer import Append, Scrub
from orchestrator.loop.events import ModelIntent, encode


async def test_a_checkpoint_that_fails_does_not_fail_the_appends_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    lease = await journal.lease("c", "a", 60)
    assert lease is not None
    monkeypatch.setattr(sqlite_writer, "SCRUB", "SELECT * FROM a_broken_disk")
    loop, event = asyncio.get_running_loop(), ModelIntent(1, 1, 5.0)
    append = Append(loop, lease, [event], [encode(event).decode()], True)
    scrub = Scrub(loop)
    journal._writer.commit([append, scrub])  # its thread sleeps meanwhile
    assert append.error is None
    assert (append.result, append.first_seq) == (1, 1)
    assert isinstance(scrub.error, JournalFull)
    assert [each.event for each in await journal.read("c")] == [event]
    assert await journal.append(lease, [event]) == 2
    await journal.close()
