"""A turn on its way to an engine: what is asked, what was decided, what comes back.

These values are the seam between the router and its two callers: the OpenAI routes (`api.py`)
and the orchestrator, which calls `Turns.open` in the same process. Values that every turn makes are
msgspec's structs, here and below: a frozen dataclass takes several times as long to make.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from router.logs import TurnRecord
from router.tenancy.tenants import OPEN, Tenant
from serving.config.router import TurnType

if TYPE_CHECKING:
    from router.identity import Identity
    from serving.protocol import AnyAsk

Urgency = Literal["interactive", "batch"]
NO_TIME = "no_time_to_spare"
"""The code of the refusal of a turn that is not worth anybody's waiting."""


class TierNote(msgspec.Struct, frozen=True):
    """Why a turn has the model that it has, where `auto` was asked; for header, log and metrics."""

    tier: str
    reason: str
    """`auto:<turn type>-><tier>`, and `:<why>` where it is not the type alone."""
    turn_type: str = ""
    prices_usd: Mapping[str, float] = {}
    """What the session's next turns were expected to cost, by model."""
    change: str = ""
    """`small->frontier`: the session's main chain changes its model."""
    gain_usd: float | None = None
    """What the change was expected to gain."""
    spent_usd: float = 0.0
    """What tries have cost whose answers are not used."""


class Parsed(msgspec.Struct, frozen=True):
    """What somebody above the router has read in a turn's body, and concluded from it."""

    ask: AnyAsk
    identity: Identity
    model: str
    """The one that is to answer, in place of the one that is asked for."""


class TurnRequest(msgspec.Struct, frozen=True):
    """One request for an engine, before any decision."""

    path: str
    """The engine route: `/v1/chat/completions`, `/v1/completions` or `/v1/messages`."""
    body: bytes
    """The JSON body as it came; forwarded untouched unless a named rewrite applies."""
    request_id: str
    headers: Mapping[str, str] = {}
    """The client's headers, names in lower case."""
    session: str | None = None
    """The session's key where the caller knows it; it wins over everything in the request."""
    turn_type: TurnType | None = None
    """Declared by the orchestrator, or by the `x-warmloop-turn` header."""
    tenant: Tenant = OPEN
    """Whose it is; the edge found it by the request's key."""
    urgency: Urgency = "interactive"
    deadline_s: float | None = None
    """By the router's clock; at this moment the turn is no longer wanted, and is cancelled."""
    agent: str = ""
    """The agent whose turn it is; empty for raw requests."""
    tier: TierNote | None = None
    """Set by who chose the model; None where the client named it."""
    parsed: Parsed | None = None
    """Where somebody above the router has read the body."""
    on_end: Callable[[TurnRecord], None] | None = None
    """Hears what became of the turn, when its engine is free again."""
    inner: bool = False
    """A turn of an agent's response: what was checked when that came in is not checked again."""
    spare: bool = False
    """Nobody waits for its answer, and nobody reads it: what counts is that an engine has read the
    prompt. It goes at once where the session's next turn would, and only while nothing waits there;
    else it is refused (`NO_TIME`)."""


class Decision(msgspec.Struct, frozen=True):
    """Where a turn goes, and why."""

    model: str
    replica: str
    url: str
    reason: str
    """Short and stable, for headers, logs and metrics: `sticky`, `home`, `spill:load`,
    `retry:connect`, ... preceded by the tier's reason where `auto` was asked
    (`auto:classify->small; home`)."""
    predicted_cached_tokens: int = 0
    estimated_s: float | None = None
    """Until the first token, from when the turn was sent to that replica."""
    spent_usd: float = 0.0
    """What tries have cost whose answers were not used; not in the answer's own usage."""

    def headers(self) -> dict[str, str]:
        """The decision headers of the answer."""
        headers = {
            "x-warmloop-model": self.model,
            "x-warmloop-replica": self.replica,
            "x-warmloop-decision": self.reason,
            "x-warmloop-predicted-cached-tokens": str(self.predicted_cached_tokens),
        }
        if self.estimated_s is not None:
            headers["x-warmloop-estimated-ttft-ms"] = f"{self.estimated_s * 1000:.0f}"
        if self.spent_usd:
            headers["x-warmloop-spent-usd"] = f"{self.spent_usd:.9f}"
        return headers


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
