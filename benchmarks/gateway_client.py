"""The client of the gateway benchmark: prepared bytes out, the times of the pieces that come back.

A bare protocol on uvloop, the same for all who are asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import cast

import msgspec

from benchmarks.gateway_engine import CHAT_PATH


class Timing(msgspec.Struct):
    """One request as its client saw it, in seconds."""

    first_byte_s: float
    total_s: float
    longest_gap_s: float
    pieces: int
    """In how many reads the body came: a door that holds chunks back sends few."""
    status: int
    body: bytes


class Client(asyncio.Protocol):
    """One keep-alive connection that times the pieces of each answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit
        self._done: asyncio.Future[Timing] | None = None

    async def request(self, raw: bytes) -> Timing:
        self._done = asyncio.get_running_loop().create_future()
        self._head_end = -1
        self._length: int | None = None
        self._got = bytearray()
        self._first = self._last = self._gap = 0.0
        self._pieces = 0
        self._started = time.perf_counter()
        self._transport.write(raw)
        return await self._done

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._got += data
        if self._head_end < 0:
            self._read_head()
        if self._head_end < 0 or (len(self._got) == self._head_end and self._length != 0):
            return
        if not self._first:
            self._first = now
        else:
            self._gap = max(self._gap, now - self._last)
        self._last = now
        self._pieces += 1
        if self._ended():
            assert self._done is not None
            status = int(self._got[9:12])
            body = bytes(self._got[self._head_end :])
            first_s, total_s = self._first - self._started, now - self._started
            self._done.set_result(Timing(first_s, total_s, self._gap, self._pieces, status, body))

    def _read_head(self) -> None:
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        self._head_end = end + 4
        head = bytes(self._got[:end]).lower()
        if b"content-length:" in head:
            self._length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])

    def _ended(self) -> bool:
        if self._length is not None:
            return len(self._got) - self._head_end >= self._length
        return self._got.endswith(b"0\r\n\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        self._transport.close()


async def connect(port: int) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    return client


def chat_request(model: str, messages: Sequence[object], *, stream: bool = False) -> bytes:
    """A chat request's bytes, head and body."""
    body = json.dumps(
        {"stream": stream, "model": model, "messages": messages, "temperature": 0},
        separators=(",", ":"),
    ).encode()
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer none\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def conversation(session: int, size: int) -> list[dict[str, str]]:
    """Messages of about `size` bytes: a system prompt that all share, and 20 of the session's."""
    text = "The quick brown fox jumps over the lazy dog. " * (size // 21 // 45)
    messages = [{"role": "system", "content": text}]
    for i in range(20):
        role = "user" if i % 2 == 0 else "assistant"
        messages.append({"role": role, "content": f"{session}.{i} {text}"})
    return messages
