"""What kind of turn is it, and which models are there for it? Facts for the policy.

A turn's type is declared (by the orchestrator, or in the header `x-warmloop-turn`), or inferred
from facts that a raw request states plainly:

    it has tools                          → tool-call
    it must choose from a list            → classify
    it has no tools and wants JSON        → format
    anything else                         → unknown, and the frontier gets it

Its task is named in the header `x-warmloop-task`, or stands for its system prompt: applications
differ by theirs. Nothing is guessed from wording: a wrong guess costs an answer, a missed one costs
cents.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

import msgspec

from router.logs import TurnRecord
from router.turn import TierNote
from serving.config.model import ModelConfig
from serving.config.router import TURN_TYPES, TurnType
from serving.config.sections import nearest
from serving.errors import BadRequest
from serving.protocol import AnyAsk, ChatAsk, MessagesAsk, role_of
from serving.tables.base import Tier

TURN_HEADER = "x-warmloop-turn"
TASK_HEADER = "x-warmloop-task"
AUTO = "auto"
_EMPTY = (b"", b"null", b"[]", b'""')
_TASK = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Format(msgspec.Struct):
    type: str = ""


class _Chosen(msgspec.Struct):
    choice: msgspec.Raw = msgspec.Raw()


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
    if bytes(ask.guided_choice) not in _EMPTY or _has_choice(ask.structured_outputs):
        return "classify"
    if bytes(ask.response_format) in _EMPTY:
        return None
    try:
        wanted = msgspec.json.decode(ask.response_format, type=_Format)
    except msgspec.DecodeError:
        return None
    return "format" if wanted.type in ("json_object", "json_schema") else None


def _has_choice(structured_outputs: msgspec.Raw) -> bool:
    if bytes(structured_outputs) in _EMPTY:
        return False
    try:
        chosen = msgspec.json.decode(structured_outputs, type=_Chosen)
    except (ValueError, RecursionError):
        return False
    return bytes(chosen.choice) not in _EMPTY


def of_tiers(
    models: Mapping[str, ModelConfig], ready: Collection[str]
) -> tuple[dict[Tier, str], dict[Tier, str]]:
    """(the ready model of each tier, the configured one); the first where there are several."""
    up: dict[Tier, str] = {}
    configured: dict[Tier, str] = {}
    for name, config in models.items():
        configured.setdefault(config.tier, name)
        if name in ready:
            up.setdefault(config.tier, name)
    return up, configured


def task(header: str | None, ask: AnyAsk) -> str:
    """What the turn is about, as far as the request says it: by name, or by its system prompt.

    Raises BadRequest for a name that is none.
    """
    if header is not None:
        if not _TASK.fullmatch(header):
            raise BadRequest(
                f"{TASK_HEADER}: {header[:40]!r} is no name for a task; use 1 to 64 of A-Z, a-z, "
                "0-9, '_', '-' and '.'",
                param=TASK_HEADER,
            )
        return header
    told: msgspec.Raw | bytes = b""
    if isinstance(ask, MessagesAsk):
        told = ask.system
    elif isinstance(ask, ChatAsk) and role_of(ask.messages[0]) in ("system", "developer"):
        told = ask.messages[0]
    if bytes(told) in _EMPTY:
        return ""
    return "system:" + hashlib.sha1(told, usedforsecurity=False).hexdigest()[:8]


def note(record: TurnRecord, tier: TierNote) -> None:
    """What a turn's log line says of how its model was chosen."""
    record.turn_type = tier.turn_type
    record.tier = tier.tier
    record.tier_prices_usd = tier.prices_usd
    record.tier_change = tier.change
    record.tier_gain_usd = tier.gain_usd
    record.spent_usd = tier.spent_usd
