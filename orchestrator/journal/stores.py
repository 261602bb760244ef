"""Which journal a stack has: a SQLite file beside one front door, or PostgreSQL for several."""

from __future__ import annotations

from orchestrator.journal.base import Journal
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.journal.watch import Watch
from serving.config.stack import StackConfig


def open_journal(config: StackConfig, watch: Watch | None = None) -> Journal:
    """The journal that the configuration names. Raises JournalBusy, JournalFull."""
    if config.journal.url is None:
        return SqliteJournal(config.journal_path, max_queued=config.journal.max_queued, watch=watch)
    from orchestrator.journal.postgres import PostgresJournal  # asyncpg takes 0.1 s to import

    return PostgresJournal(config.journal, watch=watch)
