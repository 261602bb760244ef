"""A simulated engine's KV events, on the wire of vLLM: what its cache stores and drops.

    cache ── stored, removed, cleared ──▶ a batch each loop ──▶ PUB: topic, number, batch
                                          └── the last 10,000 ──▶ ROUTER, to whoever asks

A simulated engine has no tokens, so that `token_ids` are empty; everything else is as vLLM has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import zmq
import zmq.asyncio

from serving.simulator.cache import Chain
from serving.simulator.engine import SimulatedEngine

KEPT_BATCHES = 10_000
END = (-1).to_bytes(8, "big", signed=True)


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True):
    block_hashes: list[int]
    medium: str | None


class AllBlocksCleared(msgspec.Struct, tag=True):
    pass


class KvEventsConfig(msgspec.Struct):
    """The part of vLLM's section that a simulated engine needs."""

    endpoint: str
    replay_endpoint: str = ""
    topic: str = ""


class Publisher:
    """Listens to a cache. Its events leave together when the loop comes round."""

    def __init__(
        self, block_tokens: int, events: zmq.Socket[bytes], replay: zmq.asyncio.Socket, topic: str
    ) -> None:
        self._block_tokens = block_tokens
        self._events = events
        self._replay = replay
        self._topic = topic.encode()
        self._pending: list[BlockStored | BlockRemoved | AllBlocksCleared] = []
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=KEPT_BATCHES)
        self._number = 0

    def stored(self, blocks: Chain, parent: bytes | int | None, session: str) -> None:
        self._add(
            BlockStored(
                [_number(block) for block in blocks],
                None if parent is None else _number(parent),
                [],
                self._block_tokens,
                None,
                "GPU",
                None,
                session or None,
            )
        )

    def removed(self, block: bytes | int) -> None:
        self._add(BlockRemoved([_number(block)], "GPU"))

    def cleared(self) -> None:
        self._add(AllBlocksCleared())

    def _add(self, event: BlockStored | BlockRemoved | AllBlocksCleared) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(event)

    def _flush(self) -> None:
        payload = msgspec.msgpack.encode([time.time(), self._pending, 0])
        self._pending = []
        number = self._number.to_bytes(8, "big")
        self._number += 1
        self._kept.append((number, payload))
        # A PUB socket never waits: whoever is too slow misses some, and asks again.
        with contextlib.suppress(zmq.ZMQError):
            self._events.send_multipart([self._topic, number, payload], zmq.NOBLOCK)

    async def answer(self) -> None:
        """Send again what is asked for, for ever."""
        while True:
            frames = await self._replay.recv_multipart()
            if len(frames) != 3:
                continue
            who, _, first = frames
            for number, payload in list(self._kept):
                if number >= first:
                    await self._replay.send_multipart([who, b"", self._topic, number, payload])
            await self._replay.send_multipart([who, b"", b"", END, b""])


def _number(block: bytes | int) -> int:
    """The low 64 bits of a block's hash, as vLLM publishes them."""
    return block if isinstance(block, int) else int.from_bytes(block[-8:], "big")


@asynccontextmanager
async def published(engine: SimulatedEngine, config: str | None) -> AsyncIterator[None]:
    """Publish the engine's KV events within this context, as --kv-events-config says.

    Raises ValueError where it cannot be understood, or its addresses cannot be bound.
    """
    if config is None:
        yield
        return
    try:
        told = msgspec.json.decode(config, type=KvEventsConfig)
    except msgspec.DecodeError as error:
        raise ValueError(f"--kv-events-config: {error}") from None
    context, waiting = zmq.Context(), zmq.asyncio.Context()
    events, replay = context.socket(zmq.PUB), waiting.socket(zmq.ROUTER)
    events.set_hwm(100_000)
    try:
        try:
            events.bind(told.endpoint)
            if told.replay_endpoint:
                replay.bind(told.replay_endpoint)
        except zmq.ZMQError as error:
            raise ValueError(f"--kv-events-config: {told.endpoint}: {error}") from None
        publisher = Publisher(engine.config.block_tokens, events, replay, told.topic)
        engine.cache.listener = publisher
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(publisher.answer())
            try:
                yield
            finally:
                engine.cache.listener = None
                answering.cancel()
    finally:
        context.destroy(linger=0)
        waiting.destroy(linger=0)
