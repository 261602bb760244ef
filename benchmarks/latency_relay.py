"""Latency benchmark, a relay before the engine: bytes pass as they are, and their times are kept.

    async with relay(engine_url) as it:     it.url
    it.taken("resp_1-1-1")                  the exchanges of that request id, and forgets them

Both arms go through it, so that what it costs hits both. It reads no more than it must while bytes
pass: where a request begins, and the first byte of a body; what the engine says of its own times
(vLLM's `--enable-per-request-metrics`) is read when somebody asks.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.latency_budget import Exchange
from serving.protocol import SseSplitter

CHUNK = 1 << 16
_ID = re.compile(rb"\r\nx-request-id: *([^\r\n]+)", re.IGNORECASE)


@dataclass(slots=True)
class _Seen:
    """One exchange while it passes."""

    came: float
    asked: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    first: float = 0.0
    ended: float = 0.0

    def answered(self, data: bytes, now: float) -> None:
        self.said += data
        self.ended = now
        if not self.first:
            head = self.said.find(b"\r\n\r\n")
            if 0 <= head < len(self.said) - 4:
                self.first = now

    def exchange(self) -> Exchange:
        times = engine_times(bytes(self.said))
        return Exchange(self.came, self.first or self.ended, self.ended, *times)


class Relay:
    """Keeps what has a request id, until it is taken."""

    def __init__(self, engine: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._engine = urlsplit(engine)
        self._seen: dict[str, list[_Seen]] = defaultdict(list)

    def taken(self, request_id: str) -> list[Exchange]:
        """In the order in which they came."""
        return [each.exchange() for each in self._seen.pop(request_id, ())]

    async def connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection, with one of its own to the engine."""
        far, on = await asyncio.open_connection(self._engine.hostname, self._engine.port)
        current: list[_Seen] = []

        async def there() -> None:
            while data := await near.read(CHUNK):
                if not current or current[-1].said:
                    current[:] = [_Seen(time.time())]
                current[-1].asked += data
                on.write(data)
                await on.drain()
            on.close()

        async def here() -> None:
            while data := await far.read(CHUNK):
                now = time.time()
                back.write(data)
                if current:
                    self._note(current[-1], data, now)
                await back.drain()
            back.close()

        ways = [asyncio.ensure_future(there()), asyncio.ensure_future(here())]
        try:
            with suppress(ConnectionError):
                await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (on, back):
                writer.close()

    def _note(self, seen: _Seen, data: bytes, now: float) -> None:
        if not seen.said and (found := _ID.search(seen.asked)):
            self._seen[found[1].decode("latin-1")].append(seen)
        seen.answered(data, now)


@asynccontextmanager
async def relay(engine: str) -> AsyncIterator[Relay]:
    """A relay on a port of its own; its connections end with the block."""
    tasks: set[asyncio.Task[None]] = set()

    def begin(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made.connected(near, back))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, limit=1 << 20)
    made = Relay(engine, server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def engine_times(answer: bytes) -> tuple[float, float, float] | tuple[None, None, None]:
    """What vLLM says at the end of a stream: seconds in its queue, in prefill, in decode."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        body = _joined(body)
    for event in reversed(SseSplitter().feed(body)):
        if b'"metrics"' not in event.data:
            continue
        said = json.loads(event.data).get("metrics") or {}
        names = ("queue_time_ms", "time_to_first_token_ms", "generation_time_ms")
        if all(said.get(name) is not None for name in names):
            queue_s, prefill_s, decode_s = (float(said[name]) / 1000 for name in names)
            return queue_s, prefill_s, decode_s
    return None, None, None


def _joined(chunks: bytes) -> bytes:
    """The body that came in chunks."""
    parts = []
    while chunks:
        size, found, rest = chunks.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16) if found else 0
        if not length:
            break
        parts.append(rest[:length])
        chunks = rest[length + 2 :]
    return b"".join(parts)
