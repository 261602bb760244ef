"""An engine's answer on its way to a client: watched as it passes, never held back.

The router fills in what it learns at the end (usage, a cut) through `Passage`, which it reads when
the turn is over. Errors of engines that do not speak OpenAI's envelope are put into it here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec

from router.forward import Upstream
from router.http1 import Failed
from router.turn import Decision
from serving.errors import RequestError
from serving.protocol import Usage, UsageTail, usage_in


class Watcher(Protocol):
    """Who hears what an answer showed on its way."""

    def used(self, usage: Usage) -> None:
        """The engine reported its token counts."""

    def cut(self, failure: Failed) -> RequestError:
        """The answer ended too early; returns what to tell the caller."""


class Answer:
    """A `Dispatched` (see router.turn)."""

    __slots__ = ("_upstream", "_watcher", "_whole", "decision", "headers", "status")

    def __init__(self, upstream: Upstream, decision: Decision, watcher: Watcher) -> None:
        self.decision = decision
        self.status = upstream.status
        headers = {**upstream.headers, **decision.headers()}
        self.headers: Mapping[str, str] = headers
        self._upstream = upstream
        self._watcher = watcher
        self._whole = upstream.whole
        if self._whole is None:
            return
        if self.status >= 400:
            self._whole = in_envelope(self.status, self._whole)
            headers["content-length"] = str(len(self._whole))
            headers["content-type"] = "application/json"
        elif usage := usage_in(self._whole):
            watcher.used(usage)

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._whole is not None:
            yield self._whole
            return
        tail = UsageTail()
        try:
            async for chunk in self._upstream.chunks():
                tail.feed(chunk)
                yield chunk
        except Failed as failure:
            raise self._watcher.cut(failure) from None
        if self._upstream.is_stream and (usage := tail.usage()):
            self._watcher.used(usage)


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
