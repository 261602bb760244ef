"""Small or frontier? A pure decision from the turn's type and the tiers that are up.

A turn's type is declared (by the orchestrator, or in the header `x-warmloop-turn`), or inferred
from two facts that a raw request states plainly:

    it has tools                          → tool-call
    it has no tools and wants JSON        → format
    anything else                         → unknown, and the frontier gets it

Nothing is guessed from wording: a wrong guess costs an answer, a missed one costs cents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from serving.config import TURN_TYPES, ModelConfig, RouterConfig, TurnType, nearest
from serving.errors import BadRequest
from serving.protocol import AnyAsk
from serving.table import Tier

TURN_HEADER = "x-warmloop-turn"
AUTO = "auto"
_EMPTY = (b"", b"null", b"[]")


class _Format(msgspec.Struct):
    type: str = ""


@dataclass(frozen=True, slots=True)
class Tiering:
    """The chosen model, and why in a few stable words; empty when the client named it."""

    model: str
    reason: str


def declared(header: str | None) -> TurnType | None:
    """The header's turn type. Raises BadRequest naming the valid ones."""
    if header is None:
        return None
    for turn_type in TURN_TYPES:
        if header == turn_type:
            return turn_type
    raise BadRequest(
        f"{TURN_HEADER}: {header[:40]!r} is not a turn type; {nearest(header, [*TURN_TYPES])}",
        param=TURN_HEADER,
    )


def inferred(ask: AnyAsk) -> TurnType | None:
    """The type that the request's own fields state, or None."""
    if bytes(ask.tools) not in _EMPTY:
        return "tool-call"
    if bytes(ask.response_format) in _EMPTY:
        return None
    try:
        wanted = msgspec.json.decode(ask.response_format, type=_Format)
    except msgspec.DecodeError:
        return None
    return "format" if wanted.type in ("json_object", "json_schema") else None


def choose(
    asked: str,
    turn_type: TurnType | None,
    models: Mapping[str, ModelConfig],
    ready: Collection[str],
    knobs: RouterConfig,
) -> Tiering:
    """The model for this turn; `ready` are the models with an engine that takes turns.

    A tier without a ready engine gives way to the other. Where none is ready, the wanted tier's
    model is named, so that the error speaks of it.
    """
    if asked != AUTO:
        return Tiering(asked, "")
    wanted: Tier = "small" if turn_type in knobs.small_turns else "frontier"
    of_tier: dict[Tier, list[str]] = {"small": [], "frontier": []}
    for name, config in models.items():
        of_tier[config.tier].append(name)
    other: Tier = "frontier" if wanted == "small" else "small"
    label = turn_type or "unknown"
    for tier in (wanted, other):
        for name in of_tier[tier]:
            if name in ready:
                down = "" if tier == wanted else f":{wanted}-not-ready"
                return Tiering(name, f"auto:{label}->{tier}{down}")
    name = next(iter(of_tier[wanted] or of_tier[other]))
    return Tiering(name, f"auto:{label}->{wanted}")
