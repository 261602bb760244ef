"""Load benchmark, the client: prepared bytes out, and the time of every piece that comes back.

A bare protocol on uvloop over httptools' parser, so that one process sends a thousand requests a
second and has time left. A connection carries one request at a time and is kept for the next;
whoever finds none idle opens one. Nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

NO_CONNECTION = "no connection"
LOST = "connection lost"
NOT_HTTP = "not HTTP"
TIMED_OUT = "timed out"
IDLE_S = 1.0
"""Servers close idle connections after some seconds, and a request on one that is just being closed
is lost: none is kept for longer than this."""

Sink = Callable[[float, bytes], None]
now = time.perf_counter


@dataclass(frozen=True)
class Target:
    """Whom to ask."""

    host: str
    port: int
    tls: bool
    base: str
    """What comes before /chat/completions."""

    @classmethod
    def of(cls, url: str) -> Target:
        """Of a base URL, with or without /v1. Raises ValueError where it is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r}: expected http://HOST:PORT or https://HOST/...")
        if parts.username is not None:
            raise ValueError("a name or a password stands in it; use --api-key-env")
        tls = parts.scheme == "https"
        base = parts.path.rstrip("/").removesuffix("/chat/completions")
        if not base.endswith("/v1"):
            base += "/v1"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, base)


class Exchange:
    """One request: when what happened to it. Seconds of `now`; 0 what has not happened."""

    __slots__ = ("end_s", "error", "first_byte_s", "sent_s", "status", "why")

    def __init__(self) -> None:
        self.sent_s = self.first_byte_s = self.end_s = 0.0
        self.status = 0
        self.error = ""
        self.why = ""
        """What the system says of the error, if anything."""


class _Connection(asyncio.Protocol):
    """Of one exchange after another."""

    def __init__(self) -> None:
        self.idle_since_s = 0.0
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[None] | None = None
        self._sized = False
        self._body: list[bytes] = []
        """Of the bytes that came last."""
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit
        self.open = True

    async def exchange(self, request: bytes, made: Exchange, sink: Sink) -> None:
        self._exchange, self._sink = made, sink
        self._sized = False
        self._body.clear()
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        made.sent_s = now()
        self._transport.write(request)
        await self._done

    def data_received(self, data: bytes) -> None:
        self._at_s = now()
        if self._exchange is None:  # nobody asked
            self.close()
            return
        if not self._exchange.first_byte_s:
            self._exchange.first_byte_s = self._at_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(NOT_HTTP, keep=False)
        if self._body:  # the waiter, if it has ended, has not run yet
            self._sink(self._at_s, b"".join(self._body))
            self._body.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._sized = self._sized or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        assert self._exchange is not None
        self._exchange.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._end(keep=self._parser.should_keep_alive())

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._exchange is not None:
            self._at_s = now()
            # Without a length, an answer ends with its connection.
            whole = error is None and self._exchange.status and not self._sized
            self._end("" if whole else LOST, keep=False)

    def _end(self, error: str = "", *, keep: bool) -> None:
        made, self._exchange = self._exchange, None
        if made is not None:
            made.end_s, made.error = self._at_s, error
        if not keep:
            self.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def close(self) -> None:
        self.open = False
        self._exchange = None
        self._transport.abort()


class Client:
    """Connections to one target. Close it at the end."""

    def __init__(self, target: Target, api_key: str = "", *, idle_s: float = IDLE_S) -> None:
        self._target = target
        self._idle_s = idle_s
        self._key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
        self._tls = ssl.create_default_context() if target.tls else None
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._address: tuple[str, int] | None = None
        self.opened = 0

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A request's bytes, head and body."""
        target = self._target
        host = f"[{target.host}]" if ":" in target.host else target.host
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        return (
            f"{method} {target.base}{path} HTTP/1.1\r\nhost: {host}:{target.port}\r\n"
            f"content-type: application/json\r\naccept: */*\r\nuser-agent: warmloop-load\r\n"
            f"{self._key}{more}content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def send(self, request: bytes, sink: Sink, timeout_s: float) -> Exchange:
        """One exchange, to its end or its error."""
        made = Exchange()
        connection = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = self._kept() or await self._connect()
                self._busy.add(connection)
                await connection.exchange(request, made, sink)
        except TimeoutError:
            made.error = TIMED_OUT
        except OSError as error:
            made.error, made.why = NO_CONNECTION, str(error)
        finally:
            if connection is not None:
                self._busy.discard(connection)
                self._put_back(connection, whole=bool(made.end_s) and not made.error)
        made.end_s = made.end_s or now()
        return made

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open and now() - connection.idle_since_s < self._idle_s:
                return connection
            connection.close()
        return None

    def _put_back(self, connection: _Connection, *, whole: bool) -> None:
        if whole and connection.open:
            connection.idle_since_s = now()
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> _Connection:
        loop, target = asyncio.get_running_loop(), self._target
        transport, connection = await loop.create_connection(
            _Connection,
            *(self._address or (target.host, target.port)),
            ssl=self._tls,
            server_hostname=target.host if self._tls else None,
        )
        if self._address is None:  # a name is looked up once: that waits for a thread
            self._address = transport.get_extra_info("peername")[:2]
        self.opened += 1
        return connection

    async def close(self) -> None:
        """All connections; gives the loop a turn to let go of them."""
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)
