"""LISTEN and NOTIFY: how processes on one PostgreSQL journal wake each other.

    news CONVERSATION SEQ   its log now reaches so far: who follows it elsewhere reads on
    anything else           what a worker sends to the others

Notes are wake-ups, never the truth: one that is lost costs a little time, because everybody who
waits also looks by himself now and then. They are sent after the commit, many in one statement,
without an fsync: a NOTIFY in a transaction makes the commits of all processes queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.journal import postgres_queries as sql
from orchestrator.journal.postgres_link import Connection, Failures, Link

log = logging.getLogger("warmloop.journal")
CHANNEL = "warmloop"
NOTE_BYTES = 7_000
"""PostgreSQL takes 8,000 in a note."""
GATHER_S = 0.005
"""News of so long goes together."""
MAX_NEWS = 50_000
RECONNECT_S = 1.0


class Notes:
    """Sends to the other processes, and hears them; `missed` when some may have been lost."""

    def __init__(
        self, link: Link, owner: str, news: Callable[[str, int], None], missed: Callable[[], None]
    ) -> None:
        self._link = link
        self._owner = owner
        self._news = news
        self._missed = missed
        self._heard: list[Callable[[str], object]] = []
        self._pending: dict[str, int] = {}
        self._said: list[str] = []
        self._bell = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._tell())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def listen(self, heard: Callable[[str], object]) -> None:
        self._heard.append(heard)

    def tell_news(self, conversation: str, seq: int) -> None:
        if len(self._pending) < MAX_NEWS:
            self._pending[conversation] = seq
        self._bell.set()

    def tell(self, note: str) -> None:
        self._said.append(note)
        self._bell.set()

    async def _listen(self) -> None:
        while True:
            try:
                connection = await self._link.connect()
            except Failures as error:
                log.warning("cannot listen to other front doors: %s", error)
                await asyncio.sleep(RECONNECT_S)
                continue
            ended = asyncio.Event()
            try:
                connection.add_termination_listener(lambda _, ended=ended: ended.set())
                await connection.add_listener(CHANNEL, self._receive)
                self._missed()
                await ended.wait()
            except Failures as error:
                log.warning("cannot listen to other front doors: %s", error)
            finally:
                connection.terminate()
            await asyncio.sleep(RECONNECT_S)

    def _receive(self, _: object, __: int, ___: str, payload: object) -> None:
        owner, *lines = str(payload).split("\n")
        if owner == self._owner:
            return
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "news":
                conversation, _, seq = rest.rpartition(" ")
                self._news(conversation, int(seq))
            else:
                for heard in self._heard:
                    heard(line)

    async def _tell(self) -> None:
        connection: Connection | None = None
        try:
            while True:
                await self._bell.wait()
                await asyncio.sleep(GATHER_S)
                self._bell.clear()
                lines = [
                    *self._said,
                    *(f"news {name} {seq}" for name, seq in self._pending.items()),
                ]
                self._said, self._pending = [], {}
                try:
                    if connection is None or connection.is_closed():
                        connection = await self._link.connect()
                        await connection.execute("SET synchronous_commit = off")
                    await connection.execute(sql.NOTIFY, CHANNEL, _packed(self._owner, lines))
                except Failures as error:
                    log.warning("cannot tell other front doors: %s", error)
                    if connection is not None:
                        connection.terminate()
        finally:
            if connection is not None:
                connection.terminate()


def _packed(owner: str, lines: list[str]) -> list[str]:
    """As few notes as they fit into."""
    notes = [owner]
    for line in lines:
        if len(notes[-1]) + len(line) + 1 > NOTE_BYTES:
            notes.append(owner)
        notes[-1] += "\n" + line
    return notes
