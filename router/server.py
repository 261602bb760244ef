"""How the front door is served: uvicorn on uvloop and httptools, with corked writes.

uvloop hands every `write` to the kernel at once, and uvicorn writes an answer's head and body
apart: two system calls, and two wake-ups of the client, for one answer. Corked, what is written
within one turn of the event loop leaves in one call at the end of that turn. Nothing waits for
more to come: a stream's chunk still leaves in the turn in which it arrived.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any, cast

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.config import FrontConfig
from serving.errors import BadRequest

_FLUSH_BYTES = 64 * 1024
"""Beyond this, writes are worth a call of their own, and the transport may ask for a pause."""


class Cork:
    """A transport that gathers writes until the event loop's current turn ends."""

    __slots__ = ("_loop", "_parts", "_size", "_transport", "get_extra_info", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._size = 0
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._parts.clear()
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        """Reading, buffer limits, protocols: the transport's own."""
        return getattr(self._transport, name)


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, writing through a Cork; it refuses in OpenAI's envelope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, Cork(transport, self.loop)))

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP/1.1 is told so, and the connection is closed."""
        body = msgspec.json.encode(BadRequest(msg, code="invalid_http").body())
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def server(app: ASGIApp, front: FrontConfig, **settings: Any) -> uvicorn.Server:
    """A uvicorn server for the application that `router.api.build` made.

    Logging is left as it is (see `router.logs.install`). `settings` are uvicorn's.
    """
    # What has been imported and built by now stays for good: the collector need not walk it again
    # and again, which would show as pauses in streams.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        host=front.host,
        port=front.port,
        loop="uvloop",
        http=CorkedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(front.drain_s)),
        **settings,
    )
    return uvicorn.Server(config)
