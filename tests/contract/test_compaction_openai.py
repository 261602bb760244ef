"""POST /v1/responses/compact with OpenAI's client: a long conversation in a short window."""

from __future__ import annotations

import json
from typing import Any, cast

import openai
import pytest
from openai.types.responses import CompactedResponse

from orchestrator.api.inbound import Reader
from orchestrator.api.response_request import CreateRequest
from orchestrator.api.sealing import BadSeal, open_to_all, opened, seal
from orchestrator.model import ModelError
from router.tenancy.keys import Contents
from serving.errors import BadRequest
from tests.contract.front_door import Front, Step, calls, says

SUMMARY = "They spoke of bells; the answer was 42."
GET_BELL = {
    "type": "function",
    "name": "get_bell",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    "strict": True,
}


def user(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


def dumped(window: CompactedResponse) -> Any:
    """As JSON; OpenAI's own type knows messages of assistants only, and warns of the others."""
    return window.model_dump(mode="json", warnings=False)["output"]


def messages(front: Front, turn: int = -1) -> list[dict[str, Any]]:
    """Of a turn, as the engine got them."""
    return cast(list[dict[str, Any]], json.loads(front.model.turns[turn].body)["messages"])


async def test_a_window_has_what_people_said_and_one_item_for_the_rest(front: Front) -> None:
    front.model.will(says("It is bronze."), says(SUMMARY))
    first = await front.client.responses.create(model="desk", input="What is a bell?")
    window = await front.client.responses.compact(
        model="desk", previous_response_id=first.id, input=[user("And how old?")]
    )
    assert window.object == "response.compaction"
    assert [item.type for item in window.output] == ["message", "message", "compaction"]
    said = [item["content"][0]["text"] for item in dumped(window)[:2]]
    assert said == ["What is a bell?", "And how old?"]
    assert (window.usage.input_tokens, window.usage.output_tokens) == (100, 1)
    assert SUMMARY not in str(dumped(window))
    asked = messages(front)
    assert "Summarise" in asked[0]["content"]
    assert "It is bronze." in asked[1]["content"]
    assert front.model.turns[-1].conversation != front.model.turns[0].conversation


async def test_a_window_is_the_input_of_a_later_request_which_reads_the_summary(
    front: Front,
) -> None:
    front.model.will(says(SUMMARY), says("Yes."))
    window = await front.client.responses.compact(
        model="desk",
        input=[user("hi"), {"type": "message", "role": "assistant", "content": "hello"}],
    )
    later = dumped(window)
    response = await front.client.responses.create(model="desk", input=[*later, user("More?")])
    texts = [message["content"] for message in messages(front)]
    assert texts[-3:-2] == ["hi"]
    assert texts[-2].endswith(f"A summary of them:\n{SUMMARY}")
    assert [m["role"] for m in messages(front)[-3:]] == ["user"] * 3
    assert texts[-1] == "More?"
    listed = await front.client.responses.input_items.list(response.id, order="asc")
    assert [item.type for item in listed.data] == ["message", "compaction", "message"]
    assert SUMMARY not in listed.model_dump_json()
    # It stays part of the history: the next prompt begins with this one's bytes.
    await front.client.responses.create(
        model="desk", previous_response_id=response.id, input="and?"
    )
    assert messages(front)[: len(texts)] == messages(front, -2)


async def test_a_window_may_be_compacted_again(front: Front) -> None:
    front.model.will(says(SUMMARY), says("In short: 42."))
    first = await front.client.responses.compact(model="desk", input="hi")
    window = dumped(first)
    second = await front.client.responses.compact(model="big", input=[*window, user("go on")])
    assert [item.type for item in second.output] == ["message", "message", "compaction"]
    assert SUMMARY in messages(front)[1]["content"]


async def test_instructions_and_pictures_are_for_the_summary_what_they_are(front: Front) -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    shown = {"type": "message", "role": "user", "content": [picture]}
    window = await front.client.responses.compact(
        model="desk", instructions="Keep names.", input=cast(Any, [shown])
    )
    transcript = messages(front)[1]["content"]
    assert "Keep names." in transcript
    assert "base64" not in transcript
    assert "Keep names." not in str(dumped(window))
    assert "base64,AAAA" in str(dumped(window))


async def test_a_conversation_takes_a_compaction_item_too(front: Front) -> None:
    front.model.will(says(SUMMARY), says("Yes."))
    window = await front.client.responses.compact(model="desk", input="hi")
    sealed: Any = dumped(window)[-1]
    conversation = await front.client.conversations.create(items=[sealed])
    await front.client.responses.create(model="desk", conversation=conversation.id, input="so?")
    assert SUMMARY in messages(front)[-2]["content"]
    items = await front.client.conversations.items.list(conversation.id, order="asc")
    assert items.data[0].type == "compaction"
    assert SUMMARY not in items.model_dump_json()
    first, said = items.data[0].id or "", items.data[1].id or ""
    alone = await front.client.conversations.items.retrieve(first, conversation_id=conversation.id)
    assert SUMMARY not in alone.model_dump_json()
    # It is still there for the model when another item has been deleted.
    await front.client.conversations.items.delete(said, conversation_id=conversation.id)
    await front.client.responses.create(model="desk", conversation=conversation.id, input="yes?")
    texts = [message["content"] for message in messages(front)]
    assert (SUMMARY in texts[1], "so?" in texts, texts[-1]) == (True, False, "yes?")


@pytest.mark.parametrize(
    "changed", ["", "gAAAAABnot-ours", "wls1.", "wls1.AAAA", "wls1.é", "wls1." + "A" * 64]
)
async def test_what_was_not_sealed_here_is_refused_by_name(front: Front, changed: str) -> None:
    item: Any = {"type": "compaction", "encrypted_content": changed}
    with pytest.raises(openai.BadRequestError) as refused:
        await front.client.responses.create(model="desk", input=[user("hi"), item])
    assert refused.value.param == "input[1].encrypted_content"
    assert "was changed" in refused.value.message
    assert front.model.turns == []


async def test_a_seal_that_was_changed_is_refused(front: Front) -> None:
    window = await front.client.responses.compact(model="desk", input="hi")
    sealed = dumped(window)[-1]["encrypted_content"]
    swapped = "A" if sealed[20] != "A" else "B"
    item: Any = {"type": "compaction", "encrypted_content": sealed[:20] + swapped + sealed[21:]}
    with pytest.raises(openai.BadRequestError, match="was changed"):
        await front.client.responses.create(model="desk", input=[item])


def test_another_tenant_can_neither_read_nor_use_a_seal() -> None:
    contents = Contents("secret")
    keys = {name: contents.key("sealed", name) for name in ("anne", "bert")}
    sealed = seal(SUMMARY, keys["anne"])
    assert opened(sealed, keys["anne"]) == SUMMARY
    assert "bells" not in sealed
    for other in (keys["bert"], open_to_all("anne"), Contents("other").key("sealed", "anne")):
        with pytest.raises(BadSeal):
            opened(sealed, other)
    body = {"model": "m", "input": [{"type": "compaction", "encrypted_content": sealed}]}
    reader = Reader(key_of=keys.__getitem__)
    assert reader.read(CreateRequest, json.dumps(body).encode(), "anne").items()[0]["text"]
    with pytest.raises(BadRequest, match=r"input\[0\].encrypted_content"):
        reader.read(CreateRequest, json.dumps(body).encode(), "bert")


async def test_what_the_loop_told_the_model_is_no_message_of_people(front: Front) -> None:
    """It was about a turn that is over: a later one is not told that there are no more tools."""
    same = calls(("add", '{"a": 1, "b": 2}'))
    front.model.will(same, same, same, same, says("3"), says(SUMMARY))
    first = await front.client.responses.create(model="desk", input="1 + 2?")
    assert any("Notice" in each["content"] for each in messages(front))
    window = await front.client.responses.compact(model="desk", previous_response_id=first.id)
    said = [item["content"][0]["text"] for item in dumped(window)[:-1]]
    assert said == ["1 + 2?"]


async def test_a_call_that_waits_for_its_output_is_not_lost_in_a_summary(front: Front) -> None:
    front.model.will(calls(("get_bell", "{}")))
    first = await front.client.responses.create(
        model="big", input="bell?", tools=[cast(Any, GET_BELL)]
    )
    with pytest.raises(openai.BadRequestError, match="has no output yet"):
        await front.client.responses.compact(model="big", previous_response_id=first.id)


async def test_what_cannot_be_compacted_is_refused_with_a_way_out(front: Front) -> None:
    compact = front.client.responses.compact
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        await compact(model="desk")
    with pytest.raises(openai.BadRequestError, match="not found"):
        await compact(model="desk", previous_response_id="resp_none")
    with pytest.raises(openai.NotFoundError, match="unknown agent or model"):
        await compact(model="nobody", input="hi")


@pytest.mark.parametrize(
    ("turn", "status", "said"),
    [
        ([ModelError("no", code="engine_refused", retry=False)], 502, "gave no summary"),
        ([ModelError("too long", code="context_length_exceeded", retry=False)], 400, "input: "),
    ],
)
async def test_without_a_summary_there_is_no_window(
    front: Front, turn: list[Step], status: int, said: str
) -> None:
    front.model.will(turn)
    with pytest.raises(openai.APIStatusError) as refused:
        await front.client.responses.compact(model="desk", input="hi")
    assert (refused.value.status_code, said in refused.value.message) == (status, True)


@pytest.mark.parametrize("name", ["compact", "input_tokens"])
async def test_its_path_is_no_id_of_a_response(front: Front, name: str) -> None:
    for method in ("GET", "DELETE"):
        async with front.http.request(method, f"/v1/responses/{name}") as answer:
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
    async with front.http.post(f"/v1/responses/{name}/cancel") as answer:
        assert answer.status == 404


async def test_the_side_response_is_journaled_and_cannot_be_fetched(front: Front) -> None:
    window = await front.client.responses.compact(model="desk", input="hi")
    assert await front.journal.find_response(window.id) is not None
    with pytest.raises(openai.NotFoundError):
        await front.client.responses.retrieve(window.id)
