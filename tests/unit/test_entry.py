"""A replica's entry, with the real directory behind a connection that is slow, loses or fails."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import ray

from serving.cluster.directory import DirectoryActor
from serving.cluster.entry import Entry
from serving.cluster.front_queues import Queue
from serving.tables.base import Engine, EngineState

ENGINE = Engine("small-1", "small", "http://127.0.0.1:1", "small", kind="simulated")


@dataclass
class Connection:
    """Calls an actor as Ray would; what one call of `hurdles` does comes before the call."""

    actor: DirectoryActor = field(default_factory=DirectoryActor)
    hurdles: list[Any] = field(default_factory=list)
    open_now: int = 0
    most: int = 0

    def __getattr__(self, name: str) -> Any:
        return _Method(self, name)


@dataclass
class _Method:
    line: Connection
    name: str

    async def remote(self, *args: object) -> Any:
        line = self.line
        line.open_now += 1
        line.most = max(line.most, line.open_now)
        try:
            if line.hurdles:
                await line.hurdles.pop(0)()
            return await getattr(line.actor, self.name)(*args)
        finally:
            line.open_now -= 1


class Replica:
    """Whose engine the entry is about."""

    def __init__(self, line: Connection) -> None:
        self.engine = replace(ENGINE, state="starting")
        self.line = line
        self.entry = Entry(lambda: self.engine, lambda: line)

    async def tell(self, state: EngineState) -> None:
        self.engine = replace(self.engine, state=state)
        await self.entry.tell()

    async def known(self) -> list[str]:
        return [e.state for e in (await self.line.actor.snapshot()).engines]

    async def until_known(self, *states: str) -> None:
        async with asyncio.timeout(30):
            while await self.known() != list(states):  # noqa: ASYNC110 another task's doing
                await asyncio.sleep(0.01)


@asynccontextmanager
async def kept(entry: Entry) -> AsyncIterator[None]:
    task = asyncio.create_task(entry.keep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Replica:
    monkeypatch.setattr("serving.cluster.entry.CALL_S", 0.05)
    monkeypatch.setattr("serving.cluster.entry.RENEW_S", 0.05)
    return Replica(Connection())


async def lost() -> None:
    """A call that nobody answers."""
    await asyncio.Event().wait()


async def away() -> None:
    raise ray.exceptions.RayError("the actor died")


async def test_what_is_told_while_the_entry_is_renewed_is_not_taken_back_by_it(
    replica: Replica,
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await go.wait()

    replica.line.hurdles = [slow]
    async with kept(replica.entry):
        await begun.wait()
        told = asyncio.create_task(replica.tell("ready"))
        await asyncio.sleep(0)
        go.set()
        await told
        assert await replica.known() == ["ready"]
        await replica.until_known("ready")
    assert replica.line.most == 1, "two calls that are under way at once may change places"


@pytest.mark.parametrize("hurdle", [lost, away])
async def test_what_was_not_heard_is_said_again(replica: Replica, hurdle: Any) -> None:
    async with kept(replica.entry):
        await replica.until_known("starting")
        replica.line.hurdles = [hurdle]
        await replica.tell("ready")
        await replica.until_known("ready")


async def test_front_doors_have_not_heard_what_the_directory_was_not_told(replica: Replica) -> None:
    actor = replica.line.actor
    await replica.tell("ready")
    await actor.watch((await actor.snapshot()).version, 0, "front-1")
    assert await replica.entry.heard()
    replica.line.hurdles = [lost]
    await replica.tell("draining")
    assert not await replica.entry.heard()
    await replica.entry.tell()
    assert not await replica.entry.heard()
    await actor.watch((await actor.snapshot()).version, 0, "front-1")
    assert await replica.entry.heard()


async def test_a_directory_that_starts_again_is_told_everything(replica: Replica) -> None:
    replica.engine = ENGINE
    async with kept(replica.entry):
        await replica.until_known("ready")
        replica.line.actor = DirectoryActor()
        await replica.until_known("ready")


async def test_a_directory_that_is_away_stops_nobody(replica: Replica) -> None:
    replica.line.hurdles = [away] * 4
    assert await replica.entry.heard()
    assert await replica.entry.left_s() == math.inf
    assert await replica.entry.waiting("small") == Queue()
    assert await replica.entry.engines() is None
    await replica.tell("ready")
    assert await replica.entry.engines() == (ENGINE,)
    await replica.entry.leave(ENGINE.replica)
    assert await replica.entry.engines() == ()
