"""Connections to PostgreSQL: how they are made, how long anything may take, how schemas move on.

The password never stands in a URL or a message: it comes from the environment alone. Nothing waits
for ever: a server that does not answer is as good as down, and says so after `statement_timeout_s`.
"""

from __future__ import annotations

import os
from typing import Any

import asyncpg

from orchestrator.journal.base import JournalFull
from orchestrator.journal.schemas import missing
from serving.config.journal import PASSWORD_VARIABLE, JournalConfig

Connection = Any
"""An asyncpg.Connection; asyncpg ships no types."""
Failures = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""All that a database that is down, full, slow or restarting makes of a call."""
MIGRATING = 0x7761726D6C6F6F70
"""The advisory lock under which one process migrates."""
MIGRATION_S = 600.0

# How far the schema is; the table is made with the first migration.
VERSION = "SELECT coalesce(max(version), 0) FROM warmloop_migrations"
VERSIONS = """
CREATE TABLE IF NOT EXISTS warmloop_migrations (
    version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class Link:
    """Makes connections as the configuration says."""

    def __init__(self, config: JournalConfig) -> None:
        assert config.url is not None  # noqa: S101  the caller chose this store for it
        self._url = config.url
        self.timeout_s = config.statement_timeout_s
        self.pool_size = config.pool_size
        self._options: dict[str, Any] = {
            "timeout": config.connect_timeout_s,
            "command_timeout": config.statement_timeout_s,
            "server_settings": {
                "application_name": "warmloop",
                # The server gives up first, and lets go of its locks.
                "statement_timeout": f"{int(config.statement_timeout_s * 900)}",
                "idle_in_transaction_session_timeout": f"{int(config.statement_timeout_s * 1000)}",
            },
        }
        if password := os.environ.get(PASSWORD_VARIABLE):
            self._options["password"] = password

    async def connect(self) -> Connection:
        return await asyncpg.connect(self._url, **self._options)

    async def pool(self) -> Any:
        return await asyncpg.create_pool(
            self._url, min_size=0, max_size=self.pool_size, **self._options
        )


def unusable(error: BaseException) -> JournalFull:
    said = str(error) or "it does not answer"
    return JournalFull(f"the journal's database cannot be used: {type(error).__name__}: {said}")


async def migrate(connection: Connection) -> None:
    """Apply the numbered migrations that this database has not seen, one process at a time."""
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATING, timeout=MIGRATION_S)
        await connection.execute(VERSIONS)
        version = await connection.fetchval(VERSION)
        for number, script in missing("postgres", version):
            await connection.execute(script, timeout=MIGRATION_S)
            await connection.execute(
                "INSERT INTO warmloop_migrations (version) VALUES ($1)", number
            )
