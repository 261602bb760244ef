"""Which turns go to the small model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router import tiers
from serving.config import TURN_TYPES, TurnType
from serving.errors import BadRequest
from serving.protocol import CHAT, parse
from tests.unit.fakes import stack

CONFIG = stack()
BOTH = ("big", "tiny")


def choose(
    asked: str, turn_type: TurnType | None = None, ready: tuple[str, ...] = BOTH
) -> tiers.Tiering:
    return tiers.choose(asked, turn_type, CONFIG.models, ready, CONFIG.router)


def inferred(**fields: Any) -> TurnType | None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], **fields}
    return tiers.inferred(parse(CHAT, json.dumps(body).encode()))


def test_a_model_that_is_named_is_the_one_that_answers() -> None:
    assert choose("tiny", "plan") == tiers.Tiering("tiny", "")
    assert choose("big", "classify", ready=("tiny",)).model == "big"


@pytest.mark.parametrize("turn_type", ["classify", "summarise", "format"])
def test_auto_gives_side_turns_to_the_small_model(turn_type: TurnType) -> None:
    assert choose("auto", turn_type) == tiers.Tiering("tiny", f"auto:{turn_type}->small")


@pytest.mark.parametrize("turn_type", ["tool-call", "plan", "finalise"])
def test_auto_gives_the_main_chain_to_the_frontier(turn_type: TurnType) -> None:
    assert choose("auto", turn_type) == tiers.Tiering("big", f"auto:{turn_type}->frontier")


def test_a_turn_of_unknown_type_goes_to_the_frontier() -> None:
    assert choose("auto") == tiers.Tiering("big", "auto:unknown->frontier")


def test_a_tier_without_a_ready_engine_gives_way_to_the_other() -> None:
    assert choose("auto", "plan", ready=("tiny",)) == tiers.Tiering(
        "tiny", "auto:plan->small:frontier-not-ready"
    )
    assert choose("auto", "format", ready=("big",)).model == "big"


def test_with_nothing_ready_the_wanted_model_is_named() -> None:
    assert choose("auto", "format", ready=()).model == "tiny"
    assert choose("auto", "plan", ready=()).model == "big"


def test_a_stack_of_one_tier_serves_every_turn_with_it() -> None:
    models = {"big": CONFIG.models["big"]}
    for ready in (("big",), ()):
        assert tiers.choose("auto", "format", models, ready, CONFIG.router).model == "big"


def test_tools_mean_a_tool_call_and_json_without_tools_means_formatting() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    wants_json = {"type": "json_object"}
    assert inferred(tools=tools) == "tool-call"
    assert inferred(tools=tools, response_format=wants_json) == "tool-call"
    assert inferred(response_format=wants_json) == "format"
    assert inferred(response_format={"type": "json_schema", "json_schema": {}}) == "format"


@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": []}, {"tools": None}, {"response_format": {"type": "text"}},
     {"response_format": None}, {"response_format": 7}],
)  # fmt: skip
def test_nothing_is_guessed_from_anything_else(fields: dict[str, Any]) -> None:
    assert inferred(**fields) is None


def test_a_declared_type_is_taken_as_it_is() -> None:
    assert tiers.declared(None) is None
    for turn_type in TURN_TYPES:
        assert tiers.declared(turn_type) == turn_type


def test_an_unknown_declared_type_is_refused_with_the_nearest_valid_one() -> None:
    with pytest.raises(BadRequest) as refused:
        tiers.declared("summarize")
    assert "'summarise'" in refused.value.message
    with pytest.raises(BadRequest) as refused:
        tiers.declared("???")
    assert all(turn_type in refused.value.message for turn_type in TURN_TYPES)
