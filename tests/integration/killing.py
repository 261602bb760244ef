"""Running a script of `killed.py`'s kind: killing it where it stops, freezing and thawing it.

Its journal is a SQLite file in its folder, or the PostgreSQL database that the folder names.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from orchestrator.journal.base import Journal
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import AnyEvent
from serving.config.journal import JournalConfig
from tests.postgres import Server

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
"""A script that comes neither to its point nor to its end is killed then."""
FREEZE = "freeze "
"""Before a point's name: be frozen there, not killed."""
BOTH = pytest.mark.parametrize("bench", ["sqlite", "postgres"], indirect=True)
"""For a test that is to hold over both stores; `bench` is its fixture, made in `folder_for`."""
BOTH_IN_FULL = pytest.mark.parametrize(
    "bench", ["sqlite", pytest.param("postgres", marks=pytest.mark.full)], indirect=True
)


@asynccontextmanager
async def folder_for(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Path]:
    """The folder, with the store that the fixture was asked for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield folder
        return
    postgres: Server = request.getfixturevalue("postgres")
    async with database_in(folder, postgres):
        yield folder


@asynccontextmanager
async def database_in(folder: Path, server: Server) -> AsyncIterator[str]:
    """The folder's journal is a new database of that server; gives its URL."""
    async with server.database() as url:
        (folder / "journal.url").write_text(url)
        yield url


def url_in(folder: Path) -> str | None:
    """Of the folder's PostgreSQL database; None: it has a SQLite file."""
    file = folder / "journal.url"
    return file.read_text() if file.exists() else None


async def log_in(folder: Path, conversation: str) -> list[AnyEvent]:
    """What the folder's journal has of a conversation, while no script runs."""
    url = url_in(folder)
    journal: Journal
    if url is None:
        journal = SqliteJournal(folder / "journal.db")
    else:
        journal = PostgresJournal(JournalConfig(url=url))
    await journal.start()
    try:
        return [each.event for each in await journal.read(conversation)]
    finally:
        await journal.close()


class Child:
    """A script that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said: list[str] = []

    def until(self, beginning: str) -> str:
        """Its first line that begins so, or its last."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.strip())
            if line.startswith(beginning):
                break
        return self.said[-1] if self.said else ""

    def thaw(self) -> None:
        """Let it go on, once it is frozen indeed."""
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._process.send_signal(signal.SIGCONT)

    def limit_files(self, size: int) -> None:
        """No file of it can be written beyond that, as if the disk were full."""
        hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, hard))


@contextmanager
def running(script: Path, *arguments: str) -> Iterator[Child]:
    """Killed after the block, if it has not ended."""
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(LIMIT_S, process.kill)
        watchdog.start()
        try:
            yield Child(process)
        finally:
            watchdog.cancel()
            process.kill()
            process.wait(LIMIT_S)


def run(script: Path, *arguments: str) -> list[str]:
    """Its lines, the last one where it was killed, or with which it ended."""
    with running(script, *arguments) as child:
        child.until("stopped")
    return child.said or [""]
