"""Agents at several versions: a conversation stays on the one that it began with."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest

from tests.contract.front_door import DESK, Front, front_door

NEW = DESK.model_copy(update={"version": 2, "instructions": "You are the new desk."})


def told(front: Front) -> str:
    """The instructions of the newest turn."""
    return str(json.loads(front.model.turns[-1].body)["messages"][0]["content"])


async def test_a_conversation_stays_on_its_version_over_a_deploy(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with front_door(journal) as front:
        first = await front.client.responses.create(model="desk", input="one")
        made = await front.client.conversations.create()
        await front.client.responses.create(model="desk", input="one", conversation=made.id)
        before = json.loads(front.model.turns[0].body)["messages"]

    async with front_door(journal, [NEW, DESK]) as front:
        create = front.client.responses.create
        second = await create(model="desk", input="two", previous_response_id=first.id)
        after = json.loads(front.model.turns[0].body)["messages"]
        assert after[: len(before)] == before
        assert second.conversation == first.conversation
        await create(model="desk", input="two", conversation=made.id)
        assert told(front) == "You are a desk."
        await create(model="desk", input="hi")
        assert told(front) == "You are the new desk."
        await create(model="desk@1", input="hi")
        assert told(front) == "You are a desk."
        branch = await create(model="desk@2", input="two", previous_response_id=first.id)
        assert told(front) == "You are the new desk."
        assert branch.conversation != first.conversation


async def test_a_version_that_was_removed_is_named_with_what_to_do(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with front_door(journal) as front:
        first = await front.client.responses.create(model="desk", input="one")

    async with front_door(journal, [NEW]) as front:
        create = front.client.responses.create
        with pytest.raises(
            openai.ConflictError, match=r"agents\.desk\.versions.*desk@2"
        ) as refused:
            await create(model="desk", input="two", previous_response_id=first.id)
        assert refused.value.code == "agent_version_removed"
        with pytest.raises(openai.NotFoundError, match="no version '7'"):
            await create(model="desk@7", input="hi")
        branch = await create(model="desk@2", input="two", previous_response_id=first.id)
        assert branch.output_text == "ok"
        assert (await front.client.responses.retrieve(first.id)).output_text == "ok"
