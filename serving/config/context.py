"""An agent's `context:` section: what becomes of a prompt that grows long, or waits for long."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serving.config.sections import Frozen


class KeepWarmConfig(Frozen):
    """Reading a prompt again in a pause, so that the turn after it finds it in the engine's cache;
    see docs/context.md."""

    ahead_s: float = Field(default=5.0, gt=0)
    """How long before a pause is expected to end the prompt is to have been read."""
    touches: int = Field(default=3, ge=1)
    """How often in one pause, at most."""
    least_tokens: int = Field(default=1024, ge=1)
    """Prompts that are shorter are not worth it."""
    max_usd: float | None = Field(default=None, gt=0)
    """What it may cost in one response. None: what the response may cost."""


class ContextConfig(Frozen):
    """How old turns leave the prompt; see docs/context.md.

    Rewriting a prompt throws its cached copy away, so it is done between responses and only when it
    pays, or when the model's context is full and no call is open.
    """

    strategy: Literal["none", "window", "summary"] = "none"
    """`window`: the newest turns stay. `summary`: and what went before is told in short, by a side
    turn of type `summarise`. `none`: nothing leaves; near the end of the context the agent is asked
    for a last answer."""
    keep_turns: int = Field(default=6, ge=1)
    """Model turns that stay as they were."""
    summary_model: str = "auto"
    summary_tokens: int = Field(default=400, ge=16)
    """Of one summary at most."""
    margin: float = Field(default=0.2, ge=0)
    """What rewriting must save beyond its cost, as a share of what not rewriting costs."""
    remaining_turns: float = Field(default=4.0, ge=1)
    """Turns that a session is expected to have still, where its own history says less."""
    cache_lives_s: float = Field(default=300.0, gt=0)
    """After a pause of this length the engine's copy of the prompt counts as gone, unless the
    conversation has outlived longer ones."""
    keep_warm: KeepWarmConfig | None = None
    """None: in a pause nothing is done."""
