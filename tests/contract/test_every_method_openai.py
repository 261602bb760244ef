"""Every method that OpenAI's client has for responses and conversations, each called once."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from orchestrator.model import Done, TextDelta
from tests.contract.front_door import Front

HI: Any = {"type": "message", "role": "user", "content": "hi"}
Called = Callable[[Front], Awaitable[object]]


def methods(resource: object, path: str) -> Iterator[str]:
    for name in dir(resource):
        value = None if name.startswith("_") else getattr(resource, name)
        if inspect.ismethod(value):
            yield f"{path}.{name}"
        elif type(value).__module__.startswith("openai.resources") and "with_" not in name:
            yield from methods(value, f"{path}.{name}")


async def made(front: Front) -> Response:
    return await front.client.responses.create(model="desk", input="hi")


async def create(front: Front) -> None:
    assert (await made(front)).output_text == "ok"


async def retrieve(front: Front) -> None:
    first = await made(front)
    again = await front.client.responses.retrieve(first.id)
    assert (again.id, again.output_text) == (first.id, "ok")
    replay = await front.client.responses.retrieve(first.id, stream=True, starting_after=1)
    assert [event.sequence_number async for event in replay][:1] == [2]


async def stream(front: Front) -> None:
    async with front.client.responses.stream(model="desk", input="hi") as events:
        kinds = [event.type async for event in events]
        assert (await events.get_final_response()).output_text == "ok"
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "response.output_text.delta" in kinds


class Sum(BaseModel):
    value: int


async def parse(front: Front) -> None:
    front.model.will([TextDelta('{"value": 4}'), Done("stop")])
    answer = await front.client.responses.parse(model="big", input="2+2?", text_format=Sum)
    assert answer.output_parsed == Sum(value=4)


async def cancel(front: Front) -> None:
    begun = await front.client.responses.create(model="desk", input="hi", background=True)
    assert (await front.client.responses.cancel(begun.id)).status in ("cancelled", "completed")


async def delete(front: Front) -> None:
    await front.client.responses.delete((await made(front)).id)


async def compact(front: Front) -> None:
    window = await front.client.responses.compact(model="desk", input=[HI])
    assert [item.type for item in window.output] == ["message", "compaction"]


async def input_items(front: Front) -> None:
    listed = await front.client.responses.input_items.list((await made(front)).id)
    assert [item.type for item in listed.data] == ["message"]


async def conversation(front: Front) -> str:
    return (await front.client.conversations.create(items=[HI])).id


async def retrieve_conversation(front: Front) -> None:
    name = await conversation(front)
    assert (await front.client.conversations.retrieve(name)).id == name


async def update_conversation(front: Front) -> None:
    name = await conversation(front)
    changed = await front.client.conversations.update(name, metadata={"topic": "bells"})
    assert changed.metadata == {"topic": "bells"}


async def delete_conversation(front: Front) -> None:
    assert (await front.client.conversations.delete(await conversation(front))).deleted


async def items(front: Front) -> None:
    of = front.client.conversations.items
    name = await conversation(front)
    added = (await of.create(name, items=[HI])).data[0]
    assert added.id is not None
    assert (await of.retrieve(added.id, conversation_id=name)).id == added.id
    assert len((await of.list(name)).data) == 2
    await of.delete(added.id, conversation_id=name)
    assert len((await of.list(name)).data) == 1


CALLED: dict[str, Called] = {
    "responses.create": create,
    "responses.retrieve": retrieve,
    "responses.stream": stream,
    "responses.parse": parse,
    "responses.cancel": cancel,
    "responses.delete": delete,
    "responses.compact": compact,
    "responses.input_items.list": input_items,
    "conversations.create": conversation,
    "conversations.retrieve": retrieve_conversation,
    "conversations.update": update_conversation,
    "conversations.delete": delete_conversation,
    "conversations.items.create": items,
    "conversations.items.retrieve": items,
    "conversations.items.list": items,
    "conversations.items.delete": items,
}
ELSEWHERE = {"responses.input_tokens.count": "test_input_tokens_openai.py: it needs an engine"}
REFUSED = {"responses.connect": "a WebSocket; streams are server-sent events here"}


def test_every_method_of_the_client_is_called_or_named_as_missing() -> None:
    client = AsyncOpenAI(api_key="none")
    found = {
        *methods(client.responses, "responses"),
        *methods(client.conversations, "conversations"),
    }
    assert found == {*CALLED, *ELSEWHERE, *REFUSED}


@pytest.mark.parametrize("call", {call.__name__: call for call in CALLED.values()}.values())
async def test_the_method_does_what_the_client_expects(front: Front, call: Called) -> None:
    await call(front)


async def test_a_web_socket_is_refused_at_once_and_without_noise(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await front.http.ws_connect("/v1/responses")
    assert refused.value.status == 405
    assert refused.value.headers is not None
    assert refused.value.headers["allow"] == "POST"
    assert "WebSocket" not in caplog.text
