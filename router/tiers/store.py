"""What `auto` knows, on disk: written now and then, whole, beside the front door's other files.

    HOST-PORT.json       the history of turns     none at a start: the newest of other front doors
    HOST-PORT.sessions   which model each session has, and what it has spent     ours alone

    start: own files → memory        every save_every_s, when changed → own files (atomic)

Each front door has a file of its own (host and port), so that none waits for another and none
overwrites what another learnt; the price is that what one learns reaches others only when they are
new. Writing happens in a thread: no turn waits for a disk. A file that cannot be read is put aside.
A front door that is killed forgets what came after its last writing: of a budget, too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import msgspec

from router.tiers.history import History, Kind, Tally
from router.tiers.sessions import Chains, StoredChain
from serving import whole_file
from serving.owned_task import OwnedTask

_log = logging.getLogger("warmloop.tiers")
_VERSION = 1


class _Saved(msgspec.Struct):
    version: int
    rows: list[tuple[Kind, Tally]]


class _Sessions(msgspec.Struct):
    version: int
    rows: list[StoredChain]


class TierStore:
    """One front door's files."""

    def __init__(
        self, history: History, chains: Chains, folder: Path, port: int, every_s: float
    ) -> None:
        self._history = history
        self._chains = chains
        self._folder = folder
        self._path = folder / f"{socket.gethostname()}-{port}.json"
        self._sessions = self._path.with_suffix(".sessions")
        self._every_s = every_s
        self._written = 0
        self._written_chains = 0
        self._task = OwnedTask()

    async def start(self) -> None:
        """Read what there is, then keep the file up to date."""
        await asyncio.to_thread(self._read)
        await asyncio.to_thread(self._read_sessions)
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
        # Encoded here, since only the loop may look at what it changes: 10,000 kinds take 10 ms,
        # and so do 10,000 sessions.
        version = self._history.version
        if version != self._written:
            data = msgspec.json.encode(_Saved(_VERSION, self._history.rows()))
            if await self._write(self._path, data):
                self._written = version
        version = self._chains.version
        if version != self._written_chains:
            data = msgspec.msgpack.encode(_Sessions(_VERSION, self._chains.rows()))
            if await self._write(self._sessions, data):
                self._written_chains = version

    async def _write(self, path: Path, data: bytes) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(whole_file.write, path, data)
        except OSError as error:
            _log.warning("what auto has learnt is not stored: %s", error)
            return False
        return True

    def _read_sessions(self) -> None:
        try:
            saved = msgspec.msgpack.decode(self._sessions.read_bytes(), type=_Sessions)
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("%s: sessions begin anew: %s", self._sessions, type(error).__name__)
            return
        if saved.version == _VERSION:
            self._chains.restore(saved.rows)
            self._written_chains = self._chains.version

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
