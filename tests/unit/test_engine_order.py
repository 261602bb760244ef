"""The router's order, as the engine's priority."""

from __future__ import annotations

import json

import pytest

from router.placing.engine_order import ranked
from serving.protocol import CHAT, MESSAGES, parse
from serving.tables.base import EngineKind
from tests.unit.fakes import engine

BODY = b' {"model":"big","messages":[{"role":"user","content":"hi"}]}'


def sent(kind: EngineKind, due: float | None, body: bytes = BODY, path: str = CHAT) -> bytes:
    return ranked(body, path, parse(path, body), engine("big-0", kind=kind), due)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "simulated"])
def test_engines_of_ours_are_told_when_a_turn_is_due_and_all_else_stays(kind: EngineKind) -> None:
    body = sent(kind, 1_700_000_000.26)
    assert body == b'{"priority":17000000003,' + BODY.lstrip()[1:]
    assert json.loads(body) == {"priority": 17_000_000_003, **json.loads(BODY)}


def test_an_earlier_moment_is_a_lower_number() -> None:
    early, late = (json.loads(sent("vllm", due))["priority"] for due in (1e9, 1e9 + 1))
    assert early < late


def test_a_turn_that_begins_at_once_passes_untouched() -> None:
    assert sent("vllm", None) is BODY


def test_engines_of_others_and_routes_without_the_field_never_get_it() -> None:
    assert sent("external", 1e9) is BODY
    message = b'{"model":"big","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}'
    assert sent("vllm", 1e9, message, MESSAGES) is message


def test_a_clients_own_priority_is_left_alone() -> None:
    own = b'{"priority":3,' + BODY.lstrip()[1:]
    assert sent("vllm", 1e9, own) is own
