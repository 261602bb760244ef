"""POST /v1/responses/input_tokens with OpenAI's client; a simulated engine has a tokenizer."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.contract.front_door import Front

LOOK_UP: Any = {
    "type": "function",
    "name": "look_up",
    "description": "Look a word up.",
    "parameters": {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    },
    "strict": True,
}


async def test_what_is_counted_is_what_the_engine_reads_when_it_is_asked(
    simulated: AsyncOpenAI,
) -> None:
    asked: dict[str, Any] = {
        "model": "big",
        "input": "What is a bell, and how is it made? " * 10,
        "instructions": "Answer in one word.",
        "tools": [LOOK_UP],
    }
    counted = await simulated.responses.input_tokens.count(**asked)
    response = await simulated.responses.create(**asked)
    assert response.usage is not None
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == response.usage.input_tokens > 100


async def test_what_went_before_is_counted_too(simulated: AsyncOpenAI) -> None:
    conversation = await simulated.conversations.create()
    first = await simulated.responses.create(
        model="big", input="hello " * 50, conversation=conversation.id
    )
    count = simulated.responses.input_tokens.count
    alone = await count(model="big", input="and?")
    after = await count(model="big", input="and?", previous_response_id=first.id)
    within = await count(model="big", input="and?", conversation=conversation.id)
    second = await simulated.responses.create(
        model="big", input="and?", previous_response_id=first.id
    )
    assert second.usage is not None
    assert after.input_tokens == within.input_tokens == second.usage.input_tokens
    assert after.input_tokens > alone.input_tokens + 50


async def test_auto_is_counted_by_a_model_that_it_may_mean(simulated: AsyncOpenAI) -> None:
    named = await simulated.responses.input_tokens.count(model="big", input="hello")
    auto = await simulated.responses.input_tokens.count(model="auto", input="hello")
    assert auto == named


async def test_what_cannot_be_counted_is_refused_by_name(simulated: AsyncOpenAI) -> None:
    count = simulated.responses.input_tokens.count
    with pytest.raises(openai.BadRequestError, match="model: is missing"):
        await count(input="hi")
    with pytest.raises(openai.BadRequestError, match="input: send what"):
        await count(model="big")
    with pytest.raises(openai.BadRequestError, match="not found"):
        await count(model="big", input="hi", previous_response_id="resp_none")
    with pytest.raises(openai.NotFoundError, match="Conversation"):
        await count(model="big", input="hi", conversation="conv_none")
    with pytest.raises(openai.BadRequestError, match="personality"):
        await count(model="big", input="hi", personality="friendly")


async def test_without_an_engine_nothing_is_counted(front: Front) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        await front.client.responses.input_tokens.count(model="desk", input="hi")
    assert refused.value.status_code == 503
    assert "retry-after" in refused.value.response.headers
