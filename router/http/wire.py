"""The forwarding routes, spoken right in the HTTP protocol: a request's bytes in, an engine's out.

    head ─► Exchange: the body, piece by piece ─► whole: one task ─► Turns.open ─► head and chunks
              └── too large: 413                      └── connection lost: cancelled

Byte forwarding is what a front door does all day, and ASGI would cost it more than all decisions
together: a second task that waits for the end of the connection, a dictionary for each piece, each
header taken apart and put together twice. So `server.FrontProtocol` hands these requests to us, and
all others to ASGI.

Invariants: every request is answered in OpenAI's envelope; every answer has an `x-request-id`; a
client that hangs up cancels its turn; a stream that breaks after its first byte ends with an error
event, since its status can no longer be changed; a client that reads slowly makes the engine wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol

from router import logs
from router.http.refusals import (
    MethodNotAllowed,
    error_body,
    error_event,
    error_headers,
    internal,
    request_id_of,
)
from router.tenancy import deadlines
from router.tenancy.access import Access
from router.turn import TurnRequest, Turns
from serving.config.stack import StackConfig
from serving.errors import BadRequest, RequestError, TooLarge, Unavailable
from serving.protocol import ROUTES

Report = Callable[[logs.TurnRecord], None]

_log = logging.getLogger("warmloop.front")
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n" for s in HTTPStatus}


class Wire(Protocol):
    """The connection below an exchange."""

    @property
    def full(self) -> bool:
        """The client reads too slowly: `drain` before writing more."""

    def write(self, data: bytes) -> None:
        """Send, in order."""

    async def drain(self) -> None:
        """Returns when there is room again."""

    def common_headers(self) -> str:
        """Header lines that every answer has."""

    def ended(self, exchange: Exchange, *, close: bool) -> None:
        """The answer is complete, or will never be: then the connection must be closed."""


class Forwarding:
    """What all exchanges share: who takes the turns, and what a request may be."""

    def __init__(
        self,
        turns: Turns,
        config: StackConfig,
        report: Report,
        access: Access,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is the router's: a turn's deadline is told by it."""
        self.turns = turns
        self.max_body_bytes = config.front.max_body_bytes
        self.report = report
        self.access = access
        self._deadline_s = config.admission.deadline_s
        self._clock = clock
        self.paths = {path.encode(): path for path in ROUTES}

    def turn(self, exchange: Exchange) -> TurnRequest:
        """The request as a trusted value. Raises RequestError."""
        tenant = self.access.of(exchange.headers)
        if exchange.method != b"POST":
            method = exchange.method.decode("latin-1")
            raise MethodNotAllowed(f"{exchange.path} takes POST, not {method}")
        if exchange.too_large:
            raise TooLarge(
                f"the body is larger than {self.max_body_bytes} bytes; "
                "shorten it, or raise front.max_body_bytes"
            )
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in exchange.headers}
        if headers.get("content-encoding", "identity") != "identity":
            raise BadRequest("content-encoding: send the body as plain JSON", param=None)
        seconds = deadlines.seconds_of(headers, self._deadline_s)
        return TurnRequest(
            exchange.path,
            exchange.body(),
            exchange.request_id,
            headers,
            tenant=tenant,
            urgency=deadlines.urgency_of(headers, tenant),
            deadline_s=None if seconds is None else self._clock() + seconds,
        )


class Exchange:
    """One request on a forwarding route, from its head to the end of its answer."""

    def __init__(
        self,
        wire: Wire,
        forwarding: Forwarding,
        method: bytes,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        http_1_1: bool,
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.request_id = request_id_of(headers)
        self.keep_alive = keep_alive
        self.too_large = False
        self.awaits_100 = False
        """The client sends the body when it is told to."""
        self.response_complete = False
        self._wire = wire
        self._forwarding = forwarding
        self._task: asyncio.Task[None] | None = None
        self._gone = False
        self._parts: list[bytes] = []
        self._size = self._declared = 0
        self._started = False
        self._is_stream = False
        self._chunked = http_1_1
        self._last = b""
        self._head = b""
        """Of a stream, while its first chunk may come in the same turn of the loop."""
        for name, value in headers:
            if name == b"content-length":  # the parser has seen to it that it is a number
                self._declared = int(value)
            elif name == b"expect" and value.lower() == b"100-continue":
                self.awaits_100 = True
        self.too_large = self._declared > forwarding.max_body_bytes

    # The request

    def feed(self, part: bytes) -> None:
        """A piece of the body."""
        self._size += len(part)
        if self._size > self._forwarding.max_body_bytes:
            self.too_large = True
            self._parts.clear()
        else:
            self._parts.append(part)

    @property
    def hopeless(self) -> bool:
        """The rest of the body is not worth waiting for.

        An excess of up to the limit is read and dropped: most clients read no answer before they
        have sent everything.
        """
        most = 2 * self._forwarding.max_body_bytes
        return self.too_large and (self.awaits_100 or max(self._size, self._declared) > most)

    def body(self) -> bytes:
        """The whole body."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def start(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Answer. The request is whole, or hopeless, and all before it have been answered."""
        self._task = loop.create_task(self._run())
        return self._task

    def hang_up(self) -> None:
        """The connection is lost: nobody wants the answer any more."""
        self._gone = True
        self._head = b""
        if self._task is not None and not self.response_complete:
            self._task.cancel()

    # The answer

    async def _run(self) -> None:
        try:
            await self._answer()
        except RequestError as error:
            self._fail(error)
        except asyncio.CancelledError:
            if not self._gone:  # the server's time is up
                self._fail(Unavailable("the front door is being stopped", retry_after_s=1))
                raise
        except Exception:
            # A defect of ours. Its text stays in the log, where the request id finds it.
            _log.exception("request %s failed", self.request_id)
            self._fail(internal(self.request_id))

    async def _answer(self) -> None:
        try:
            turn = self._forwarding.turn(self)
        except RequestError as error:
            record = logs.TurnRecord(logs.utc_now(), self.request_id, self.path, error.status)
            record.error = error.code or error.type
            self._forwarding.report(record)
            raise
        async with self._forwarding.turns.open(turn) as answer:
            length = answer.headers.get("content-length")
            if length is None:
                await self._pass_on(answer.status, answer.headers, answer.chunks())
            else:
                await self._pass_whole(answer.status, answer.headers, answer.chunks(), int(length))
            # What was written leaves when this turn of the loop ends: the books come after it.
            await asyncio.sleep(0)

    async def _pass_on(
        self, status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes]
    ) -> None:
        """An answer of a length that nobody knows yet."""
        wire, chunked = self._wire, self._chunked
        self._is_stream = headers.get("content-type", "").startswith("text/event-stream")
        self.keep_alive = self.keep_alive and chunked
        self._head = self._head_of(status, headers)
        self._started = True
        asyncio.get_running_loop().call_soon(self._flush)
        async for chunk in chunks:
            if wire.full:
                await wire.drain()
            if chunk:
                self._last = chunk
                self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        self._end()

    def _send(self, data: bytes) -> None:
        """Of a stream."""
        if self._head:
            data, self._head = self._head + data, b""
        self._wire.write(data)

    def _flush(self) -> None:
        if self._head:
            self._send(b"")

    async def _pass_whole(
        self, status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes], length: int
    ) -> None:
        wire = self._wire
        self._chunked = False
        async for chunk in chunks:
            if wire.full:
                await wire.drain()
            length -= len(chunk)
            if self._started:
                wire.write(chunk)
            else:
                self._begin(status, headers, chunk)
            if not length:
                self._end()
        if length:
            raise RuntimeError("an answer's length is not what its header says")
        if not self._started:
            self._begin(status, headers)
        self._end()

    def _begin(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send the head, and what there is of the body: each write is a call of its own."""
        head = self._head_of(status, headers)
        self._started = True
        self._wire.write(head + body)

    def _head_of(self, status: int, headers: Mapping[str, str]) -> bytes:
        """Raises ValueError for a header that would end up as two."""
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not fields.count("\n") == fields.count("\r") == len(headers):
            raise ValueError("a header with a line break")
        ends = "connection" not in headers and not self.keep_alive
        head = (
            (_STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n")
            + self._wire.common_headers()
            + fields
            + f"x-request-id: {self.request_id}\r\n"
            + ("transfer-encoding: chunked\r\n" if self._chunked else "")
            + ("connection: close\r\n\r\n" if ends else "\r\n")
        )
        return head.encode("latin-1", "replace")

    def _end(self) -> None:
        """Nothing follows. A body of unknown length that is not chunked ends with the wire."""
        if self.response_complete:
            return
        if self._chunked:
            self._send(b"0\r\n\r\n")
        self._flush()
        self.response_complete = True
        self._wire.ended(self, close=not self.keep_alive)

    def _fail(self, error: RequestError) -> None:
        """Say so, in whatever way is left."""
        if self.response_complete or self._gone:
            return
        if not self._started:
            body = error_body(error, self.path)
            headers = error_headers(error, body)
            self._chunked = False
            self.keep_alive = self.keep_alive and headers.get("connection") != "close"
            self._begin(error.status, headers, b"" if self.method == b"HEAD" else body)
            self._end()
        elif self._is_stream:
            event = error_event(error, self.path, self._last)
            self._send(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)
            self._end()
        else:
            # An answer that is too short is all that plain HTTP has to say that it was cut.
            self._flush()
            self.response_complete = True
            self._wire.ended(self, close=True)
