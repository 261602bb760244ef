"""The listener to an engine's KV events over real sockets: order, gaps, restarts, nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from router.kv.events import KvFeed
from router.kv.wire import AllBlocksCleared, BlockRemoved, BlockStored, Event
from serving.engines import kv_endpoints
from tests.integration.engines_behaving_badly import until

END = (-1).to_bytes(8, "big", signed=True)


class Notes:
    """What a feed told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def heard(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, BlockStored):
                self.said += event.block_hashes
            else:
                self.said.append(type(event).__name__)

    def lost(self) -> None:
        self.said.append("lost")

    def restarted(self) -> None:
        self.said.append("restarted")


class Engine:
    """The publishing side, by hand."""

    def __init__(self, events: zmq.asyncio.Socket, replay: zmq.asyncio.Socket) -> None:
        self._events = events
        self._replay = replay
        self.kept: list[tuple[int, bytes]] = []
        self.asked: list[int] = []
        self.time_s = 1.0

    def batch(self, *hashes: int) -> bytes:
        self.time_s += 1
        return msgspec.msgpack.encode([self.time_s, [stored(h) for h in hashes], 0])

    async def publish(self, number: int, payload: bytes, *, keep: bool = True) -> None:
        await self._events.send_multipart([b"", number.to_bytes(8, "big"), payload])
        if keep:
            self.kept.append((number, payload))

    def only_keep(self, number: int, payload: bytes) -> None:
        """Nobody hears it when it happens."""
        self.kept.append((number, payload))

    async def answer(self) -> None:
        while True:
            who, _, first = await self._replay.recv_multipart()
            self.asked.append(int.from_bytes(first, "big"))
            for number, payload in self.kept:
                if number >= self.asked[-1]:
                    frames = [who, b"", b"", number.to_bytes(8, "big"), payload]
                    await self._replay.send_multipart(frames)
            await self._replay.send_multipart([who, b"", b"", END, b""])


def stored(block: int, **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": [block],
        "parent_block_hash": None,
        "token_ids": [1, 2],
        "block_size": 2,
        **more,
    }


@asynccontextmanager
async def listened(
    prepare: Callable[[Engine], None] = lambda _: None, *, silence_s: float = 60
) -> AsyncIterator[tuple[Engine, Notes, KvFeed]]:
    endpoints = kv_endpoints.on("127.0.0.1")
    context = zmq.asyncio.Context()
    events, replay = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
    events.bind(endpoints.events)
    replay.bind(endpoints.replay)
    engine, notes = Engine(events, replay), Notes()
    prepare(engine)
    feed = KvFeed(context, endpoints.events, endpoints.replay, notes, silence_s=silence_s)
    tasks = [asyncio.create_task(engine.answer()), asyncio.create_task(feed.follow())]
    try:
        assert (await events.recv())[:1] == b"\1"  # it has subscribed
        await until(lambda: len(engine.asked) == 1)
        yield engine, notes, feed
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        context.destroy(linger=0)
        kv_endpoints.remove(endpoints)


async def test_what_happened_before_it_listened_is_asked_for() -> None:
    def before(engine: Engine) -> None:
        engine.only_keep(0, engine.batch(10))
        engine.only_keep(1, engine.batch(11))

    async with listened(before) as (engine, notes, _):
        await engine.publish(2, engine.batch(12))
        await until(lambda: notes.said == [10, 11, 12])


async def test_a_history_that_the_engine_no_longer_has_is_no_loss_for_who_comes_late() -> None:
    async with listened(lambda e: e.only_keep(500, e.batch(10))) as (_, notes, feed):
        await until(lambda: notes.said == [10])
        assert feed.gaps == 0


async def test_what_was_missed_is_asked_for_and_heard_in_its_order() -> None:
    async with listened() as (engine, notes, feed):
        await engine.publish(0, engine.batch(10))
        await until(lambda: notes.said == [10])
        engine.only_keep(1, engine.batch(11))
        engine.only_keep(2, engine.batch(12))
        await engine.publish(3, engine.batch(13))
        await until(lambda: notes.said == [10, 11, 12, 13])
        assert feed.gaps == 0
        assert engine.asked == [0, 1]


async def test_what_the_engine_has_no_more_is_lost_and_it_goes_on_from_there() -> None:
    async with listened() as (engine, notes, feed):
        await engine.publish(0, engine.batch(10))
        await until(lambda: notes.said == [10])
        await engine.publish(7, engine.batch(17))
        await engine.publish(8, engine.batch(18))
        await until(lambda: notes.said == [10, "lost", 17, 18])
        assert feed.gaps == 1


async def test_another_engine_at_the_same_address_holds_nothing_of_the_last_ones() -> None:
    async with listened() as (engine, notes, _):
        for number in range(5):
            await engine.publish(number, engine.batch(number))
        await until(lambda: len(notes.said) == 5)
        engine.kept.clear()
        engine.only_keep(0, engine.batch(20))
        await engine.publish(1, engine.batch(21))
        await until(lambda: notes.said[5:] == ["restarted", 20, 21])


async def test_a_message_that_comes_twice_counts_once() -> None:
    async with listened() as (engine, notes, _):
        payload = engine.batch(10)
        await engine.publish(0, payload)
        await engine.publish(0, payload, keep=False)
        await engine.publish(1, engine.batch(11))
        await until(lambda: notes.said == [10, 11])


async def test_the_last_message_of_a_burst_is_found_when_it_was_lost() -> None:
    async with listened(silence_s=0.1) as (engine, notes, _):
        await engine.publish(0, engine.batch(10))
        engine.only_keep(1, engine.batch(11))
        await until(lambda: notes.said == [10, 11])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense",
        msgspec.msgpack.encode("text"),
        msgspec.msgpack.encode([1.0, [7], 0]),
        msgspec.msgpack.encode([1.0, [{"type": "BlockStored"}], 0]),
        msgspec.msgpack.encode([1.0, [["BlockStored", "x"]], 0]),
    ],
)
async def test_nonsense_is_a_loss_and_nothing_else(payload: bytes) -> None:
    async with listened() as (engine, notes, _):
        await engine.publish(0, payload, keep=False)
        await engine.publish(1, engine.batch(11))
        await until(lambda: notes.said == ["lost", 11])


async def test_frames_of_other_shapes_are_passed_over() -> None:
    async with listened() as (engine, notes, _):
        for frames in ([b"x"], [b"", b"short", b""], [b"", b"", b"", b""]):
            await engine._events.send_multipart(frames)
        await engine.publish(0, engine.batch(10))
        await until(lambda: notes.said == [10])


async def test_events_of_older_releases_and_of_kinds_that_are_not_known_are_understood() -> None:
    events = [
        ["BlockStored", [5], None, [1, 2], 2, None],
        ["BlockRemoved", [5]],
        ["AllBlocksCleared"],
        {"type": "BlockShared", "block_hashes": [9]},
        {"type": "BlockRemoved", "block_hashes": [b"\1" * 32], "medium": "CPU"},
        stored(6, group_idx=1),
        stored(7, medium="GPU", group_idx=0, new_field={"a": 1}),
    ]
    async with listened() as (engine, notes, feed):
        await engine.publish(0, msgspec.msgpack.encode([1.0, events, 0]))
        expected = [5, BlockRemoved.__name__, AllBlocksCleared.__name__, 7]
        await until(lambda: notes.said == expected)
        assert feed.gaps == 0
