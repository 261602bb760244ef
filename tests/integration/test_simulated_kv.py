"""A simulated engine's KV events on the wire: what is stored and dropped, and asked for again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from serving.config.model import SimulatorConfig
from serving.engines import kv_endpoints
from serving.simulator.engine import Job, SimulatedEngine
from serving.simulator.kv import published

CONFIG = SimulatorConfig(
    capacity_tokens=64, block_tokens=16, prefill_tokens_per_s=1e6, decode_tokens_per_s=1e6
)


class Listener:
    def __init__(self, events: zmq.asyncio.Socket, replay: zmq.asyncio.Socket) -> None:
        self._events = events
        self._replay = replay

    async def batch(self) -> tuple[int, list[Any]]:
        _, number, payload = await self._events.recv_multipart()
        return int.from_bytes(number, "big"), msgspec.msgpack.decode(payload)[1]

    async def again(self, first: int) -> list[int]:
        await self._replay.send_multipart([b"", first.to_bytes(8, "big")])
        numbers = []
        while True:
            frames = await self._replay.recv_multipart()
            number = int.from_bytes(frames[-2], "big", signed=True)
            if number < 0:
                return numbers
            numbers.append(number)


@asynccontextmanager
async def listening(engine: SimulatedEngine) -> AsyncIterator[Listener]:
    endpoints = kv_endpoints.on("127.0.0.1")
    [_, config] = kv_endpoints.vllm_flags(endpoints)
    context = zmq.asyncio.Context()
    events, replay = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    events.subscribe(b"")
    try:
        async with published(engine, config):
            events.connect(endpoints.events)
            replay.connect(endpoints.replay)
            listener = Listener(events, replay)
            assert await listener.again(0) == []  # so the sockets have met
            yield listener
    finally:
        context.destroy(linger=0)
        kv_endpoints.remove(endpoints)


async def run(engine: SimulatedEngine, blocks: list[int], session: str = "") -> None:
    async with engine.run(Job(blocks, 16 * len(blocks) + 1, 1, session=session)):
        pass


async def test_what_the_cache_stores_and_drops_is_published_in_order() -> None:
    engine = SimulatedEngine(CONFIG)
    async with listening(engine) as listener:
        await run(engine, [1, 2], "one")
        number, [stored] = await listener.batch()
        assert number == 0
        assert stored["type"] == "BlockStored"
        assert (stored["block_hashes"], stored["parent_block_hash"]) == ([1, 2], None)
        assert (stored["session_id"], stored["block_size"]) == ("one", 16)
        await run(engine, [1, 2, 3])
        number, [stored] = await listener.batch()
        assert number == 1
        assert (stored["block_hashes"], stored["parent_block_hash"]) == ([3], 2)
        assert "session_id" not in stored
        await run(engine, [7, 8, 9])
        events = (await listener.batch())[1] + (await listener.batch())[1]
        assert [e["block_hashes"] for e in events if e["type"] == "BlockRemoved"] == [[3], [2], [1]]
        engine.cache.clear()
        _, [cleared] = await listener.batch()
        assert cleared["type"] == "AllBlocksCleared"
        assert await listener.again(1) == [1, 2, 3, 4]


async def test_settings_that_cannot_be_understood_are_refused() -> None:
    engine = SimulatedEngine(CONFIG)
    for config in ("nonsense", "{}", json.dumps({"endpoint": "ipc:///no/such/folder/x"})):
        with pytest.raises(ValueError, match="--kv-events-config"):
            async with published(engine, config):
                pass
