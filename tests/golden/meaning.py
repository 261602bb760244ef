"""What a golden journal means: its logs folded, as plain values.

python tests/golden/meaning.py     adds journals that `folds.json` does not have; never changes
                                   what it says of the others
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.journal.base import Journal, Recorded
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.history import items_of
from orchestrator.loop.machine import fold_all

HERE = Path(__file__).parent
FOLDS = HERE / "folds.json"
CONVERSATIONS = ("finished", "limited", "open", "decided")

SPENT = ("since", "turns", "tool_calls", "prompt_tokens", "cached_tokens", "output_tokens")


def journals() -> list[str]:
    return sorted(each.stem for each in HERE.glob("journal-*.sql"))


def restore(name: str, path: Path) -> None:
    """Make the file that a release has left behind."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript((HERE / f"{name}.sql").read_text(encoding="utf-8"))
    finally:
        connection.close()


def meaning(log: list[Recorded]) -> dict[str, Any]:
    """The state that these events lead to; what it is made of may change, what it says may not."""
    state = fold_all(log)
    run = state.run
    value = {
        "agent": state.agent,
        "tenant": state.tenant,
        "seq": state.seq,
        "step": state.step,
        "history": items_of(state.history),
        "last_response_id": state.last_response_id,
        "last_status": state.last_status,
        "run": run
        and {
            "response_id": run.response_id,
            "phase": run.phase,
            "spent": {name: getattr(run.spent, name) for name in SPENT},
            "calls": {name: each.attempts for name, each in run.calls.items()},
        },
    }
    plain: dict[str, Any] = json.loads(msgspec.json.encode(value))
    return plain


async def meanings(journal: Journal) -> dict[str, Any]:
    logs = {name: await journal.read(name) for name in CONVERSATIONS}
    return {name: meaning(log) for name, log in logs.items() if log}


async def meanings_in(path: Path) -> dict[str, Any]:
    """Of a SQLite file."""
    journal = SqliteJournal(path)
    try:
        return await meanings(journal)
    finally:
        await journal.close()


def main() -> None:
    folds = json.loads(FOLDS.read_text()) if FOLDS.exists() else {}
    for name in journals():
        if name not in folds:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "journal.db"
                restore(name, path)
                folds[name] = asyncio.run(meanings_in(path))
    FOLDS.write_text(json.dumps(folds, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
