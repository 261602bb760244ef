"""How the front door is served: uvicorn, whose protocol hands the forwarding routes to `wire`.

    bytes ─► httptools ─► a forwarding route? ─ yes ─► wire.Exchange
                                             └─ no ──► uvicorn's own cycle ─► ASGI

uvicorn keeps what it is good at: sockets, signals, drain, keep-alive, the order of pipelined
requests. An Exchange stands in its `cycle` and its `pipeline` beside those of ASGI requests. Each
write is a call of its own to the system, so that a whole answer is written at once, with its head,
and a stream's chunk leaves in the turn of the event loop in which it arrived.
"""

from __future__ import annotations

import math
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from router.http.asgi import Gate
from router.http.wire import Exchange
from serving import collector
from serving.config.front import FrontConfig
from serving.errors import BadRequest

_Cycle = RequestResponseCycle | Exchange
_MOST_WAITING = 4
"""Requests of one connection that may wait for their turn while it is read from: only where it is
read from is its end heard of."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class FrontProtocol(HttpToolsProtocol):
    """One client's connection. For exchanges it is the `Wire`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        app = self.config.app
        self._forwarding = app.forwarding if isinstance(app, Gate) else None
        self._reading: Exchange | None = None
        """The exchange whose body is arriving."""
        self._running: Exchange | None = None
        """The exchange that is being answered."""
        self._before: _Cycle | None = None
        """What was asked before the exchange in `cycle`."""
        self._idle_since = math.inf
        self._common: tuple[object, str] = (None, "")

    # What the parser finds

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        forwarding = self._forwarding
        path = forwarding.paths.get(self._path()) if forwarding is not None else None
        if forwarding is None or path is None:
            self._to_asgi()
            return
        is_1_1 = self.parser.get_http_version() != "1.0"
        exchange = self._reading = Exchange(
            self,
            forwarding,
            self.parser.get_method(),
            path,
            self.headers,
            http_1_1=is_1_1,
            keep_alive=is_1_1 and self.parser.should_keep_alive(),
        )
        # uvicorn asks of a cycle only what an Exchange knows as well.
        self._before, self.cycle = self.cycle, cast(RequestResponseCycle, exchange)
        if exchange.hopeless:
            self._read(exchange)
        elif exchange.awaits_100 and self._is_free():
            self.transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        exchange = self._reading
        if exchange is not None:
            exchange.feed(body)
            if exchange.too_large and exchange.hopeless:
                self._read(exchange)
        elif not self._is_ours():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._reading is not None:
            self._read(self._reading)
        elif not self._is_ours():
            super().on_message_complete()

    def _path(self) -> bytes:
        url: bytes = self.url
        if url[:1] != b"/" or b"%" in url:  # rare enough to be taken apart properly
            return unquote_to_bytes(httptools.parse_url(url).path or b"")
        return url.partition(b"?")[0]

    def _to_asgi(self) -> None:
        """Begin the message again, as uvicorn does."""
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.headers += headers
        self.url, self.expect_100_continue = url, expect_100_continue
        super().on_headers_complete()

    # In turn

    def _is_ours(self) -> bool:
        """Whether the newest request is an exchange."""
        cycle: object = self.cycle
        return isinstance(cycle, Exchange)

    def _is_free(self) -> bool:
        return self._before is None or self._before.response_complete

    def _read(self, exchange: Exchange) -> None:
        """All of it that is wanted is here: answer, when all before it has been answered."""
        self._reading = None
        if self._is_free():
            self._start(exchange)
        else:
            self.pipeline.appendleft((cast(RequestResponseCycle, exchange), self.app))
            if len(self.pipeline) >= _MOST_WAITING:
                self.flow.pause_reading()

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        task = exchange.start(self.loop)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _start_asgi_task(self, cycle: _Cycle, app: Any) -> None:
        if isinstance(cycle, Exchange):
            self._start(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle()
        waiting = self._reading
        if waiting is not None and waiting.awaits_100 and self._is_free():
            self.transport.write(_CONTINUE)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:
            self._running.hang_up()
        self._running = self._reading = None
        self.pipeline.clear()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self._is_ours():
            self.cycle = cast(RequestResponseCycle, None)  # as before the first request
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Whoever asks for a WebSocket is answered as if they had not: it is not worth a line in
        the log each time, nor advice to install what would not be used."""

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP/1.1 is told so, and the connection is closed."""
        body = msgspec.json.encode(BadRequest(msg, code="invalid_http").body())
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    # While nothing is asked

    def _idle(self) -> None:
        """Keep the connection for a while. The timer of the request before is mostly still there:
        when it fires it looks since when nothing was asked."""
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait(self.timeout_keep_alive)

    def _wait(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _unset_keepalive_if_required(self) -> None:
        """Something is asked."""
        self._idle_since = math.inf

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since == math.inf:
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._wait(left_s)
        elif not self.transport.is_closing():
            self.transport.close()

    # What an exchange needs of its wire

    @property
    def full(self) -> bool:
        return self.flow.write_paused

    async def drain(self) -> None:
        await self.flow.drain()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def common_headers(self) -> str:
        headers = self.server_state.default_headers  # a new list each second, for its date
        if self._common[0] is not headers:
            text = "".join(f"{k.decode()}: {v.decode()}\r\n" for k, v in headers)
            self._common = (headers, text)
        return self._common[1]

    def ended(self, exchange: Exchange, *, close: bool) -> None:
        if close:
            self.transport.close()
        self.on_response_complete()


def server(app: ASGIApp, front: FrontConfig, **settings: Any) -> uvicorn.Server:
    """A uvicorn server for the application that `router.http.api.build` made.

    Logging is left as it is (see `router.logs.install`). `settings` are uvicorn's.
    """
    collector.settle()
    config = uvicorn.Config(
        app,
        host=front.host,
        port=front.port,
        loop="uvloop",
        http=FrontProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(front.drain_s)),
        **settings,
    )
    return uvicorn.Server(config)
