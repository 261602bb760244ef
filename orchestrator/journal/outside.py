"""A journal's logs as they are stored, read beside whoever owns it.

SQLite is read by a connection that cannot write, one log at a time: a read that lasts would hold
back the checkpoint, and with it the scrub of what was purged. PostgreSQL is read by a connection of
our own. A log only grows, so each is whole as of its read; the logs are not of one moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.journal.base import JournalFull
from serving.config.stack import StackConfig
from serving.errors import ConfigError

PAGE = 500
TOMBSTONE = '{"type":"purged"'

# Conversations by age, a page of them.
NAMES = "SELECT id, name FROM conversations WHERE id > $1 ORDER BY id LIMIT $2"

# A log, as it is stored.
LOG = """
SELECT seq, payload FROM events
WHERE conversation = (SELECT id FROM conversations WHERE name = $1) ORDER BY seq
"""

# Where a response lies.
CONVERSATION = """
SELECT c.name FROM conversations c JOIN responses r ON r.conversation = c.id WHERE r.id = $1
"""

Ask = Callable[..., Awaitable[Sequence[Any]]]


class Logs:
    """All logs of a journal; `place` says which journal it is."""

    def __init__(self, ask: Ask, place: str) -> None:
        self._ask = ask
        self.place = place

    async def names(self) -> AsyncIterator[str]:
        """Of all conversations, the oldest first."""
        after = 0
        while page := await self._ask(NAMES, after, PAGE):
            for after, name in page:  # noqa: B007  the last one is where the next page begins
                yield name

    async def log(self, name: str) -> list[tuple[int, str]]:
        """Places and payloads; empty when there is nothing, or nothing left but tombstones."""
        rows = [(int(seq), str(payload)) for seq, payload in await self._ask(LOG, name)]
        return [] if all(payload.startswith(TOMBSTONE) for _, payload in rows) else rows

    async def named(self, name: str) -> list[tuple[int, str]]:
        """The log of one conversation. Raises ConfigError, which says what is wrong with the id."""
        if rows := await self.log(name):
            return rows
        if await self._ask(LOG, name):
            raise ConfigError(f"CONVERSATION: {name!r} was deleted; nothing is left of it")
        if found := await self._ask(CONVERSATION, name):
            raise ConfigError(
                f"CONVERSATION: {name!r} is a response; its conversation is {found[0][0]}"
            )
        raise ConfigError(
            f"CONVERSATION: no conversation {name[:80]!r} in {self.place}; its id stands in a "
            "response's `conversation`, and looks like conv_..."
        )


@asynccontextmanager
async def logs_of(stack: StackConfig) -> AsyncIterator[Logs]:
    """The logs of a stack's journal, whether it runs or not. Raises ConfigError, JournalFull."""
    if stack.journal.url is None:
        with closing(_reading(stack.journal_path)) as connection:
            yield Logs(_sqlite(connection, stack.journal_path), str(stack.journal_path))
        return
    from orchestrator.journal.postgres_link import Failures, Link, unusable

    try:
        connection = await Link(stack.journal).connect()
        try:
            yield Logs(connection.fetch, stack.journal.url)
        finally:
            connection.terminate()
    except Failures as error:
        raise unusable(error) from error


def _reading(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no journal; name the stack with -c, and check its journal.path"
        )
    try:
        # Not mode=ro: while the stack is down, that cannot open a file in WAL mode.
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True)
        connection.execute("PRAGMA query_only=ON")
    except sqlite3.Error as error:
        raise JournalFull(f"{path}: cannot be read: {error}") from error
    return connection


def _sqlite(connection: sqlite3.Connection, path: Path) -> Ask:
    async def ask(query: str, *values: str | int) -> list[Any]:
        try:
            return connection.execute(query.replace("$", "?"), values).fetchall()
        except sqlite3.Error as error:
            raise JournalFull(f"{path}: cannot be read as a journal: {error}") from error

    return ask
