"""One engine's KV events, in order and without gaps: live ones, and again what was missed.

    SUB ──▶ the next number         ──▶ heard
        ├─▶ a later one: a gap      ──▶ replay; what the engine has no more is lost
        ├─▶ an earlier one, older   ──▶ known already
        └─▶ an earlier one, newer   ──▶ another engine at the same address: restarted, replay from 0

Listening begins with a replay from 0: a front door that starts late learns what the cache holds as
far back as the engine remembers. An engine that is silent is asked, now and then, whether anything
was missed: the last message of a burst may have been lost, too.

Memory is bounded: ZeroMQ drops messages beyond its mark, and what it dropped is a gap like others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

import zmq
import zmq.asyncio

from router.kv.wire import Batch, Event, Malformed, read

WAITING_MESSAGES = 10_000
MAX_MESSAGE_BYTES = 64 * 2**20
SILENCE_S = 10.0
REPLAY_S = 5.0
"""Longest wait for the next message of a replay."""
RECONNECT_MAX_MS = 5000
AGAIN_S = 1.0

_log = logging.getLogger("warmloop.kv")


class Hearer(Protocol):
    """What an engine's events are told to."""

    def heard(self, events: Iterable[Event]) -> None: ...

    def lost(self) -> None:
        """Something was missed for good: what is known of the engine may be wrong."""

    def restarted(self) -> None:
        """It is another engine now, and holds nothing of what the last one held."""


class _Silent(Exception):
    """A replay that was not answered in time."""


class KvFeed:
    """Follows one engine until it is cancelled."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        events: str,
        replay: str,
        hearer: Hearer,
        *,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._context = context
        self._events = events
        self._replay = replay
        self._hearer = hearer
        self._silence_s = silence_s
        self._next = 0
        self._time_s = 0.0
        """Of the newest batch, by the engine's clock."""
        self._begun = False
        self.gaps = 0
        """Times that something was missed for good."""

    async def follow(self) -> None:
        """For ever. Whatever comes over the wire, it goes on."""
        while True:
            try:
                async with self._socket(zmq.SUB, self._events) as events:
                    events.subscribe(b"")
                    await self._catch_up()
                    while True:
                        if await events.poll(int(self._silence_s * 1000)):
                            await self._take(await events.recv_multipart())
                        else:
                            await self._catch_up()
                        # recv does not yield while messages wait
                        await asyncio.sleep(0)
            except zmq.ZMQError as error:  # an address that cannot be
                _log.warning("KV events at %s: %s", self._events, error)
                await asyncio.sleep(AGAIN_S)
            except Exception:
                # A defect of ours must not leave a belief behind that nobody corrects any more.
                _log.exception("KV events at %s", self._events)
                self.gaps += 1
                self._hearer.lost()
                await asyncio.sleep(AGAIN_S)

    async def _take(self, frames: list[bytes]) -> None:
        if len(frames) < 2 or len(frames[-2]) != 8:
            return
        number = int.from_bytes(frames[-2], "big")
        batch = _read(frames[-1])
        if number < self._next:
            if batch is not None and batch.time_s > self._time_s:
                self._hearer.restarted()
                self._next = 0
                if number:
                    await self._catch_up()
                if number >= self._next:
                    self._apply(number, batch)
            return
        if number > self._next:
            await self._catch_up()
        if number >= self._next:
            self._apply(number, batch)

    async def _catch_up(self) -> None:
        """All that the engine still has from the next number on; no answer is no news."""
        if not self._replay:
            return
        try:
            async with self._socket(zmq.DEALER, self._replay) as replay:
                await replay.send_multipart([b"", self._next.to_bytes(8, "big")])
                while True:
                    if not await replay.poll(int(REPLAY_S * 1000)):
                        raise _Silent
                    frames = await replay.recv_multipart()
                    if len(frames) < 2 or len(frames[-2]) != 8:
                        continue
                    number = int.from_bytes(frames[-2], "big", signed=True)
                    if number < 0:
                        return
                    if number >= self._next:
                        self._apply(number, _read(frames[-1]))
                    await asyncio.sleep(0)
        except _Silent:
            return

    def _apply(self, number: int, batch: Batch | None) -> None:
        """The next batch; None where it could not be read."""
        missed = number > self._next
        self._next = number + 1
        # Who comes late has missed nothing that it ever knew.
        if batch is None or (missed and self._begun):
            self.gaps += 1
            self._hearer.lost()
        self._begun = True
        if batch is not None:
            self._time_s = max(self._time_s, batch.time_s)
            self._hearer.heard(batch.events)

    @asynccontextmanager
    async def _socket(self, kind: int, address: str) -> AsyncIterator[zmq.asyncio.Socket]:
        socket = self._context.socket(kind)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, WAITING_MESSAGES)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
            if "[" in address:
                socket.setsockopt(zmq.IPV6, 1)
            socket.connect(address)
            yield socket
        finally:
            socket.close()


def _read(payload: bytes) -> Batch | None:
    try:
        return read(payload)
    except Malformed:
        return None
