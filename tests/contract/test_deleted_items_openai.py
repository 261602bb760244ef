"""Deleting items of a conversation in which calls are open, wait, or were cut: what is left can
always go on."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import openai
import pytest
from openai.types.conversations import ConversationItem

from orchestrator.loop.events import ResponseAccepted
from orchestrator.model import ArgumentsDelta, CallStart
from tests.contract.front_door import Front, calls, says

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {}},
    "strict": None,
}


async def items_of(front: Front, conversation: str) -> list[ConversationItem]:
    return (await front.client.conversations.items.list(conversation, order="asc")).data


async def delete(front: Front, conversation: str, item_id: str | None) -> None:
    await front.client.conversations.items.delete(item_id or "", conversation_id=conversation)


async def go_on(front: Front, conversation: str, *items: dict[str, Any], **fields: Any) -> Any:
    given: Any = list(items) or "and?"
    return await front.client.responses.create(
        model="desk", input=given, conversation=conversation, **fields
    )


def last_prompt(front: Front) -> list[dict[str, Any]]:
    messages = cast(list[dict[str, Any]], json.loads(front.model.turns[-1].body)["messages"])
    made = [c["id"] for m in messages for c in m.get("tool_calls", ())]
    answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    assert made == answered, "no template can show a call without its result"
    return messages


async def waiting(front: Front, *wanted: tuple[str, str]) -> str:
    """A conversation whose newest response has ended with these calls open."""
    made = await front.client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "my secret"}]
    )
    front.model.will(calls(*wanted))
    await go_on(front, made.id, tools=[WEATHER])
    return made.id


async def test_a_call_that_waits_for_a_person_stays_until_it_is_decided(front: Front) -> None:
    conversation = await waiting(front, ("refund", '{"amount": 5}'))
    items = await items_of(front, conversation)
    asked = next(item for item in items if item.type == "mcp_approval_request")
    call = next(item for item in items if item.type == "function_call")

    for item_id in (asked.id, call.id):
        with pytest.raises(openai.ConflictError, match=f"'refund' that waits.*'{asked.id}'") as no:
            await delete(front, conversation, item_id)
        assert (no.value.code, no.value.param) == ("call_waits", "item_id")
    assert len(await items_of(front, conversation)) == len(items)

    await delete(front, conversation, items[0].id)
    decision = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}
    assert (await go_on(front, conversation, decision)).output_text == "ok"
    assert [m["role"] for m in last_prompt(front)] == ["system", "user", "assistant", "tool"]
    await delete(front, conversation, call.id)
    await go_on(front, conversation)
    assert not any("tool_calls" in message for message in last_prompt(front))


async def test_a_decided_calls_output_stands_with_its_call_whatever_came_with_the_decision(
    front: Front,
) -> None:
    conversation = await waiting(front, ("refund", '{"amount": 5}'))
    items = await items_of(front, conversation)
    asked = next(item for item in items if item.type == "mcp_approval_request")
    decision = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}
    await go_on(front, conversation, decision, {"role": "user", "content": "and thanks"})
    before = [m["role"] for m in last_prompt(front)]
    await delete(front, conversation, items[0].id)
    await go_on(front, conversation)
    assert before == ["system", "user", "user", "assistant", "tool", "user"]
    roles = ["system", "user", "assistant", "tool", "user", "assistant", "user"]
    assert [m["role"] for m in last_prompt(front)] == roles


async def test_a_call_that_waits_for_its_client_stays_until_it_is_answered(front: Front) -> None:
    conversation = await waiting(front, ("weather", "{}"), ("add", '{"a": 1, "b": 2}'))
    items = await items_of(front, conversation)
    call, own = (item for item in items if item.type == "function_call")
    with pytest.raises(openai.ConflictError, match="send its function_call_output for call_id"):
        await delete(front, conversation, call.id)

    await delete(front, conversation, own.id)
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    assert (await go_on(front, conversation, answer)).output_text == "ok"
    assert last_prompt(front)[-1]["content"] == "sunny"
    await delete(front, conversation, call.id)
    await go_on(front, conversation)
    assert not any("tool_calls" in message for message in last_prompt(front))


async def test_a_call_that_was_cut_or_never_ran_leaves_a_conversation_that_goes_on(
    front: Front,
) -> None:
    made = await front.client.conversations.create()
    half = asyncio.Event()
    front.model.will([CallStart("add"), ArgumentsDelta('{"a": '), half])
    cut = await go_on(front, made.id, background=True)
    async with asyncio.timeout(10):
        while not (await front.client.responses.retrieve(cut.id)).output:  # noqa: ASYNC110  no bell
            await asyncio.sleep(0.01)
    await front.client.responses.cancel(cut.id)
    front.model.will(calls(("refund", '{"amount": 5}')))
    asking = await go_on(front, made.id)
    asked = next(item for item in asking.output if item.type == "mcp_approval_request")
    front.model.will([half])
    decision = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": False}
    told = await go_on(front, made.id, decision, background=True)
    await front.client.responses.cancel(told.id)

    first = (await items_of(front, made.id))[0]
    await delete(front, made.id, first.id)
    front.model.will(says("fine"))
    assert (await go_on(front, made.id)).output_text == "fine"
    last_prompt(front)


async def test_a_call_of_a_deleted_response_can_still_be_answered_in_its_conversation(
    front: Front,
) -> None:
    decide: dict[str, Any] = {"type": "mcp_approval_response", "approve": True}
    answer: dict[str, Any] = {"type": "function_call_output", "output": "sunny"}
    for wanted in (("refund", '{"amount": 5}'), ("weather", "{}")):
        conversation = await waiting(front, wanted)
        log = await front.journal.read(conversation)
        response = next(each.event for each in log if isinstance(each.event, ResponseAccepted))
        await front.client.responses.delete(response.response_id)
        items = await items_of(front, conversation)
        call = next(item for item in items if item.type == "function_call")
        asked = [item.id for item in items if item.type == "mcp_approval_request"]
        with pytest.raises(openai.BadRequestError, match=asked[0] if asked else call.call_id):
            await go_on(front, conversation)
        given = {**decide, "approval_request_id": asked[0]} if asked else answer
        if not asked:
            given["call_id"] = call.call_id
        assert (await go_on(front, conversation, given)).output_text == "ok"
        last_prompt(front)
