"""An engine's answer on its way to a client: watched as it passes, never held back.

What shows at the end (usage, a cut) is told to the `Watcher`; the usage when the turn is over, so
that no client waits for it. Errors of engines that do not speak OpenAI's envelope are put into it
here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from router.http.forward import Upstream
from router.http.http1 import Failed
from router.streams.sent import Sent
from router.turn import Decision
from serving.errors import RequestError
from serving.protocol import Usage, UsageTail, usage_in


class Watcher(Protocol):
    """Who hears what an answer showed on its way."""

    def used(self, usage: Usage) -> None:
        """The engine reported its token counts."""

    @property
    def counts_tokens(self) -> bool:
        """Is it worth counting the events of a stream that may say no usage?"""

    def streamed(self, events: int) -> None:
        """A stream passed, or a part of it, in which the engine reported nothing."""

    def cut(self, failure: Failed) -> RequestError:
        """The answer ended too early; returns what to tell the caller."""

    def continued(self, sent: Sent, failure: Failed) -> AsyncGenerator[bytes, None]:
        """The same, where the answer may go on behind what was sent. Raises RequestError."""


class Whole:
    """A body in one piece, as chunks. No generator: a loop keeps books of each of those."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    def __aiter__(self) -> Whole:
        return self

    async def __anext__(self) -> bytes:
        body, self._body = self._body, None
        if body is None:
            raise StopAsyncIteration
        return body


class Answer:
    """A `Dispatched` (see router.turn)."""

    __slots__ = (
        *("_sent", "_tail", "_upstream", "_watcher", "_whole", "decision", "headers", "status"),
    )

    def __init__(
        self, upstream: Upstream, decision: Decision, watcher: Watcher, sent: Sent | None = None
    ) -> None:
        """`sent` keeps what was sent of a stream that may be continued elsewhere."""
        self._sent = sent
        self._tail: Sent | UsageTail | None = None
        """Of a stream that has come to its end."""
        self.decision = decision
        self.status = upstream.status
        headers = {**upstream.headers, **decision.headers()}
        self.headers: Mapping[str, str] = headers
        self._upstream = upstream
        self._watcher = watcher
        self._whole = upstream.whole
        if self._whole is not None and self.status >= 400:
            self._whole = in_envelope(self.status, self._whole)
            headers["content-length"] = str(len(self._whole))
            headers["content-type"] = "application/json"

    @property
    def is_stream(self) -> bool:
        return self._upstream.is_stream

    def over(self) -> None:
        """Nothing more of it is wanted: read what the engine counted, which no client waits for."""
        usage = None
        if self._tail is not None:
            usage = self._tail.usage()
        elif self._whole is not None and self.status < 400:
            usage = usage_in(self._whole)
        if usage is not None:
            self._watcher.used(usage)

    def chunks(self) -> AsyncIterator[bytes]:
        if self._whole is not None:
            return Whole(self._whole)
        passing = self._passing() if self._sent is None else self._continuable(self._sent)
        return self._counted(passing) if self._watcher.counts_tokens else passing

    async def _passing(self) -> AsyncGenerator[bytes, None]:
        tail = UsageTail()
        read = self._upstream.read
        try:
            while chunk := await read():
                tail.feed(chunk)
                yield chunk
        except Failed as failure:
            raise self._watcher.cut(failure) from None
        if self._upstream.is_stream:
            self._tail = tail

    async def _continuable(self, sent: Sent) -> AsyncGenerator[bytes, None]:
        read = self._upstream.read
        try:
            while chunk := await read():
                if whole := sent.feed(chunk):
                    yield whole
            if rest := sent.rest():
                yield rest
        except Failed as failure:
            async with aclosing(self._watcher.continued(sent, failure)) as more:
                async for chunk in more:
                    yield chunk
        self._tail = sent

    async def _counted(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Few clients ask for the usage of a stream: without it, its events are what it cost."""
        events = 0
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    events += chunk.count(b"data:")
                    yield chunk
        finally:
            if self._upstream.is_stream:
                self._watcher.streamed(events)


def in_envelope(status: int, body: bytes) -> bytes:
    """An engine's error in OpenAI's envelope; untouched when it is in one."""
    try:
        said: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        said = {"message": body[:500].decode("utf-8", "replace")}
    message: Any = ""
    if isinstance(said, dict):
        if isinstance(said.get("error"), dict):
            return body
        message = said.get("message") or said.get("detail") or said.get("error") or ""
    if not isinstance(message, str):
        message = msgspec.json.encode(message).decode()
    error = {
        "message": message or f"the engine answered {status}",
        "type": "rate_limit_error" if status == 429 else "invalid_request_error",
        "param": None,
        "code": None,
    }
    return msgspec.json.encode({"error": error})
