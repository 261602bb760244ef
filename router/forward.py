"""The way to an engine and back: one POST, its bytes as they come.

    send ──► headers and first byte of the body ──► Upstream ──► chunks … ──► end
      └── Failed(connect | timeout | cut | protocol)      └── Failed(timeout | cut)

`send` returns only when the first byte of the body is here. Engines send their headers before they
have computed anything; a turn whose engine dies during prefill can then still go elsewhere. Whole
answers (a length that is known and modest) are read to their end for the same reason.

Only the headers named here cross in either direction: a client's key or cookie is not the
engine's business. Closing an Upstream before its end closes the connection, which is how an engine
learns that its work is no longer wanted.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Mapping
from typing import Literal

import aiohttp
from yarl import URL

from serving.config import FrontConfig

Cause = Literal["connect", "timeout", "cut", "protocol", "status", "busy"]

TO_ENGINE = (
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "traceparent",
    "tracestate",
)
NOT_TO_CLIENT = frozenset(
    (
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"server",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    )
)
WHOLE_BYTES = 1 << 20
"""Answers of up to this length are read whole before the client gets any of it."""

# uvicorn, which vLLM and SGLang run on, closes a connection after 5 s of silence. Ours go first,
# so that a request rarely meets a connection that is being closed under it.
_KEEPALIVE_S = 4.0

# aiohttp asks for a file instead of a large body; ours is in memory already, and bounded.
warnings.filterwarnings("ignore", "Sending a large body directly", ResourceWarning)


class Failed(Exception):
    """An engine did not answer, or not to the end. Never seen by a client: dispatch translates."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause: Cause = cause
        self.detail = detail


def _failed(error: BaseException) -> Failed:
    """aiohttp's exceptions by cause; the order matters, since some inherit from others."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Failed("connect", "no connection in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Failed("connect", f"no connection: {error.os_error.strerror or name}")
    if isinstance(error, TimeoutError):
        return Failed("timeout", "it was silent for too long")
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | OSError):
        return Failed("cut", "it closed the connection")
    return Failed("protocol", f"it did not speak HTTP as expected ({name})")


async def _read_whole(response: aiohttp.ClientResponse) -> bytes:
    """The body to its end; of an error without a length, only what is reasonable."""
    chunks: list[bytes] = []
    size = 0
    while size <= WHOLE_BYTES and (chunk := await response.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


class Upstream:
    """An engine's answer from its first byte on. Close it when done, whatever happened."""

    __slots__ = ("_first", "_response", "headers", "status", "whole")

    def __init__(self, response: aiohttp.ClientResponse, first: bytes, whole: bytes | None) -> None:
        self._response = response
        self._first = first
        self.status = response.status
        self.whole = whole
        """The body, where it has been read to its end."""
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in response.raw_headers
            if name.lower() not in NOT_TO_CLIENT
        }

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises Failed when it is cut."""
        if self.whole is not None:
            yield self.whole
            return
        if self._first:
            yield self._first
        read = self._response.content.readany
        try:
            while chunk := await read():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(error) from error

    def close(self) -> None:
        """Back to the pool when read to its end, else the connection is closed."""
        self._response.close()


class Forwarder:
    """The pool of connections to all engines. `start()` within the loop that will use it."""

    def __init__(self, front: FrontConfig) -> None:
        self._front = front
        self._http: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, str], URL] = {}

    async def start(self) -> None:
        if self._http is not None:
            return
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._front.connect_timeout_s,
                sock_read=self._front.first_byte_timeout_s,
            ),
        )

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def send(
        self, url: str, path: str, body: bytes, headers: Mapping[str, str], request_id: str
    ) -> Upstream:
        """POST `body`; returns when the first byte of the answer's body is here. Raises Failed."""
        outgoing = {name: headers[name] for name in TO_ENGINE if name in headers}
        outgoing.setdefault("content-type", "application/json")
        outgoing["x-request-id"] = request_id
        target = self._url(url, path)
        try:
            response = await self._post(target, body, outgoing)
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(error) from error
        try:
            length = response.content_length
            if response.status >= 400 or (length is not None and length <= WHOLE_BYTES):
                return Upstream(response, b"", await _read_whole(response))
            first = await response.content.readany()
            self._watch_for_silence(response)
            return Upstream(response, first, None)
        except (aiohttp.ClientError, OSError) as error:
            response.close()
            raise _failed(error) from error
        except BaseException:  # cancelled: the client has gone, and so must the engine's work
            response.close()
            raise

    async def _post(
        self, target: URL, body: bytes, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        if self._http is None:
            raise RuntimeError("Forwarder.start() has not been called")
        for last_try in (False, True):
            try:
                return await self._http.post(
                    target, data=body, headers=headers, allow_redirects=False
                )
            except (aiohttp.ClientConnectorError, TimeoutError):
                raise
            except (aiohttp.ServerDisconnectedError, OSError):
                # Nothing has come back: most likely the pooled connection was closed by the engine
                # as we took it, which says nothing about its health. A dead one refuses next.
                if last_try:
                    raise
        raise AssertionError("unreachable")

    def _watch_for_silence(self, response: aiohttp.ClientResponse) -> None:
        """From the first byte on, a shorter silence than before counts as a hang."""
        if response.connection is not None and response.connection.protocol is not None:
            response.connection.protocol.read_timeout = self._front.idle_timeout_s

    def _url(self, base: str, path: str) -> URL:
        """Parsed once for each engine and route; bounded like the fleet."""
        url = self._urls.get((base, path))
        if url is None:
            if len(self._urls) > 10_000:
                self._urls.clear()
            url = self._urls[base, path] = URL(base + path)
        return url
