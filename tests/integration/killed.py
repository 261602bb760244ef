"""For scripts that are there to be killed: points that are announced, and what outlives them.

Every point that such a process passes is a line on stdout. At the one where it is to stop it says
`stopped ...` and waits for SIGKILL; where it is to freeze it says `frozen ...` and goes on when it
is thawed (see `killing.py`, which also says which journal a folder has).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.journal.base import Account, Journal, JournalFull, Lease
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import AnyEvent
from orchestrator.worker.acceptance import Admission
from orchestrator.worker.worker import Worker
from serving.config.journal import JournalConfig
from serving.errors import Conflict
from tests.integration.killing import FREEZE, url_in

LEASE_S = 1.0
"""Of workers that are killed: nobody in these tests waits longer for their conversations."""


class Points:
    """`stop` is the beginning of a point's name, or the number of points; empty: none."""

    def __init__(self, stop: str) -> None:
        self._freezes = stop.startswith(FREEZE)
        self._stop = stop.removeprefix(FREEZE)
        self._passed = 0

    async def __call__(self, name: str) -> None:
        self._passed += 1
        stop = self._stop
        if not stop or (not name.startswith(stop) and stop != str(self._passed)):
            print(name, flush=True)
        elif self._freezes:
            self._stop = ""
            print("frozen", name, flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            print("stopped", name, flush=True)
            await asyncio.Event().wait()


class _Announced:
    """Over a real journal: says what it is about to store, and what is stored or refused."""

    point: Points
    stored: Callable[[Sequence[AnyEvent]], object]

    async def append(
        self,
        lease: Lease,
        events: Sequence[AnyEvent],
        *,
        durable: bool = True,
        account: Account | None = None,
    ) -> int:
        kinds = "+".join(type(event).__name__ for event in events)
        await self.point(f"before {kinds}")
        try:
            seq: int = await super().append(  # type: ignore[misc]
                lease, events, durable=durable, account=account
            )
        except JournalFull:
            await self.point(f"refused {kinds}")
            raise
        self.stored(events)
        await self.point(f"after {kinds}")
        return seq


class _Sqlite(_Announced, SqliteJournal):
    pass


class _Postgres(_Announced, PostgresJournal):
    pass


async def journal_in(
    folder: Path, point: Points, stored: Callable[[Sequence[AnyEvent]], object] = lambda _: None
) -> Journal:
    """The folder's journal, started; `stored` hears of what is stored."""
    journal: _Sqlite | _Postgres
    url = url_in(folder)
    journal = _Postgres(JournalConfig(url=url)) if url else _Sqlite(folder / "journal.db")
    journal.point, journal.stored = point, stored
    await journal.start()
    return journal


async def accept(worker: Worker, *given: Any, **more: Any) -> Admission:
    """As a client does that is told to come again: a dead process still holds the lease."""
    while True:
        try:
            return await worker.accept(*given, **more)
        except Conflict:
            await asyncio.sleep(0.05)


def record(file: Path, **line: Any) -> None:
    """One line more, on disk when this returns."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, json.dumps(line).encode() + b"\n")
    os.fsync(handle)
    os.close(handle)
