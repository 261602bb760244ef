"""The forwarding routes as plain ASGI: a request's bytes in, an engine's bytes out.

    Gate(inner)            every request: its id, the last resort when something of ours breaks
     └── /v1/chat/completions, /v1/completions, /v1/messages → Forwarding
     └── anything else → inner (FastAPI)

Invariants: every request is answered in OpenAI's envelope; every answer has an `x-request-id`;
a client that hangs up cancels its turn; a stream that breaks after its first byte ends with an
error event, since its status can no longer be changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router import logs
from router.turn import TurnRequest, Turns
from serving.errors import BadRequest, Internal, RequestError, TooLarge
from serving.protocol import MESSAGES

Report = Callable[[logs.TurnRecord], None]

_log = logging.getLogger("warmloop.front")
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class MethodNotAllowed(RequestError):
    """The route exists, for another method."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class _HungUp(Exception):
    """The client left before its request was read."""


def request_id_of(scope: Scope) -> str:
    """The client's id where it is harmless in a log and a header, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value, "ascii")
    return "req_" + os.urandom(12).hex()


def error_body(error: RequestError, path: str) -> bytes:
    """OpenAI's envelope; on Anthropic's route also marked as its clients expect."""
    body = error.body()
    if path == MESSAGES:
        body = {"type": "error", **body}
    return msgspec.json.encode(body)


def internal(scope: Scope) -> Internal:
    """What a client hears of a defect of ours."""
    return Internal(f"internal error; the log has it under {scope['warmloop.request_id']}")


async def send_error(send: Send, error: RequestError, path: str, request_id: str) -> None:
    """The error as a whole answer."""
    body = error_body(error, path)
    headers = {
        **error.headers(),
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
    }
    if isinstance(error, TooLarge):
        headers["connection"] = "close"  # what is left of the body is not going to be read
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = "POST"
    await send({"type": "http.response.start", "status": error.status, "headers": encode(headers)})
    await send({"type": "http.response.body", "body": body})


def encode(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers.items()]


def error_event(error: RequestError, path: str) -> bytes:
    """The last event of a stream that broke."""
    name = b"event: error\n" if path == MESSAGES else b""
    return name + b"data: " + error_body(error, path) + b"\n\n"


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises TooLarge beyond `limit` bytes, _HungUp when the client leaves.

    An excess of up to `limit` more is read and dropped first: most clients read no answer before
    they have sent everything.
    """
    size = 0
    chunks: list[bytes] = []
    declared = 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            declared = int(value)
    more = declared <= 2 * limit
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _HungUp
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        more = message.get("more_body", False) and size <= 2 * limit
    if max(size, declared) > limit:
        raise TooLarge(
            f"the body is larger than {limit} bytes; shorten it, or raise front.max_body_bytes"
        )
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class Forwarding:
    """POST to an engine's route."""

    def __init__(self, turns: Turns, max_body_bytes: int, report: Report) -> None:
        self._turns = turns
        self._max_body_bytes = max_body_bytes
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        request_id = scope["warmloop.request_id"]
        try:
            turn = await self._turn(scope, receive, request_id)
        except RequestError as error:
            record = logs.TurnRecord(logs.utc_now(), request_id, path, error.status)
            record.error = error.code or error.type
            self._report(record)
            await send_error(send, error, path, request_id)
            return
        except _HungUp:
            return
        current = asyncio.current_task()
        assert current is not None  # noqa: S101  ASGI servers run us in a task
        gone = asyncio.ensure_future(_cancel_when_gone(receive, current))
        try:
            await self._run(turn, send)
        except asyncio.CancelledError:
            # Ours when the watcher has ended, which it does only after cancelling us; else the
            # server's, which is shutting down.
            if not gone.done() or gone.cancelled():
                raise
            current.uncancel()
        finally:
            gone.cancel()

    async def _turn(self, scope: Scope, receive: Receive, request_id: str) -> TurnRequest:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}")
        body = await read_body(scope, receive, self._max_body_bytes)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        if headers.get("content-encoding", "identity") != "identity":
            raise BadRequest("content-encoding: send the body as plain JSON", param=None)
        return TurnRequest(scope["path"], body, request_id, headers)

    async def _run(self, turn: TurnRequest, send: Send) -> None:
        started = False
        last = b""
        is_stream = False
        try:
            async with self._turns.open(turn) as answer:
                headers = {**answer.headers, "x-request-id": turn.request_id}
                is_stream = headers.get("content-type", "").startswith("text/event-stream")
                started = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": answer.status,
                        "headers": encode(headers),
                    }
                )
                more = True
                async for last in answer.chunks():
                    more = str(len(last)) != headers.get("content-length")  # a whole answer
                    await send({"type": "http.response.body", "body": last, "more_body": more})
            if more:
                await send({"type": "http.response.body", "body": b""})
        except RequestError as error:
            if not started:
                await send_error(send, error, turn.path, turn.request_id)
            elif is_stream:
                # Half an event may be out: an empty line ends it, and keeps ours apart.
                gap = b"" if last.endswith(b"\n\n") else b"\n\n"
                event = gap + error_event(error, turn.path)
                await send({"type": "http.response.body", "body": event})
            # Else the server closes the connection under an answer that is too short, which is
            # all that plain HTTP has to say that it was cut.


async def _cancel_when_gone(receive: Receive, task: asyncio.Task[Any]) -> None:
    """Wait for the end of the connection. The body has been read: nothing else can come."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


class Gate:
    """The outermost application: request ids, the path lookup, the last resort."""

    def __init__(self, routes: Mapping[str, ASGIApp], inner: ASGIApp) -> None:
        self._routes = routes
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        request_id = scope["warmloop.request_id"] = request_id_of(scope)
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if route is None:
                    message["headers"] = [
                        *message.get("headers", ()),
                        (b"x-request-id", request_id.encode()),
                    ]
            await send(message)

        route = self._routes.get(scope["path"])
        try:
            await (route or self._inner)(scope, receive, noting)
        except Exception:
            # A defect of ours. Its text stays in the log, where the request id finds it.
            _log.exception("request %s failed", request_id)
            if not started:
                await send_error(send, internal(scope), scope["path"], request_id)
