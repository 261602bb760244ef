"""Journals that releases have left behind still open, migrate, fold and mean the same."""

from __future__ import annotations

import json
import sqlite3
from importlib import resources
from pathlib import Path

import pytest

from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop import events
from tests.golden.meaning import FOLDS, journals, meanings_in, restore

NAMES = journals()


def payloads(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT payload FROM events ORDER BY rowid")]
    finally:
        connection.close()


@pytest.mark.parametrize("name", NAMES)
async def test_a_journal_of_a_release_still_means_the_same(name: str, tmp_path: Path) -> None:
    restore(name, tmp_path / "journal.db")
    expected = json.loads(FOLDS.read_text(encoding="utf-8"))
    assert name in expected, "run python tests/golden/meaning.py"
    found = await meanings_in(tmp_path / "journal.db")
    # A change here changes what running conversations will do after an upgrade: events may only
    # gain fields, and a new meaning needs a new event.
    assert found == expected[name]


@pytest.mark.parametrize("name", NAMES)
def test_no_field_of_an_event_is_dropped_renamed_or_reread(name: str, tmp_path: Path) -> None:
    restore(name, tmp_path / "journal.db")
    for payload in payloads(tmp_path / "journal.db"):
        again = events.encode(events.decode(payload)).decode()
        assert json.loads(again) == json.loads(payload)


@pytest.mark.parametrize("name", NAMES)
async def test_a_journal_of_a_release_is_indexed_as_todays(name: str, tmp_path: Path) -> None:
    restore(name, tmp_path / "journal.db")
    journal = SqliteJournal(tmp_path / "journal.db")
    assert [ref.response_id for ref in await journal.due(float("inf"), 9)] == ["resp_5"]
    found = await journal.find_idempotent("key-1")
    assert found is not None
    assert found.response_id == "resp_1"
    # What was not to be stored is known as such, and nothing is old enough to be purged at once.
    lease = await journal.lease("open", "a", 10)
    assert lease is not None
    await journal.append(lease, [events.ResponseFinished("resp_5", 450.0, "completed")])
    purgeable = await journal.purgeable(ended_before=1e12, idle_before=1000.0, limit=9)
    assert [ref.response_id for ref in purgeable.responses] == ["resp_5"]
    assert list(purgeable.conversations) == []
    await journal.close()


def test_a_migration_that_was_released_stays_as_it_is() -> None:
    """The first golden journal was made by the first migration alone."""
    migrations = resources.files("orchestrator.journal") / "migrations"
    first = (migrations / "sqlite/0001_initial.sql").read_text()
    fresh, old = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    try:
        fresh.executescript(first)
        old.executescript((FOLDS.parent / "journal-0.1.0.sql").read_text(encoding="utf-8"))
        query = "SELECT name, sql FROM sqlite_master ORDER BY name"
        assert fresh.execute(query).fetchall() == old.execute(query).fetchall()
    finally:
        fresh.close()
        old.close()
