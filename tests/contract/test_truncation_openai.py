"""A conversation that outgrows its model's context: `truncation` as the official client asks for
it, over an engine with 8192 tokens."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response


async def tell(client: AsyncOpenAI, number: int, before: Response | None, how: str) -> Response:
    """One more request of some 2,500 tokens."""
    return await client.responses.create(
        model="big",
        input=f"Chapter {number}. {'and so on ' * 2500}"[:10_000],
        previous_response_id=before.id if before else None,
        truncation=how,  # type: ignore[arg-type]
        max_output_tokens=100,
    )


async def grown(client: AsyncOpenAI, how: str) -> Response:
    """A conversation that fills the most of the context."""
    last = None
    for number in range(3):
        last = await tell(client, number, last, how)
        assert last.status == "completed"
    assert last is not None
    assert last.usage is not None
    assert 6000 < last.usage.input_tokens < 8192
    return last


async def test_with_auto_the_oldest_turns_leave_and_the_conversation_goes_on(
    simulated: AsyncOpenAI,
) -> None:
    last = await grown(simulated, "auto")
    for number in range(3, 6):
        after = await tell(simulated, number, last, "auto")
        assert (after.status, after.truncation) == ("completed", "auto")
        assert after.conversation == last.conversation
        assert after.usage is not None
        assert after.usage.input_tokens < 8192
        last = after


async def test_with_disabled_a_prompt_over_the_context_is_refused_as_openai_does(
    simulated: AsyncOpenAI,
) -> None:
    last = await grown(simulated, "disabled")
    with pytest.raises(openai.BadRequestError, match="truncation: 'auto'") as refused:
        await tell(simulated, 3, last, "disabled")
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")
    # The client may do what it is told to: what was refused is not in its way.
    after = await tell(simulated, 3, last, "auto")
    assert after.status == "completed"


async def test_one_input_that_is_too_long_is_refused_with_auto_too(simulated: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is left") as refused:
        await simulated.responses.create(model="big", input="word " * 20_000, truncation="auto")
    assert refused.value.code == "context_length_exceeded"


async def test_a_stream_over_the_context_ends_as_failed(simulated: AsyncOpenAI) -> None:
    stream = await simulated.responses.create(model="big", input="word " * 20_000, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert "send less input" in events[-1].response.error.message
