"""Agents over chat completions, as the official openai package sees them."""

from __future__ import annotations

import asyncio

import openai
import pytest

from orchestrator.api.chat_answer import ChatText
from orchestrator.model import ModelError, TextDelta
from serving.errors import UpstreamError
from tests.contract.front_door import Front, calls, replies, says


async def test_an_agent_answers_a_chat(front: Front) -> None:
    front.model.will(calls(("add", '{"a": 2, "b": 2}')), says("It is 4."))

    answer = await front.client.chat.completions.create(
        model="desk",
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "2 + 2?"},
        ],
    )

    assert answer.choices[0].message.content == "It is 4."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (200, 6)
    response = await front.client.responses.retrieve("resp_" + answer.id.removeprefix("chatcmpl-"))
    assert response.output_text == "It is 4."


async def test_an_agent_streams_its_text_and_its_usage(front: Front) -> None:
    front.model.will(replies("It is 4."))

    stream = await front.client.chat.completions.create(
        model="clerk@1",
        messages=[{"role": "user", "content": "2 + 2?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    said = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in said) == "It is 4."
    assert said[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 100


async def test_a_failed_run_is_an_error_of_the_engine(front: Front) -> None:
    front.model.will([ModelError("engine gone", code="engine_failed", retry=False)])

    with pytest.raises(openai.InternalServerError, match="engine gone"):
        await front.client.chat.completions.create(
            model="desk", messages=[{"role": "user", "content": "hi"}]
        )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_that_is_too_long_is_the_client_s_to_shorten(
    front: Front, stream: bool
) -> None:
    front.model.will([ModelError("too long", code="context_length_exceeded", retry=False)])

    async def ask() -> None:
        answer = await front.client.chat.completions.create(
            model="desk", messages=[{"role": "user", "content": "hi"}], stream=stream
        )
        if isinstance(answer, openai.AsyncStream):
            async for _ in answer:
                pass

    with pytest.raises(openai.APIError, match="longer than its model's context") as refused:
        await ask()
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    assert stream or isinstance(refused.value, openai.BadRequestError)


async def test_a_chat_client_that_hangs_up_cancels_its_run(front: Front) -> None:
    front.model.will([TextDelta("al"), asyncio.Event()])
    stream = await front.client.chat.completions.create(
        model="desk", messages=[{"role": "user", "content": "go"}], stream=True
    )
    first = await anext(aiter(stream))
    response_id = "resp_" + first.id.removeprefix("chatcmpl-")
    await stream.close()

    followed = await front.client.responses.retrieve(response_id, stream=True)
    last = [event async for event in followed][-1]

    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"


async def test_tools_of_the_client_are_refused_with_the_way_to_have_them(front: Front) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/responses"):
        await front.client.chat.completions.create(
            model="desk",
            messages=[{"role": "user", "content": "hi"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )


async def test_models_are_left_to_the_router(front: Front) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await front.client.chat.completions.create(
            model="big", messages=[{"role": "user", "content": "are you desk?"}]
        )
    assert refused.value.status_code == 503


def feed(text: ChatText, *pieces: str) -> str:
    return "".join(
        text.feed({"type": "response.output_text.delta", "delta": piece}) for piece in pieces
    )


def cut(text: ChatText, sent: str) -> None:
    item = {"type": "message", "status": "incomplete", "content": [{"text": sent}]}
    text.feed({"type": "response.output_item.done", "item": item})


def test_an_attempt_that_repeats_what_was_sent_only_adds_the_rest() -> None:
    text = ChatText()
    assert feed(text, "It ", "is") == "It is"
    cut(text, "It is")
    assert feed(text, "It", " is 4", ".") == " 4."


def test_an_attempt_that_says_something_else_cannot_be_joined() -> None:
    text = ChatText()
    feed(text, "It is")
    cut(text, "It is")
    with pytest.raises(UpstreamError):
        feed(text, "That makes")
