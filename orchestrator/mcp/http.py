"""A URL as an MCP transport: streamable HTTP, and failures that say what became of the request.

The package's transport ends a whole session when one POST fails. `Candid`, between it and the
network, answers such a POST itself, with a JSON-RPC error whose code says what is known:

    NOT_SENT     no connection, or a status that says that nothing was done (429, 503, and 404 for
                 a session that the server has forgotten)
    LOST         the connection broke after the request had gone out
    REFUSED      any other error status without an answer in JSON-RPC, or an answer too long to hold

so that the calls beside it go on. 404 without a session stays as it is: the package knows. A server
may use the same codes: those of ours have `OURS` with them, which never leaves this process.

An answer that is no stream of events is read here, up to `max_message_bytes`: the package would
read it to its end, wherever that is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from orchestrator.tools.errors import LONGEST_RETRY_AFTER_S

NOT_SENT = -32050
LOST = -32051
REFUSED = -32052
_OF_THE_WIRE = (b"content-encoding", b"content-length", b"transfer-encoding")
"""Headers that are true of a body only as it was sent."""
OURS = secrets.token_hex(16)
_UNREACHED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Candid(httpx2.AsyncBaseTransport):
    """Turns what went wrong with a POST into a JSON-RPC error that can be told apart."""

    def __init__(
        self, inner: httpx2.AsyncBaseTransport, *, answer_s: float, max_message_bytes: int
    ) -> None:
        """`answer_s`: how long an answer may take, where nobody above sets a limit to it."""
        self._inner = inner
        self._answer_s = answer_s
        self._max_message_bytes = max_message_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not _waits(request):
            # Others wait for it: for a goodbye the end of the session, and for a message that wants
            # no answer all messages after it.
            limits = {**request.extensions.get("timeout", {}), "read": self._answer_s}
            request.extensions = {**request.extensions, "timeout": limits}
        if request.method != "POST" or "json" not in request.headers.get("content-type", ""):
            return await self._bounded(request)  # discovery, tokens, streams
        try:
            response = await self._bounded(request)
        except _UNREACHED as error:
            return _error(502, NOT_SENT, f"it cannot be reached ({type(error).__name__})")
        except httpx2.TransportError as error:
            return _error(502, LOST, f"the connection broke ({type(error).__name__})")
        status = response.status_code
        is_json = response.headers.get("content-type", "").lower().startswith("application/json")
        if status == 404 and "mcp-session-id" in request.headers:
            await response.aclose()
            return _error(status, NOT_SENT, "it has forgotten our session")
        if status < 400 or status == 404 or (is_json and status not in (429, 503)):
            return response
        await response.aclose()
        code = NOT_SENT if status in (429, 503) else REFUSED
        kept = {
            name: value
            for name in ("www-authenticate", "retry-after", "mcp-session-id")
            # What is not ASCII could not be written into our own response.
            if (value := response.headers.get(name)) is not None and value.isascii()
        }
        return _error(status, code, f"it answered with HTTP {status}{_meaning(status)}", kept)

    async def _bounded(self, request: httpx2.Request) -> httpx2.Response:
        """The response: a stream of events as it comes, anything else read, unless too long."""
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            return response
        limit, body = self._max_message_bytes, bytearray()
        try:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > limit:
                    said = f"its answer has more than {limit} bytes (max_message_bytes)"
                    return _error(502, REFUSED, said)
        except httpx2.DecodingError as error:
            return _error(502, REFUSED, f"its answer cannot be decoded: {error}")
        finally:
            await response.aclose()
        headers = [each for each in response.headers.raw if each[0].lower() not in _OF_THE_WIRE]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _waits(request: httpx2.Request) -> bool:
    """Whether it may long be without an answer: a stream, or a request of the protocol."""
    if "text/event-stream" not in request.headers.get("accept", ""):
        return False  # discovery, tokens
    if request.method != "POST":
        return request.method == "GET"
    try:
        message = json.loads(request.content)
    except (ValueError, httpx2.RequestNotRead):
        return False
    return isinstance(message, dict) and "method" in message and "id" in message


def _meaning(status: int) -> str:
    if status == 401:
        return ": it wants credentials; configure headers or oauth, or log in again"
    if status == 403:
        return ": these credentials do not allow it"
    return ""


def _error(
    status: int, code: int, message: str, headers: Mapping[str, str] | None = None
) -> httpx2.Response:
    data: dict[str, Any] = {"made_by": OURS}
    after = (headers or {}).get("retry-after", "")
    if after.isdigit():
        # float, which takes any number of digits; int does not.
        data["retry_after_s"] = min(float(after), LONGEST_RETRY_AFTER_S)
    error = {"code": code, "message": message, "data": data}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    kept = {**(headers or {}), "content-type": "application/json"}
    return httpx2.Response(status, headers=kept, content=body.encode())


@asynccontextmanager
async def http_transport(
    url: str,
    headers: Mapping[str, str],
    auth: httpx2.Auth | None,
    *,
    connect_timeout_s: float,
    max_message_bytes: int,
) -> AsyncIterator[tuple[object, object]]:
    """The streams of a session with the server at `url`. How long an answer may take is decided
    call by call, above; here connecting has a limit, and what is no call."""
    timeout = httpx2.Timeout(None, connect=connect_timeout_s, write=connect_timeout_s)
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=8)
    transport = Candid(
        httpx2.AsyncHTTPTransport(limits=limits),
        answer_s=connect_timeout_s,
        max_message_bytes=max_message_bytes,
    )
    async with (
        httpx2.AsyncClient(
            headers=dict(headers), auth=auth, timeout=timeout, transport=transport
        ) as client,
        streamable_http_client(
            url, http_client=client, max_sse_event_size=max_message_bytes
        ) as streams,
    ):
        yield streams
