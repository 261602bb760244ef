"""The history of turns on disk: written now and then, whole, beside the front door's other files.

    start: own file → history        every save_every_s, when changed → own file (atomic)
           none: the newest of other front doors

Each front door has a file of its own (host and port), so that none waits for another and none
overwrites what another learnt; the price is that what one learns reaches others only when they are
new. Writing happens in a thread: no turn waits for a disk. A file that cannot be read is put aside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

import msgspec

from router.tier_history import History, Kind, Tally
from serving.owned_task import OwnedTask

_log = logging.getLogger("warmloop.tiers")
_VERSION = 1


class _Saved(msgspec.Struct):
    version: int
    rows: list[tuple[Kind, Tally]]


class TierStore:
    """One front door's file."""

    def __init__(self, history: History, folder: Path, port: int, every_s: float) -> None:
        self._history = history
        self._folder = folder
        self._path = folder / f"{socket.gethostname()}-{port}.json"
        self._every_s = every_s
        self._written = 0
        self._task = OwnedTask()

    async def start(self) -> None:
        """Read what there is, then keep the file up to date."""
        await asyncio.to_thread(self._read)
        self._task.start(self._keep, "tier-history")

    async def stop(self) -> None:
        """Write what is new, for the next start."""
        await self._task.stop()
        await self._save()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._save()

    async def _save(self) -> None:
        version = self._history.version
        if version == self._written:
            return
        # Encoded here, since only the loop may look at what it changes: 10,000 kinds take 10 ms.
        data = msgspec.json.encode(_Saved(_VERSION, self._history.rows()))
        try:
            await asyncio.to_thread(_write, self._path, data)
        except OSError as error:
            _log.warning("the history of turns is not stored: %s", error)
        else:
            self._written = version

    def _read(self) -> None:
        mine = [self._path] if self._path.exists() else []
        others = sorted(self._folder.glob("*.json"), key=_age, reverse=True) if not mine else []
        for path in mine + others:
            try:
                saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
            except OSError as error:
                _log.warning("the history of turns cannot be read: %s", error)
            except (ValueError, RecursionError):
                aside = path.with_suffix(".broken")
                _log.warning("%s is no history of turns; put aside as %s", path, aside.name)
                if path == self._path:
                    path.replace(aside)
            else:
                if saved.version == _VERSION:
                    self._history.restore(saved.rows)
                    self._written = self._history.version if path == self._path else -1
                    return


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
