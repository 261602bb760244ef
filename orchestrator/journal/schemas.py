"""Which numbered migrations a store has: the n-th leads to schema n. They only ever move on."""

from __future__ import annotations

from importlib import resources
from typing import Literal

from orchestrator.journal.base import JournalFull


def migrations(store: Literal["sqlite", "postgres"]) -> list[str]:
    """The SQL of all of them, oldest first."""
    folder = resources.files("orchestrator.journal") / "migrations" / store
    scripts = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [script.read_text(encoding="utf-8") for script in scripts]


def missing(store: Literal["sqlite", "postgres"], schema: int) -> list[tuple[int, str]]:
    """Those that lead on from a schema, each with its number. Raises JournalFull."""
    known = migrations(store)
    if schema > len(known):
        raise JournalFull(
            f"the journal is of a later release (its schema is {schema}, this release knows "
            f"{len(known)}); start that release, or give this one another journal "
            "(journal.path, journal.url)"
        )
    return list(enumerate(known, 1))[schema:]
