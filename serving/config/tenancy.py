"""The tenants of a stack, and what it takes on for whom: `tenants:` and `admission:` in its file.

Keys are not here: they are made by `warmloop keys create` and lie, hashed, in a file of their own.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from serving.config.sections import Frozen, Name, seconds_of

OPERATOR = "operator"
"""Whose keys may use the operator's routes; no tenant can have this name."""


class BudgetConfig(Frozen):
    """What one tenant may use in a window of time that moves on; unset: no limit. All front doors
    of one journal share it, and restarts do not reset it."""

    window: str = "1d"
    """`30m`, `12h`, `7d`."""
    max_turns: int | None = Field(default=None, ge=1)
    """Model turns: those of agents, and forwarded requests."""
    max_tool_calls: int | None = Field(default=None, ge=1)
    """Of agents."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Prompt and output tokens, those from the cache included."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Of model turns, all together."""
    max_cost_usd: float | None = Field(default=None, gt=0)
    """By the configured prices; tools that say what they cost are included."""
    warn_at: float = Field(default=0.8, gt=0, le=1)
    """Share of a limit at which agents are told that it comes near; 1 = never."""

    @field_validator("window")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if seconds_of(value) is None:
            raise ValueError(f"{value!r} is no time; write e.g. 30m, 12h or 7d")
        return value

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetConfig:
        if not self.limits:
            raise ValueError(
                "has no limit; set one of max_turns, max_tool_calls, max_tokens, max_seconds or "
                "max_cost_usd, or leave the budget out"
            )
        return self

    @cached_property
    def window_s(self) -> float:
        return seconds_of(self.window) or 0.0

    @cached_property
    def limits(self) -> dict[str, float]:
        """The set ones, by the amount that they limit."""
        every = {
            "turns": self.max_turns,
            "tool_calls": self.max_tool_calls,
            "tokens": self.max_tokens,
            "seconds": self.max_seconds,
            "cost_usd": self.max_cost_usd,
        }
        return {name: limit for name, limit in every.items() if limit is not None}


class TenantConfig(Frozen):
    """What one tenant may use, and how much of it. Limits count for each front door apart, the
    budget for all together."""

    weight: float = Field(default=1.0, gt=0, le=1000)
    """Its share of a busy model, beside other tenants' weights, in tokens."""
    max_requests_per_minute: int | None = Field(default=None, ge=1)
    max_tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and output tokens, those from the cache included."""
    max_sessions: int | None = Field(default=None, ge=1)
    """Sessions at once: one that had no turn for admission.session_idle_s is over."""
    max_inflight: int | None = Field(default=None, ge=1)
    """Requests at once; an agent's response is one, however many turns it takes."""
    budget: BudgetConfig | None = None
    models: tuple[str, ...] | None = None
    """Models, agents and `auto` that it may ask for; default: all. An agent brings its model along,
    and `auto` both tiers. An adapter that is nobody's own goes with its model."""
    adapters: tuple[Name, ...] = ()
    """LoRA adapters of its own: tenants that do not list them do not see them."""
    batch_only: bool = False
    """Its turns go after everybody's interactive ones, whatever they ask for."""


class AdmissionConfig(Frozen):
    """Keys, deadlines, and when to refuse rather than to let wait."""

    keys: Path | None = None
    """The file of hashed keys; default: keys.json in the stack's folder."""
    keys_check_s: float = Field(default=1.0, gt=0)
    """How often a front door looks whether that file has changed."""
    deadline_s: float | None = Field(default=None, gt=0)
    """For forwarded requests without an x-warmloop-deadline-s; unset: none."""
    max_wait_s: float | None = Field(default=None, gt=0)
    """A turn that would wait longer than this for its engine is refused at once; unset: only one
    that would miss its deadline is."""
    session_idle_s: float = Field(default=60.0, gt=0)
    """A session that had no turn for so long does not count as one any more."""
