"""HTTP/1.1 to engines: keep-alive connections, one POST at a time on each, and nothing else.

    Pool.post ──► Connection: idle → sent → headers → body … → complete → idle
                                └───────────┴── Failed(cut | timeout | protocol) → closed

No redirects, cookies, decompression or upgrades: an engine's bytes are a client's bytes. What a
general client does for each request costs more than all of the router's decisions together (see
docs/decisions), and its read timeout cannot be shortened once a stream has begun.

Every wait is bounded: for the connection, for the first byte, for each silence after it. Buffered
bytes are bounded too: an engine that is faster than the client is made to wait.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast
from urllib.parse import urlsplit

import httptools

Cause = Literal["connect", "timeout", "cut", "protocol", "status", "busy"]

_BUFFER_BYTES = 256 * 1024
# uvicorn, which vLLM and SGLang run on, closes a connection after 5 s of silence. Ours go first,
# so that a request rarely meets a connection that is being closed under it.
_KEEPALIVE_S = 4.0


class Failed(Exception):
    """An engine did not answer, or not to the end. Never seen by a client: dispatch translates."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause: Cause = cause
        self.detail = detail


@dataclass(frozen=True)
class Origin:
    """Where an engine listens, from its base URL."""

    url: str

    @cached_property
    def place(self) -> tuple[str, int, bool]:
        """Host, port, TLS."""
        parts = urlsplit(self.url)
        tls = parts.scheme == "https"
        return parts.hostname or "", parts.port or (443 if tls else 80), tls

    @cached_property
    def host(self) -> bytes:
        return urlsplit(self.url).netloc.rpartition("@")[2].encode("idna")

    @cached_property
    def prefix(self) -> bytes:
        return urlsplit(self.url).path.rstrip("/").encode()


class Connection(asyncio.Protocol):
    """One connection, and the answer that is arriving on it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Connection], None]
    ) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._paused = False
        self.lost = False
        self.idle_since = 0.0
        self._begin()

    def _begin(self) -> None:
        """Ready for the next answer."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.touched = False
        """Whether any byte of an answer has come."""
        self._chunks: list[bytes] = []
        self._size = 0
        self._framed = False
        self._keep_alive = False
        self._failure: Failed | None = None

    # What callers do

    async def send(self, request: bytes, timeout_s: float) -> None:
        """Send a whole request; returns when the answer's headers are here. Raises Failed."""
        self._begin()
        if self.lost:
            raise Failed("cut", "it closed the connection")
        self._transport.write(request)
        while not self.status:
            await self._wait(timeout_s)

    async def read(self, timeout_s: float) -> bytes:
        """All that has arrived of the body, at least a byte; b"" at its end. Raises Failed."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._wait(timeout_s)
        chunks, self._chunks, self._size = self._chunks, [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _wait(self, timeout_s: float) -> None:
        if self._failure is not None:
            raise self._failure
        self._deadline = self._loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._deadline:
            self._rearm()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        """Deadlines move on with every byte, the timer only when it has fired."""
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._rearm()
        else:
            self._fail(Failed("timeout", "it was silent for too long"))

    @property
    def reusable(self) -> bool:
        return self.complete and self._keep_alive and not self.lost

    def abort(self) -> None:
        """Close at once; what is in the buffers is lost."""
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # What the event loop does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.touched = True
        if self.complete:  # nobody asked: the answer to the next request would be this one
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Failed("protocol", f"it did not speak HTTP ({type(error).__name__})"))
            self.abort()
            return
        if self._size > _BUFFER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._on_lost(self)
        if error is None and self.status and not self._framed:
            self.complete = True  # an answer without a length ends with its connection
            self._wake()
        elif not self.complete:
            self._fail(Failed("cut", "it closed the connection"))

    def _fail(self, failure: Failed) -> None:
        self._failure = self._failure or failure
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the parser finds

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
        else:  # 1xx: the answer proper is still to come
            self.headers.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        self.complete = self.status != 0
        # Only now: the parser forgets the answer's headers when this returns.
        self._keep_alive = bool(self._parser.should_keep_alive())


class Pool:
    """Idle connections by engine, the most recently used first."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Origin, deque[Connection]] = {}
        self._open: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def post(self, origin: Origin, request: bytes, timeout_s: float) -> Connection:
        """Send `request`; returns when the answer's headers are here. Raises Failed.

        A pooled connection that turns out closed before any byte came back says nothing about
        the engine, which may close an idle one whenever it likes: the request goes out once more
        on a new one.
        """
        connection = self._take(origin)
        if connection is not None:
            try:
                await connection.send(request, timeout_s)
            except Failed as failure:
                self._drop(connection)
                if failure.cause != "cut" or connection.touched:
                    raise
            except BaseException:
                self._drop(connection)
                raise
            else:
                return connection
        connection = await self._connect(origin)
        try:
            await connection.send(request, timeout_s)
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def release(self, origin: Origin, connection: Connection) -> None:
        """Take it back: to be used again when its answer is complete, else closed."""
        if not connection.reusable:
            self._drop(connection)
            return
        idle = self._idle.setdefault(origin, deque())
        connection.idle_since = asyncio.get_running_loop().time()
        while idle and self._stale(idle[0], connection.idle_since):
            self._drop(idle.popleft())
        idle.append(connection)

    def close(self) -> None:
        """Abort every connection, the busy ones too."""
        for connection in [*self._open]:
            self._drop(connection)
        self._idle.clear()

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        now = asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if not self._stale(connection, now):
                return connection
            self._drop(connection)
        self._idle.pop(origin, None)  # replicas come and go; empty queues must not stay
        return None

    @staticmethod
    def _stale(connection: Connection, now: float) -> bool:
        return connection.lost or now - connection.idle_since > _KEEPALIVE_S

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _forget(self, origin: Origin, connection: Connection) -> None:
        """It was closed, by either side: a replica that went must leave nothing behind."""
        self._open.discard(connection)
        idle = self._idle.get(origin)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[origin]

    async def _connect(self, origin: Origin) -> Connection:
        host, port, tls = origin.place
        if tls and self._tls is None:
            self._tls = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, lambda lost: self._forget(origin, lost)),
                    host,
                    port,
                    ssl=self._tls if tls else None,
                )
        except TimeoutError:
            raise Failed("connect", "no connection in time") from None
        except OSError as error:
            raise Failed("connect", f"no connection: {error.strerror or error}") from None
        self._open.add(connection)
        return connection
