"""Which kind of turn a request is, and which models there are for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.tiers import turn_types as tiers
from serving.config.router import TURN_TYPES, TurnType
from serving.errors import BadRequest
from serving.protocol import CHAT, MESSAGES, AnyAsk, parse
from tests.unit.fakes import stack


def ask(path: str = CHAT, **fields: Any) -> AnyAsk:
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], **fields}
    return parse(path, json.dumps(body).encode())


def inferred(**fields: Any) -> TurnType | None:
    return tiers.inferred(ask(**fields))


def test_each_tier_has_its_first_model_that_is_ready() -> None:
    models = {**stack().models, "other": stack().models["big"]}
    configured = {"frontier": "big", "small": "tiny"}
    assert tiers.of_tiers(models, ("other", "tiny")) == (
        {"frontier": "other", "small": "tiny"},
        configured,
    )
    assert tiers.of_tiers(models, ()) == ({}, configured)


def test_tools_mean_a_tool_call_and_json_without_tools_means_formatting() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    wants_json = {"type": "json_object"}
    assert inferred(tools=tools) == "tool-call"
    assert inferred(tools=tools, response_format=wants_json) == "tool-call"
    assert inferred(response_format=wants_json) == "format"
    assert inferred(response_format={"type": "json_schema", "json_schema": {}}) == "format"


def test_an_answer_from_a_list_means_classifying() -> None:
    assert inferred(guided_choice=["spam", "ham"]) == "classify"
    assert inferred(structured_outputs={"choice": ["spam", "ham"]}) == "classify"


@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": []}, {"tools": None}, {"response_format": {"type": "text"}},
     {"response_format": None}, {"response_format": 7}, {"guided_choice": []},
     {"structured_outputs": {"regex": "a"}}, {"structured_outputs": 7}],
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


def test_a_task_is_named_or_stands_for_the_system_prompt() -> None:
    def told(text: str) -> AnyAsk:
        return ask(messages=[{"role": "system", "content": text}, {"role": "user", "content": "x"}])

    assert tiers.task("invoices", ask()) == "invoices"
    assert tiers.task(None, ask()) == ""
    assert tiers.task(None, told("one")) == tiers.task(None, told("one"))
    assert tiers.task(None, told("one")) != tiers.task(None, told("two"))
    assert tiers.task(None, ask(MESSAGES, system="one", max_tokens=1)).startswith("system:")


@pytest.mark.parametrize("name", ["", "*", "a b", "x" * 65, "a\n"])
def test_what_is_no_name_for_a_task_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="x-warmloop-task"):
        tiers.task(name, ask())
