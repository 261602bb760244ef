"""Where a stack keeps its conversations, how safely and for how long."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, model_validator

from serving.config.sections import Frozen

PASSWORD_VARIABLE = "WARMLOOP_JOURNAL_PASSWORD"  # noqa: S105  its name, not its value


class JournalConfig(Frozen):
    """Where conversations are kept: a SQLite file, or PostgreSQL for several front doors."""

    path: Path | None = None
    """SQLite file; default: journal.db in the stack's folder."""
    url: str | None = None
    """`postgresql://user@host:5432/database`; the password is in WARMLOOP_JOURNAL_PASSWORD."""
    pool_size: int = Field(default=8, ge=1, le=200)
    """Connections to PostgreSQL for reading; three more write, listen and tell."""
    statement_timeout_s: float = Field(default=5.0, ge=0.5)
    """PostgreSQL is taken for down when it does not answer a statement for so long."""
    connect_timeout_s: float = Field(default=5.0, ge=0.5)
    max_queued: int = Field(default=4096, ge=1)
    """Operations that may wait to be stored; beyond, new requests get 503 and running ones wait."""
    lease_s: float = Field(default=10.0, gt=0)
    delta_batch_s: float = Field(default=0.05, gt=0)
    """Streamed text is journaled and sent in batches of this length."""
    retention_days: float | None = Field(default=None, gt=0)
    """Conversations without news for so long are purged; default: never."""
    unstored_s: float = Field(default=60.0, ge=0)
    """A response with `store: false` is purged so long after its end, so that a slow reader of its
    stream can read on."""

    @property
    def retention_s(self) -> float | None:
        return None if self.retention_days is None else 86_400 * self.retention_days

    @model_validator(mode="after")
    def _one_place(self) -> JournalConfig:
        if self.url is None:
            return self
        if self.path is not None:
            raise ValueError("journal.path and journal.url: keep one; a journal is in one place")
        if not self.url.startswith(("postgresql://", "postgres://")):
            raise ValueError(
                "journal.url: does not begin with postgresql://; "
                "write postgresql://user@host:5432/database"
            )
        parts = urlsplit(self.url)
        if parts.password or "password" in parse_qs(parts.query):
            # The value is not repeated: this message goes to logs.
            raise ValueError(
                f"journal.url: holds a password; take it out and put it into the environment "
                f"variable {PASSWORD_VARIABLE}"
            )
        return self
