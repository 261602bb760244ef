"""A turn on its way to an engine: what is asked, what was decided, what comes back.

These values are the seam between the router and its two callers: the OpenAI routes (`api.py`)
and the orchestrator, which calls `Turns.open` in the same process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from serving.config import TurnType


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One request for an engine, before any decision."""

    path: str
    """The engine route: `/v1/chat/completions`, `/v1/completions` or `/v1/messages`."""
    body: bytes
    """The JSON body as it came; forwarded untouched unless a named rewrite applies."""
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """The client's headers, names in lower case."""
    session: str | None = None
    """The session's key where the caller knows it; it wins over everything in the request."""
    turn_type: TurnType | None = None
    """Declared by the orchestrator, or by the `x-warmloop-turn` header."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a turn goes, and why."""

    model: str
    replica: str
    url: str
    reason: str
    """Short and stable, for headers, logs and metrics: `sticky`, `home`, `spill:load`,
    `retry:connect`, ... preceded by the tier's reason where `auto` was asked
    (`auto:classify->small; home`)."""
    predicted_cached_tokens: int = 0

    def headers(self) -> dict[str, str]:
        """The decision headers of the answer."""
        return {
            "x-warmloop-model": self.model,
            "x-warmloop-replica": self.replica,
            "x-warmloop-decision": self.reason,
            "x-warmloop-predicted-cached-tokens": str(self.predicted_cached_tokens),
        }


class Dispatched(Protocol):
    """An engine's answer whose first byte has come. Leaving the context frees the engine."""

    decision: Decision
    status: int
    headers: Mapping[str, str]
    """The engine's headers that a client should see, plus the decision's."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive, unbuffered. Raises UpstreamError if it is cut."""


class Turns(Protocol):
    """The one method that the router offers. `router.dispatch.Router` is the real one."""

    def open(self, turn: TurnRequest) -> AbstractAsyncContextManager[Dispatched]:
        """Decide, admit, forward; enters when the answer's first byte is here.

        Engine answers of 4xx are passed on as they are. Raises RequestError: NotFound (unknown
        model), RateLimited (queue full), Unavailable (no engine ready), UpstreamError.
        """
