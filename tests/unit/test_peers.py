"""Front doors that tell each other what they learn, in one process and in virtual order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from router.peers.http import warn_when_not_alone
from router.peers.memory import Room
from router.peers.news import Batch, Signer, Turned, Untrusted
from router.peers.peers import Peers
from serving.cluster.directory import Snapshot, encode
from serving.config.router import PeersConfig
from serving.tables.discovery import RayTable, other_fronts
from tests.integration.engines_behaving_badly import until


class Beliefs:
    """A `Shared` that keeps what it is told."""

    def __init__(self) -> None:
        self.learnt: list[Turned] = []
        self.known: list[Turned] = []
        self.under_way: dict[str, int] = {}

    def learn(self, news: Iterable[Turned]) -> None:
        self.learnt.extend(news)

    def table(self, limit: int) -> list[Turned]:
        return self.known[:limit]

    def ready(self) -> bool:
        return True

    def loads(self) -> Mapping[str, int]:
        return self.under_way


class Door:
    def __init__(self, room: Room, name: str, urls: list[str], **knobs: float) -> None:
        self.room = room
        self.url = f"http://{name}"
        self.beliefs = Beliefs()
        settings = PeersConfig.model_validate({"batch_s": 0.001, **knobs})
        self.peers = Peers(name, lambda: urls, room, self.beliefs, settings)

    async def open(self) -> None:
        self.room.doors[self.url] = self.peers
        await self.peers.start()

    async def close(self) -> None:
        self.room.doors.pop(self.url, None)
        await self.peers.stop()


@asynccontextmanager
async def doors(count: int, **knobs: float) -> AsyncIterator[list[Door]]:
    """All of them know the same list, with their own addresses in it."""
    room = Room()
    urls = [f"http://{i}" for i in range(count)]
    made = [Door(room, str(i), urls, **knobs) for i in range(count)]
    try:
        for door in made:
            await door.open()
        await until(lambda: all(len(d.peers._peers) == count for d in made))
        yield made
    finally:
        for door in made:
            await door.close()


def turned(number: int, **more: object) -> Turned:
    return Turned("big", "big-0", b"key", [b"%d" % number], [100], **more)  # type: ignore[arg-type]


async def test_what_one_learns_all_others_hear_and_it_does_not_hear_itself() -> None:
    async with doors(3) as (one, two, three):
        one.peers.tell(turned(1))
        one.peers.tell(turned(2))
        await until(lambda: len(two.beliefs.learnt) == len(three.beliefs.learnt) == 2)
        assert two.beliefs.learnt == [turned(1), turned(2)]
        assert one.beliefs.learnt == []


async def test_only_the_newest_word_on_a_place_travels() -> None:
    async with doors(2, batch_s=0.05) as (one, two):
        await until(lambda: one.peers.present == 1)
        for tail in range(100):
            one.peers.tell(turned(1, tail_tokens=tail))
        await until(lambda: two.beliefs.learnt != [])
        assert two.beliefs.learnt == [turned(1, tail_tokens=99)]


async def test_a_peer_that_is_away_costs_a_bounded_queue_and_hears_the_newest_later() -> None:
    async with doors(2, max_queued=10) as (one, two):
        await two.close()
        for number in range(1000):
            one.peers.tell(turned(number))
        await until(lambda: one.peers.dropped >= 989)
        await until(lambda: one.peers.present == 0)
        await two.open()
        await until(lambda: turned(999) in two.beliefs.learnt)
        assert len(two.beliefs.learnt) <= 10


async def test_who_comes_late_asks_one_peer_for_its_table() -> None:
    async with doors(2) as (one, two):
        one.beliefs.known = two.beliefs.known = [turned(i) for i in range(5)]
        late = Door(one.room, "late", [one.url, two.url], max_table=5)
        await late.open()
        try:
            await until(lambda: late.beliefs.learnt == one.beliefs.known)
        finally:
            await late.close()


async def test_each_knows_what_the_others_have_under_way() -> None:
    async with doors(3) as (one, two, three):
        two.beliefs.under_way = {"big-0": 100}
        three.beliefs.under_way = {"big-0": 10, "big-1": 1}
        two.peers.tell(turned(1))
        three.peers.tell(turned(2))
        await until(lambda: one.peers.load("big-0") == 110)
        assert one.peers.load("big-1") == 1
        assert one.peers.load("big-2") == 0
        two.beliefs.under_way = {}
        await until(lambda: one.peers.load("big-0") == 10)


async def test_the_load_of_one_that_died_counts_no_more_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.peers.peers.LOAD_S", 0.05)
    async with doors(2) as (one, two):
        two.beliefs.under_way = {"big-0": 100}
        two.peers.tell(turned(1))
        await until(lambda: one.peers.load("big-0") == 100)
        await two.close()
        await until(lambda: one.peers.load("big-0") == 0)


async def test_peers_may_come_and_go() -> None:
    room = Room()
    urls = ["http://a"]
    a, b = Door(room, "a", []), Door(room, "b", urls)
    await a.open()
    await b.open()
    try:
        await until(lambda: len(b.peers._peers) == 1)
        b.peers.tell(turned(1))
        await until(lambda: a.beliefs.learnt == [turned(1)])
        urls.clear()
        await until(lambda: not b.peers._peers)
        b.peers.tell(turned(2))
    finally:
        await a.close()
        await b.close()


async def test_nonsense_is_refused_and_changes_nothing() -> None:
    async with doors(1) as (one,):
        for body in (b"", b"x", msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode(["n", 5])):
            with pytest.raises(msgspec.DecodeError):
                one.peers.receive(body)
        negative = ["n", [["big", "big-0", b"k", [b"x"], [-1]]]]
        with pytest.raises(msgspec.DecodeError):
            one.peers.receive(msgspec.msgpack.encode(negative))
        assert one.beliefs.learnt == []


async def test_one_that_stops_has_no_task_left() -> None:
    before = asyncio.all_tasks()
    async with doors(3):
        pass
    assert asyncio.all_tasks() == before


def test_only_who_has_the_secret_is_believed() -> None:
    ours, theirs = Signer("a" * 32), Signer("b" * 32)
    body = msgspec.msgpack.encode(Batch("one"))
    header = ours.sign("/p", body, 1000.0)["x-warmloop-peer"]
    ours.check("/p", body, header, 1030.0)
    refused = [
        (theirs, "/p", body, header, 1000.0),
        (ours, "/q", body, header, 1000.0),
        (ours, "/p", body + b"x", header, 1000.0),
        (ours, "/p", body, header, 1100.0),
        (ours, "/p", body, "", 1000.0),
        (ours, "/p", body, "nonsense \xff", 1000.0),
    ]
    for signer, path, said, given, now_s in refused:
        with pytest.raises(Untrusted):
            signer.check(path, said, given, now_s)


async def test_without_a_secret_it_is_said_once_that_there_are_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("router.peers.http.LOOK_S", 0.001)
    table = RayTable(Path("nothing"))
    ours = {"WARMLOOP_FRONT_URL": "http://a"}
    warned = asyncio.create_task(warn_when_not_alone(lambda: other_fronts(table, ours)))
    table.hear(encode(Snapshot(1, (), ("http://a",))))
    await asyncio.sleep(0.02)
    assert not warned.done()
    table.hear(encode(Snapshot(2, (), ("http://a", "http://b"))))
    await warned
    [said] = caplog.messages
    assert "WARMLOOP_PEER_SECRET is not set" in said
    assert "(http://b)" in said
