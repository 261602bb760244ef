"""/v1/conversations and the deletion of responses, as the official openai package sees them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.contract.front_door import Front, calls, says


def seen(front: Front, turn: int = -1) -> list[Any]:
    return [m["content"] for m in json.loads(front.model.turns[turn].body)["messages"]]


async def test_the_items_of_a_conversation_are_listed_page_by_page(front: Front) -> None:
    front.model.will(calls(("add", '{"a": 2, "b": 2}')), says("4"))
    client = front.client
    made = await client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "I am Ada."}]
    )
    await client.responses.create(model="desk", input="2 + 2?", conversation=made.id)

    page = await client.conversations.items.list(made.id, order="asc", limit=2)
    items = [item async for item in page]

    assert [item.type for item in items] == [
        *("message", "message", "function_call", "function_call_output", "message")
    ]
    assert len({item.id for item in items}) == 5
    newest = await client.conversations.items.list(made.id, limit=1)
    assert newest.data[0].id == items[-1].id
    assert newest.has_more
    found = await client.conversations.items.retrieve(items[0].id or "", conversation_id=made.id)
    assert found.model_dump() == items[0].model_dump()


async def test_items_that_are_added_are_what_the_next_turn_sees(front: Front) -> None:
    client = front.client
    made = await client.conversations.create()
    await client.responses.create(model="desk", input="hello", conversation=made.id)

    added = await client.conversations.items.create(
        made.id,
        items=[
            {"type": "message", "role": "user", "content": "I am Ada."},
            {"type": "message", "role": "assistant", "content": "Noted."},
        ],
    )
    await client.responses.create(model="desk", input="who am I?", conversation=made.id)

    assert [item.type for item in added.data] == ["message", "message"]
    assert seen(front)[1:] == ["hello", "ok", "I am Ada.", "Noted.", "who am I?"]


async def test_an_item_that_was_deleted_is_gone_from_what_the_model_sees(front: Front) -> None:
    front.model.will(calls(("add", '{"a": 2, "b": 2}')), says("4"))
    client = front.client
    made = await client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "my secret"}]
    )
    await client.responses.create(model="desk", input="2 + 2?", conversation=made.id)
    items = (await client.conversations.items.list(made.id, order="asc")).data
    call = next(item for item in items if item.type == "function_call")

    for item in (items[0], call):
        await client.conversations.items.delete(item.id or "", conversation_id=made.id)
    await client.responses.create(model="desk", input="and?", conversation=made.id)

    assert seen(front)[1:] == ["2 + 2?", "4", "and?"]
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.retrieve(items[0].id or "", conversation_id=made.id)
    left = (await client.conversations.items.list(made.id, order="asc")).data
    assert [item.type for item in left] == ["message", "message", "message", "message"]


async def test_metadata_can_be_changed(front: Front) -> None:
    made = await front.client.conversations.create(metadata={"team": "a"})
    changed = await front.client.conversations.update(made.id, metadata={"team": "b"})
    found = await front.client.conversations.retrieve(made.id)
    assert changed.metadata == found.metadata == {"team": "b"}
    assert found.created_at == made.created_at


async def test_a_deleted_conversation_is_gone_with_all_that_was_said_in_it(front: Front) -> None:
    client = front.client
    made = await client.conversations.create()
    response = await client.responses.create(model="desk", input="hi", conversation=made.id)

    deleted = await client.conversations.delete(made.id)

    assert (deleted.deleted, deleted.object) == (True, "conversation.deleted")
    for gone in (
        client.conversations.retrieve(made.id),
        client.conversations.delete(made.id),
        client.conversations.items.list(made.id),
        client.responses.create(model="desk", input="hi", conversation=made.id),
        client.responses.retrieve(response.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await gone
    log = await front.journal.read(made.id)
    assert {type(entry.event).__name__ for entry in log} == {"Purged"}


async def test_a_deleted_response_is_not_found_and_its_conversation_goes_on(front: Front) -> None:
    client = front.client
    first = await client.responses.create(model="desk", input="one")
    second = await client.responses.create(model="desk", input="two", previous_response_id=first.id)

    await client.responses.delete(first.id)

    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(first.id)
    third = await client.responses.create(
        model="desk", input="three", previous_response_id=second.id
    )
    assert seen(front)[1:] == ["one", "ok", "two", "ok", "three"]
    assert third.conversation is not None
    for response in (second, third):
        await client.responses.delete(response.id)
    log = await front.journal.read(third.conversation.id)
    assert {type(entry.event).__name__ for entry in log} == {"Purged"}


async def test_what_runs_is_not_added_to_and_is_cancelled_when_it_is_deleted(
    front: Front,
) -> None:
    front.model.will([asyncio.Event()], [asyncio.Event()])
    client = front.client
    made = await client.conversations.create()
    first = await client.responses.create(
        model="desk", input="go", conversation=made.id, background=True
    )
    with pytest.raises(openai.ConflictError) as refused:
        await client.conversations.items.create(
            made.id, items=[{"type": "message", "role": "user", "content": "x"}]
        )
    assert refused.value.code == "conversation_locked"

    await client.responses.delete(first.id)
    await client.responses.create(model="desk", input="go", conversation=made.id, background=True)
    await client.conversations.delete(made.id)

    assert await front.journal.due(2.0**40, 10) == []
