"""The tenants of a stack, and what it takes on for whom: `tenants:` and `admission:` in its file.

Keys are not here: they are made by `warmloop keys create` and lie, hashed, in a file of their own.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from serving.config.sections import Frozen, Name

OPERATOR = "operator"
"""Whose keys may use the operator's routes; no tenant can have this name."""


class TenantConfig(Frozen):
    """What one tenant may use, and how much of it. Limits count for each front door apart."""

    weight: float = Field(default=1.0, gt=0, le=1000)
    """Its share of a busy model, beside other tenants' weights, in tokens."""
    max_requests_per_minute: int | None = Field(default=None, ge=1)
    max_tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and output tokens, those from the cache included."""
    max_sessions: int | None = Field(default=None, ge=1)
    """Sessions at once: one that had no turn for admission.session_idle_s is over."""
    max_inflight: int | None = Field(default=None, ge=1)
    """Requests at once; an agent's response is one, however many turns it takes."""
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
