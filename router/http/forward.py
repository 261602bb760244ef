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

from collections.abc import AsyncIterator, Mapping

from router.http.http1 import Connection, Origin, Pool
from serving.config.front import FrontConfig

TO_ENGINE = (
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "traceparent",
    "tracestate",
)
NOT_TO_CLIENT = frozenset(
    (
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
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


class Upstream:
    """An engine's answer from its first byte on. Close it when done, whatever happened."""

    __slots__ = ("_connection", "_first", "_forwarder", "_origin", "headers", "status", "whole")

    def __init__(self, forwarder: Forwarder, origin: Origin, connection: Connection) -> None:
        self._forwarder = forwarder
        self._origin = origin
        self._connection = connection
        self._first = b""
        self.status = connection.status
        self.whole: bytes | None = None
        """The body, where it has been read to its end."""
        self.headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in connection.headers
            if name not in NOT_TO_CLIENT
        }

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def begin(self, front: FrontConfig) -> None:
        """Wait for the first byte, or for the whole of a short answer. Raises Failed."""
        length = self.headers.get("content-length")
        if self.status < 400 and (length is None or int(length) > WHOLE_BYTES):
            self._first = await self._connection.read(front.first_byte_timeout_s)
            return
        parts: list[bytes] = []
        size = 0
        while size <= WHOLE_BYTES and (part := await self._connection.read(
            front.idle_timeout_s if parts else front.first_byte_timeout_s
        )):  # fmt: skip
            parts.append(part)
            size += len(part)
        self.whole = parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self) -> bytes:
        """The next of the body as it arrives; b"" at its end. Raises Failed when it is cut."""
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._connection.read(self._forwarder.front.idle_timeout_s)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The whole body. Raises Failed when it is cut."""
        if self.whole is not None:
            yield self.whole
            return
        while chunk := await self.read():
            yield chunk

    def close(self) -> None:
        """Back to the pool when read to its end, else the connection is closed."""
        self._forwarder.pool.release(self._origin, self._connection)


class Forwarder:
    """Connections to all engines."""

    def __init__(self, front: FrontConfig) -> None:
        self.front = front
        self.pool = Pool(front.connect_timeout_s)
        self._origins: dict[str, Origin] = {}

    def close(self) -> None:
        self.pool.close()

    async def send(
        self,
        url: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        request_id: str,
        *,
        mark: str = "",
    ) -> Upstream:
        """POST `body`; returns when the first byte of the answer's body is here. Raises Failed.

        The engine publishes what it computes for it under `mark`; see `router.kv.residency`.
        """
        origin = self._origin(url)
        request = _request(origin, path, body, headers, request_id, mark=mark)
        connection = await self.pool.post(origin, request, self.front.first_byte_timeout_s)
        upstream = Upstream(self, origin, connection)
        try:
            await upstream.begin(self.front)
        except BaseException:  # also cancelled: the client has gone, and so must the engine's work
            upstream.close()
            raise
        return upstream

    def _origin(self, url: str) -> Origin:
        """Parsed once for each engine."""
        origin = self._origins.get(url)
        if origin is None:
            if len(self._origins) >= 10_000:  # replicas come and go for months
                self._origins.clear()
            origin = self._origins[url] = Origin(url)
        return origin


def _request(
    origin: Origin,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    request_id: str,
    *,
    mark: str,
) -> bytes:
    """The request's bytes, head and body in one, so that they leave in one call."""
    lines = [
        b"POST %b%b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: %d"
        % (origin.prefix, path.encode(), origin.host, len(body)),
        b"x-request-id: " + request_id.encode("latin-1"),
    ]
    if mark:
        lines.append(b"x-session-id: " + mark.encode())
    for name in TO_ENGINE:
        value = headers.get(name)
        # Headers of HTTP clients cannot hold a line break; those of callers in the process could.
        if value is not None and "\n" not in value and "\r" not in value:
            lines.append(f"{name}: {value}".encode("latin-1", "replace"))
    return b"\r\n".join((*lines, b"", body))
