"""A turn as the scheduler takes it, and what comes of it: the values between it and `dispatch`."""

from __future__ import annotations

import msgspec

from router.identity import Identity
from router.tenancy.tenants import OPEN, Tenant
from router.turn import Urgency
from serving.tables.base import Engine


class Claim(msgspec.Struct, frozen=True):
    """A turn, as far as placing it needs to know."""

    model: str
    """The model or adapter that was asked for."""
    identity: Identity
    prompt_bytes: int = 0
    tenant: Tenant = OPEN
    urgency: Urgency = "interactive"
    streams: bool = True
    """Its first byte comes when its prompt is computed, not when its answer is whole."""
    spare: bool = False
    """It goes at once or not at all, and nobody reads its answer."""


class Placed(msgspec.Struct, frozen=True):
    """Where a turn goes, and why."""

    engine: Engine
    reason: str
    predicted_cached_tokens: int = 0
    waited_s: float = 0.0
    """In the router."""
    first_token_s: float = 0.0
    """From now on, as estimated."""
    due_in_s: float | None = None
    """Its rank in the engine's queue: the router's order, in seconds from now, negative when it is
    overdue. None: nothing is before it there."""
