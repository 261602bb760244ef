"""For scripts that are there to be killed: points that are announced, and what outlives them.

Every point that such a process passes is a line on stdout. At the one where it is to stop it says
`stopped ...` and waits for SIGKILL (see `killing.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.journal.base import Lease
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import AnyEvent


class Points:
    """`stop` is the beginning of a point's name, or the number of points; empty: none."""

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._passed = 0

    async def __call__(self, name: str) -> None:
        self._passed += 1
        stop = self._stop
        if stop and (stop == str(self._passed) or (not stop.isdigit() and name.startswith(stop))):
            print("stopped", name, flush=True)
            await asyncio.Event().wait()
        print(name, flush=True)


class Announcing(SqliteJournal):
    """The real journal; says what it is about to store, and what is stored."""

    def __init__(self, path: Path, point: Points) -> None:
        super().__init__(path)
        self._point = point

    async def append(
        self, lease: Lease, events: Sequence[AnyEvent], *, durable: bool = True
    ) -> int:
        kinds = "+".join(type(event).__name__ for event in events)
        await self._point(f"before {kinds}")
        seq = await super().append(lease, events, durable=durable)
        self.stored(events)
        await self._point(f"after {kinds}")
        return seq

    def stored(self, events: Sequence[AnyEvent]) -> None:
        """For those who wait for it."""


def record(file: Path, **line: Any) -> None:
    """One line more, on disk when this returns."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, json.dumps(line).encode() + b"\n")
    os.fsync(handle)
    os.close(handle)
