"""Prompts: byte-stable, append-only."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agents import Agents, examples, resolve
from orchestrator.loop.events import (
    Call,
    HistoryImported,
    ModelResult,
    ResponseAccepted,
    ToolResult,
)
from orchestrator.loop.prompt import messages_of
from orchestrator.loop.state import Shown
from orchestrator.worker.turn_settings import overrides
from serving.config.agent import AgentConfig
from serving.config.stack import StackConfig
from serving.errors import BadRequest, ConfigError, NotFound

TEXT = st.text(max_size=12)
CALLS = st.lists(
    st.builds(Call, TEXT, st.sampled_from(["search", "reply", "buy"]), TEXT), max_size=3
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": TEXT}
    ),
    max_size=3,
)
EVENTS: st.SearchStrategy[Shown] = st.one_of(
    st.builds(ResponseAccepted, TEXT, st.just(0.0), MESSAGES),
    st.builds(HistoryImported, TEXT, TEXT, MESSAGES),
    st.builds(ModelResult, st.just(1), st.just(1), st.just(0.0), TEXT, CALLS),
    st.builds(ToolResult, st.just(1), TEXT, st.just(0.0), TEXT),
)


def agent(**values: Any) -> Any:
    return resolve("desk", AgentConfig.model_validate({"instructions": "Be brief.", **values}))


def rendered(history: list[Shown], **values: Any) -> list[dict[str, Any]]:
    prompt = agent(**values).prompt()
    prompt.extend(history)
    messages: list[dict[str, Any]] = json.loads(prompt.body({}))["messages"]
    return messages


@given(st.lists(EVENTS, max_size=8), st.booleans())
def test_the_messages_of_every_earlier_turn_are_a_prefix_of_every_later_one_s(
    history: list[Shown], reply_tool: bool
) -> None:
    chosen = agent(reply_tool=reply_tool)
    growing = chosen.prompt()
    before = growing.messages
    for end in range(len(history) + 1):
        growing.extend(history[:end])
        assert growing.messages.startswith(before)
        before = growing.messages
        afresh = chosen.prompt()
        afresh.extend(history[:end])
        assert afresh.body({}) == growing.body({})
        assert afresh.sha256 == growing.sha256


@given(st.lists(EVENTS, max_size=4))
def test_a_body_is_canonical_json(history: list[Shown]) -> None:
    prompt = agent().prompt()
    prompt.extend(history)
    body = prompt.body({})
    again = json.dumps(
        json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    assert json.loads(again) == json.loads(body)
    assert list(json.loads(body)) == sorted(json.loads(body))
    assert b'": ' not in body.replace(prompt.messages, b"")


def test_the_head_is_instructions_then_examples() -> None:
    found = rendered([], examples=[{"role": "user", "content": "Hi"}])
    assert found == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_short_examples_become_chat_messages() -> None:
    found = examples(
        [
            {"role": "assistant", "tool_calls": [{"name": "search", "arguments": {"q": "é"}}]},
            {"role": "tool", "content": "42"},
        ],
        where="x",
    )
    assert found[0]["tool_calls"][0]["function"] == {"name": "search", "arguments": '{"q":"é"}'}
    assert found[1]["tool_call_id"] == found[0]["tool_calls"][0]["id"]


@pytest.mark.parametrize(
    "bad", [{"role": "robot"}, {"role": "tool", "content": "x"}, {"content": "x"}]
)
def test_examples_that_make_no_sense_are_refused_by_place(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^x\.0"):
        examples([bad], where="x")


def test_a_reply_is_written_as_its_call_and_every_call_gets_an_answer() -> None:
    calls = [Call("a", "reply", '{"text":"hi"}'), Call("b", "buy", "{}")]
    _, answer, first, second = rendered([ModelResult(1, 1, 0.0, text="hi", calls=calls)])
    assert [call["id"] for call in answer["tool_calls"]] == ["a", "b"]
    assert answer["content"] == ""
    assert (first["tool_call_id"], second["tool_call_id"]) == ("a", "b")
    assert second["content"].startswith("not run")


def test_an_agent_with_a_reply_tool_requires_one_call_a_turn() -> None:
    body = json.loads(agent(reply_tool=True).prompt().body({}))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["reply"]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)


def test_an_agent_without_tools_says_nothing_about_them() -> None:
    body = json.loads(agent(reply_tool=False).prompt().body({}))
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)


def test_a_request_changes_its_own_limits_and_adds_its_tools_in_order() -> None:
    chosen = agent(reply_tool=True)
    tools = [{"type": "function", "name": n, "parameters": {}} for n in ("weather", "alarm")]
    changed = overrides(
        chosen.settings, {"max_output_tokens": 7, "temperature": 0.5, "tools": tools}
    )
    body = json.loads(chosen.prompt().body(changed))
    assert (body["max_tokens"], body["temperature"]) == (7, 0.5)
    assert [t["function"]["name"] for t in body["tools"]] == ["alarm", "reply", "weather"]
    assert body["tool_choice"] == "required"


def test_a_schema_s_names_stay_in_its_order_in_which_a_model_then_writes_them() -> None:
    chosen = agent(reply_tool=True)
    properties = {"why": {"type": "string"}, "city": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["why", "city"]}
    tool = {"type": "function", "name": "weather", "parameters": schema}
    body = json.loads(chosen.prompt().body(overrides(chosen.settings, {"tools": [tool]})))
    (shown,) = [t["function"] for t in body["tools"] if t["function"]["name"] == "weather"]
    assert list(shown["parameters"]) == ["type", "properties", "required"]
    assert list(shown["parameters"]["properties"]) == ["why", "city"]


def test_instructions_of_a_request_stand_where_they_were_given() -> None:
    asked = ResponseAccepted(
        "r", 0.0, [{"role": "user", "content": "Hi"}], {"instructions": "Sing"}
    )
    assert rendered([asked])[1:] == [
        {"role": "system", "content": "Sing"},
        {"role": "user", "content": "Hi"},
    ]


def test_items_become_messages_and_neighbouring_calls_one_message() -> None:
    def call(n: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"}

    def output(n: int) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": f"c{n}", "output": "o"}

    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    items = [{"role": "user", "content": parts}, call(1), call(2), output(1), output(2), call(3)]
    found = messages_of(items, reply_tool=False)
    assert found[0] == {"role": "user", "content": "ab"}
    assert [len(m.get("tool_calls", [])) for m in found] == [0, 2, 0, 0, 1]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "video"}, "input[0].type"),
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": 7}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input[0].content[0]"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "input[0].arguments"),
        ({"type": "function_call_output", "output": "o"}, "input[0].call_id"),
    ],
)
def test_items_that_cannot_be_shown_are_refused_by_field(item: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        messages_of([item], reply_tool=False)
    assert caught.value.param == param


def stack() -> StackConfig:
    return StackConfig.model_validate(
        {
            "models": {"frontier": {"engine": "simulated"}},
            "agents": {"support": {"version": 3}},
        }
    )


def test_agents_are_found_by_name_version_and_model() -> None:
    agents = Agents.from_config(stack())
    assert agents.get("support").key == agents.get("support@3").key == "support@3"
    assert agents.get("frontier").key == "frontier"
    assert agents.names() == ["support"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("suport", "did you mean 'support'"), ("support@2", "has no version '2'"), ("x@1", "unknown")],
)
def test_unknown_agents_are_refused_with_what_there_is(name: str, said: str) -> None:
    with pytest.raises(NotFound, match=said):
        Agents.from_config(stack()).get(name)
