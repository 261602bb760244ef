"""Items of MCP servers that a request named: whatever a log holds, each opens and closes once, in
shapes that OpenAI's client knows, and what a client sends back is what the model had."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from orchestrator.api.projection import Projection
from orchestrator.loop import events as log
from orchestrator.loop.mcp_calls import apart, error
from orchestrator.loop.prompt import messages_of
from orchestrator.mcp.offer import ListedTool, Listing

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)
CALL = log.Call("call_1_0", "world_note", '{"text": "x"}')
BEGIN: list[log.AnyEvent] = [
    log.ResponseAccepted("resp_1", 1.0, [], {"model": "desk"}),
    log.ToolsListed("world", 1.0, Listing("v", [ListedTool("drop"), ListedTool("note")])),
    log.ToolsOffered("world", 1.0, {}, {"world_note": "note"}),
    log.ModelIntent(1, 1, 2.0),
]
WRITTEN: list[log.AnyEvent] = [
    log.OutputDelta(1, 1, "call", '{"text"', "call_1_0", "world_note"),
    log.OutputDelta(1, 1, "arguments", ': "x"}', "call_1_0"),
]
ANSWER = log.ModelResult(1, 1, 3.0, "", [CALL], "tool_calls")
INTENT = log.ToolIntent(1, "call_1_0", "c:1:call_1_0", 4.0)
RESULT = log.ToolResult(1, "call_1_0", 5.0, "noted")
ASKED = log.ApprovalRequested(
    1, "call_1_0", "mcpr_1_call_1_0", 5.0, "outcome_unknown", CALL.name, CALL.arguments
)


def finished(status: log.Status = "completed") -> log.AnyEvent:
    return log.ResponseFinished("resp_1", 9.0, status)


def shown(*events: log.AnyEvent) -> tuple[list[dict[str, Any]], list[str]]:
    """The items of that log but the list of tools, and the kinds of events."""
    projection = Projection("resp_1", "conv_1")
    emitted = [each for event in events for each in projection.feed(event)]
    assert [each["sequence_number"] for each in emitted] == list(range(len(emitted)))
    for each in emitted:
        STREAM_EVENT.validate_python(each)
        if str(each.get("item", {}).get("type")).startswith("mcp_"):
            assert not ITEM.validate_python(each["item"]).model_extra
    count = Counter((each["type"], each.get("output_index")) for each in emitted)
    for index in range(len(emitted)):
        opened = count["response.output_item.added", index]
        assert opened == count["response.output_item.done", index] <= 1
    listed, *items = projection.items()
    assert [tool["name"] for tool in listed["tools"]] == ["note"]
    kinds = [each["type"] for each in emitted]
    return items, [kind.partition(".")[2] for kind in kinds if kind.startswith("response.mcp_call")]


RAN = [
    "mcp_call.in_progress",
    "mcp_call_arguments.delta",
    "mcp_call_arguments.delta",
    "mcp_call_arguments.done",
    "mcp_call.completed",
]


def test_a_call_is_open_until_it_has_its_result() -> None:
    [item], kinds = shown(*BEGIN, *WRITTEN, ANSWER, INTENT, RESULT, finished())
    assert kinds == RAN
    assert (item["server_label"], item["name"]) == ("world", "note")
    assert (item["status"], item["output"]) == ("completed", "noted")


def test_a_call_that_ran_before_its_turn_was_whole_is_one_item() -> None:
    ready = log.CallReady(1, 1, CALL)
    [item], kinds = shown(*BEGIN, *WRITTEN, ready, INTENT, RESULT, ANSWER, finished())
    assert kinds == RAN
    assert item["status"] == "completed"


def test_a_call_that_was_never_streamed_is_shown_whole() -> None:
    _, kinds = shown(*BEGIN, ANSWER, INTENT, RESULT, finished())
    assert kinds == [RAN[0], *RAN[2:]]


def test_a_call_in_doubt_closes_and_a_person_is_asked() -> None:
    items, _ = shown(*BEGIN, *WRITTEN, ANSWER, INTENT, ASKED, finished())
    assert [item["type"] for item in items] == ["mcp_call", "mcp_approval_request"]
    assert items[0]["status"] == "incomplete"
    assert (items[1]["server_label"], items[1]["name"]) == ("world", "note")


@pytest.mark.parametrize("cut_after", [1, 2, 3, 4])
def test_a_cancelled_call_closes_as_incomplete(cut_after: int) -> None:
    events = [*WRITTEN, ANSWER, INTENT][:cut_after]
    [item], _ = shown(*BEGIN, *events, finished("cancelled"))
    assert (item["status"], item["output"]) == ("incomplete", None)


def test_what_a_dead_attempt_wrote_gives_way_to_the_next_one() -> None:
    died = log.ModelFailed(1, 1, 3.0, "died", superseded=True)
    again = log.Call("call_1_0_2", "world_note", "{}")
    items, _ = shown(
        *BEGIN,
        *WRITTEN,
        died,
        log.ModelIntent(1, 2, 4.0),
        log.ModelResult(1, 2, 5.0, "", [again], "tool_calls"),
        log.ToolResult(1, "call_1_0_2", 6.0, "noted"),
        finished(),
    )
    assert [item["arguments"] for item in items] == ["{}"]


def test_a_call_that_took_the_place_of_what_was_streamed_has_the_result() -> None:
    other = log.Call("call_1_0", "world_note", '{"text": "y"}')
    answer = log.ModelResult(1, 1, 3.0, "", [other], "tool_calls")
    [item], kinds = shown(*BEGIN, *WRITTEN, answer, INTENT, RESULT, finished())
    assert (item["arguments"], item["status"]) == (other.arguments, "completed")
    assert kinds[-1] == "mcp_call.completed"


def test_a_question_of_an_agent_that_was_asked_is_not_the_servers() -> None:
    """Its tool may be called as one of the server's is."""
    asked = log.ApprovalRequested(1, "call_1_0", "mcpr_1", 5.0, "required", CALL.name, "{}")
    answer = log.ModelResult(1, 1, 3.0, "", [log.Call("call_1_0", "ask", "{}")], "tool_calls")
    items, _ = shown(*BEGIN, answer, INTENT, asked, finished())
    assert [item["type"] for item in items] == ["function_call", "mcp_approval_request"]
    assert (items[1]["server_label"], items[1]["name"]) == ("warmloop", CALL.name)


def test_a_call_that_a_person_never_heard_of_is_shown_with_why_it_did_not_run() -> None:
    waits = log.ToolsOffered("world", 1.0, {}, {"world_note": "note"}, ["world_note"])
    refused = log.ToolResult(1, "call_1_0", 5.0, "too many calls", "refused")
    events = [*BEGIN[:2], waits, BEGIN[3], *WRITTEN, ANSWER]
    [item], kinds = shown(*events, refused, finished())
    assert kinds == [RAN[0], *RAN[2:4], "mcp_call.failed"]
    assert item["error"] == error("too many calls")
    assert shown(*events, finished("cancelled"))[0] == []


def test_a_call_that_waits_is_not_shown_before_it_is_allowed() -> None:
    waits = log.ToolsOffered("world", 1.0, {}, {"world_note": "note"}, ["world_note"])
    asked = log.ApprovalRequested(1, "call_1_0", "mcpr_1", 5.0, "required", CALL.name, "{}")
    [item], kinds = shown(*BEGIN[:2], waits, BEGIN[3], *WRITTEN, ANSWER, asked, finished())
    assert (item["type"], item["name"], kinds) == ("mcp_approval_request", "note", [])


def mcp_call(item_id: str, name: str = "note", **given: Any) -> dict[str, Any]:
    told = {"server_label": "world", "name": name, "arguments": "{}"}
    return {"type": "mcp_call", "id": item_id, **told, **given}


def test_calls_of_one_turn_are_one_message_when_they_come_back() -> None:
    items = [
        mcp_call("mcp_1_call_1_0", output="a"),
        mcp_call("mcp_1_call_1_1.1", "add", error=error("b")),
        mcp_call("mcp_1_call_2_0_3", output="c"),
    ]
    messages = messages_of(items, reply_tool=False)
    calls = [[call["id"] for call in each.get("tool_calls", ())] for each in messages]
    assert calls == [["call_1_0", "call_1_1"], [], [], ["call_2_0_3"], []]
    assert [each["content"] for each in messages if each["role"] == "tool"] == ["a", "b", "c"]


def function_call(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "add", "arguments": "{}"}


def output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": call_id}


def test_a_turn_with_other_calls_is_one_message_too_and_answered_in_its_order() -> None:
    items = [
        function_call("call_1_0"),
        mcp_call("mcp_1_call_1_1", output="b"),
        function_call("call_1_2"),
        output("call_1_2"),
        output("call_1_0"),
        function_call("call_2_0"),
        mcp_call("mcp_1_call_2_1", output="d"),
    ]
    messages = messages_of(items, reply_tool=False)
    calls = [[call["id"] for call in each.get("tool_calls", ())] for each in messages]
    assert calls[0] == ["call_1_0", "call_1_1", "call_1_2"]
    assert [each.get("tool_call_id") for each in messages[1:4]] == calls[0]
    assert calls[4] == ["call_2_0", "call_2_1"]
    assert messages[5]["tool_call_id"] == "call_2_1"  # the other waits for its client


def test_calls_of_two_responses_are_two_turns() -> None:
    """Each began a conversation, so their numbers are the same."""
    items = [mcp_call("mcp_1_call_1_0", output="a"), mcp_call("mcp_2_call_1_0", output="b")]
    messages = messages_of(items, reply_tool=False)
    assert [each["role"] for each in messages] == ["assistant", "tool", "assistant", "tool"]
    assert [messages[1]["content"], messages[3]["content"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("it broke", "it broke"),
        ({"type": "http_error", "code": 502, "message": "x"}, '{"code":502,"message":"x",'),
        ({"type": "mcp_tool_execution_error", "content": [{"type": "image"}]}, '{"content":['),
    ],
)
def test_calls_of_other_servers_come_as_they_are(said: Any, read: str) -> None:
    items = [mcp_call("mcp_abc", output="a"), mcp_call("mcp_def", error=said)]
    messages = messages_of(items, reply_tool=False)
    assert [each["role"] for each in messages] == ["assistant", "tool", "assistant", "tool"]
    assert messages[0]["tool_calls"][0]["id"] == messages[1]["tool_call_id"] == "mcp_abc"
    assert messages[3]["content"].startswith(read)


def test_items_without_such_calls_are_left_as_they_are() -> None:
    items = [{"type": "message", "role": "user", "content": "hi"}]
    assert apart(items) is items
