"""How many tokens would a prompt have? Asked of the tokenizer of an engine that would get it.

    a chat request ─► the tools and history as the engine would get them ─► its /tokenize ─► a count

Nothing is computed and nothing waits in a queue. `auto` is counted by the frontier model: only a
turn decides which one it gets.
"""

from __future__ import annotations

from typing import Any

import msgspec

from router.calls.plan import decoded
from router.catalogue import not_ready
from router.dispatch import Router
from router.http import rewrites
from router.placing.fleet import wire_name
from router.tiers.turn_types import AUTO
from serving.errors import BadRequest
from serving.protocol import CHAT, parse
from serving.tables.base import Engine

ASKED = frozenset({"model", "messages", "tools"})
"""What of a request a chat template renders."""


class Counted(msgspec.Struct, frozen=True):
    tokens: int
    model: str
    """Whose tokenizer counted."""


async def count(router: Router, body: bytes, request_id: str = "count") -> Counted:
    """Of a chat request. Raises NotFound, Unavailable, and BadRequest where no engine of the model
    can say."""
    ask = parse(CHAT, body)
    name = ask.model
    if name == AUTO:
        name = _frontier(router)
    parent = router.catalogue.parent(name) if name not in router.config.models else name
    ready = router.catalogue.fleet().ready(name)
    if parent is None or not ready:
        raise not_ready(name, router.catalogue.why_not(name))
    engine = ready[0]
    plan = router.tool_plans.plan(CHAT, ask, router.config.models[parent])
    wire = wire_name(engine, name)
    whole = rewrites.alias(body, wire) if plan is None else plan.body(body, wire)
    fields = decoded(whole, "the body", dict[str, msgspec.Raw])
    question = rewrites.joined({key: fields[key] for key in fields.keys() & ASKED})
    answer = await router.attempts.tokenize(engine, question, request_id)
    return Counted(_count(answer, engine), parent)


def _frontier(router: Router) -> str:
    models = router.config.models
    ready = [name for name in models if router.catalogue.fleet().ready(name)]
    best = [name for name in ready if models[name].tier == "frontier"]
    return next(iter([*best, *ready, *models]))


def _count(answer: Any, engine: Engine) -> int:
    found = answer.get("count") if isinstance(answer, dict) else None
    if not isinstance(found, int):
        raise BadRequest(
            f"model: the engine of {engine.model!r} ({engine.speaks}) does not count the tokens of "
            "a conversation; the usage of a response says them",
            param="model",
            code="unsupported_value",
        )
    return found
