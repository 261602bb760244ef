"""Reasoning items, structured text and tool_choice, as the official openai package sees them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import FunctionToolParam

from orchestrator.model import Done, ReasoningDelta, TextDelta
from tests.contract.front_door import Front, Step, calls, replies, says

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def thinks(thought: str, *then: Step) -> list[Step]:
    middle = len(thought) // 2
    return [ReasoningDelta(thought[:middle]), ReasoningDelta(thought[middle:]), *then]


def tool(name: str) -> FunctionToolParam:
    return {"type": "function", "name": name, "parameters": SCHEMA, "strict": True}


def sent(front: Front, turn: int = -1) -> dict[str, Any]:
    body = json.loads(front.model.turns[turn].body)
    assert isinstance(body, dict)
    return body


def tools_sent(front: Front, turn: int = -1) -> list[str]:
    return [each["function"]["name"] for each in sent(front, turn)["tools"]]


async def test_reasoning_is_an_item_of_its_own_and_goes_back_to_the_chat_template(
    front: Front,
) -> None:
    front.model.will(
        thinks("let me add", *calls(("add", '{"a": 2, "b": 2}'))),
        thinks("easy", TextDelta("4"), Done("stop", 10, 5, 7, 3)),
    )
    stream = await front.client.responses.create(model="desk", input="2 + 2?", stream=True)
    events = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    thought = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
    assert "".join(thought) == "let me addeasy"
    done = [e.text for e in events if e.type == "response.reasoning_text.done"]
    assert done == ["let me add", "easy"]
    last = events[-1]
    assert last.type == "response.completed"
    kinds = [item.type for item in last.response.output]
    assert kinds == ["reasoning", "function_call", "function_call_output", "reasoning", "message"]
    assert last.response.output_text == "4"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens_details.reasoning_tokens == 3
    assert sent(front)["messages"][2]["reasoning_content"] == "let me add"


@pytest.mark.parametrize("model", ["desk", "clerk"])
async def test_a_fork_and_a_stateless_client_render_reasoning_to_the_same_bytes(
    front: Front, model: str
) -> None:
    answer = says if model == "desk" else replies
    front.model.will(
        thinks("hm", *calls(("add", '{"a": 2, "b": 2}'))), thinks("so", *answer("4")), answer("a")
    )
    client = front.client
    first = await client.responses.create(model=model, input="2 + 2?")
    second = await client.responses.create(model=model, input="and?", previous_response_id=first.id)
    await client.responses.create(model=model, input="and?", previous_response_id=first.id)
    assert second.output_text == "a"
    assert sent(front, -1)["messages"] == sent(front, -2)["messages"]


async def test_structured_text_goes_through_the_engines_grammar(front: Front) -> None:
    front.model.will(says('{"answer": 4}'))
    wanted: Any = {"type": "json_schema", "name": "sum", "schema": SCHEMA, "strict": True}
    response = await front.client.responses.create(
        model="big", input="2 + 2?", text={"format": wanted}
    )
    assert json.loads(response.output_text) == {"answer": 4}
    assert sent(front)["response_format"]["json_schema"]["schema"] == SCHEMA
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


async def test_an_agent_with_tools_formats_an_answer_when_it_may_not_call(front: Front) -> None:
    front.model.will(says("{}"))
    await front.client.responses.create(
        model="desk", input="?", tool_choice="none", text={"format": {"type": "json_object"}}
    )
    body = sent(front)
    assert (body["tool_choice"], body["response_format"]) == ("none", {"type": "json_object"})
    assert "add" in tools_sent(front)


async def test_a_schema_that_no_grammar_can_promise_is_refused_with_its_path(front: Front) -> None:
    bad: Any = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}
    wanted: Any = {"type": "json_schema", "name": "n", "schema": bad}
    with pytest.raises(openai.BadRequestError, match="properties/a") as refused:
        await front.client.responses.create(model="big", input="?", text={"format": wanted})
    assert refused.value.param == "text.format.schema"


async def test_a_forced_tool_is_forced_once_and_then_the_model_is_free(front: Front) -> None:
    front.model.will(calls(("add", '{"a": 2, "b": 2}')), says("4"))
    await front.client.responses.create(
        model="desk", input="2 + 2?", tool_choice={"type": "function", "name": "add"}
    )
    first, second = sent(front, 0), sent(front, 1)
    assert first["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert second["tool_choice"] == "auto"
    assert first["tools"] == second["tools"]


async def test_what_each_choice_means_beside_a_reply_tool(front: Front) -> None:
    create = front.client.responses.create
    front.model.will(replies("hi"), calls(("look", '{"answer": 1}')), replies("hi"))
    await create(model="clerk", input="?", tools=[tool("look")], tool_choice="none")
    assert sent(front)["tool_choice"] == {"type": "function", "function": {"name": "reply"}}
    asked = await create(model="clerk", input="?", tools=[tool("look")], tool_choice="required")
    assert sent(front)["tool_choice"] == "required"
    assert {"add", "look"} <= {*tools_sent(front)}
    assert "reply" not in tools_sent(front)
    assert [item.type for item in asked.output] == ["function_call"]
    await create(
        model="clerk",
        input="?",
        tools=[tool("look"), tool("other")],
        tool_choice={
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "look"}],
        },
    )
    assert tools_sent(front) == ["look", "reply"]


async def test_tool_calls_and_output_tokens_are_counted_over_all_turns(front: Front) -> None:
    call = calls(("add", '{"a": 1, "b": 1}'))
    front.model.will(call, calls(("add", '{"a": 2, "b": 2}')), says("no"))
    ended = await front.client.responses.create(
        model="desk", input="?", max_tool_calls=1, max_output_tokens=30
    )
    assert ended.max_tool_calls == 1
    assert ended.status == "incomplete"
    assert [sent(front, turn)["max_tokens"] for turn in (0, 1)] == [30, 25]
