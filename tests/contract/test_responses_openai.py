"""The Responses API, as the official openai package sees it."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import FunctionToolParam, Response

from orchestrator.api import response_stream
from orchestrator.api.projection import Projection
from orchestrator.api.response_stream import follow
from orchestrator.model import ArgumentsDelta, CallStart, Done, ModelError, TextDelta
from tests.contract.front_door import Front, calls, front_door, replies, says

LOOK: FunctionToolParam = {
    "type": "function",
    "name": "look",
    "description": "Look something up.",
    "parameters": {
        "type": "object",
        "properties": {"what": {"type": "string", "maxLength": 20}},
        "required": ["what"],
        "additionalProperties": False,
    },
    "strict": True,
}


def parsed(response: Response) -> Response:
    """Strictly: the client itself does not validate."""
    return Response.model_validate(response.model_dump())


def extension(response: Response) -> dict[str, Any]:
    found = response.model_dump()["warmloop"]
    assert isinstance(found, dict)
    return found


async def test_a_response_holds_the_answer_its_usage_and_what_the_turn_took(front: Front) -> None:
    front.model.will(says("It is", " 4."))

    response = await front.client.responses.create(
        model="desk", input="what is 2 + 2?", metadata={"ticket": "7"}, temperature=0.5
    )

    assert parsed(response).output_text == "It is 4."
    assert response.status == "completed"
    assert response.metadata == {"ticket": "7"}
    assert response.temperature == 0.5
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 80
    turn = extension(response)["turns"][0]
    assert (turn["model"], turn["replica"], turn["reason"]) == ("big", "big-0", "home")
    again = await front.client.responses.retrieve(response.id)
    assert again.model_dump() == response.model_dump()


async def test_the_tools_of_an_agent_run_on_the_server_and_are_shown(front: Front) -> None:
    front.model.will(calls(("add", '{"a": 2, "b": 2}')), says("4"))

    response = await front.client.responses.create(model="desk", input="what is 2 + 2?")

    kinds = [item.type for item in parsed(response).output]
    assert kinds == ["function_call", "function_call_output", "message"]
    assert response.output[1].model_dump()["output"] == "4"
    assert response.output_text == "4"
    assert extension(response)["totals"]["turns"] == 2


async def test_a_stream_tells_everything_and_ends_with_the_response(front: Front) -> None:
    front.model.will(calls(("add", '{"a": 2, "b": 2}')), says("It is", " 4."))

    stream = await front.client.responses.create(model="desk", input="2 + 2?", stream=True)
    events = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert "response.function_call_arguments.done" in kinds
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "It is 4."
    last = events[-1]
    assert last.type == "response.completed"
    again = await front.client.responses.retrieve(last.response.id)
    assert last.response.model_dump() == again.model_dump()


async def test_the_clients_own_stream_helper_follows_a_run(front: Front) -> None:
    front.model.will(calls(("add", '{"a": 2, "b": 2}')), says("It is", " 4."))

    async with front.client.responses.stream(model="desk", input="2 + 2?") as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()

    assert final.output_text == "It is 4."


async def test_an_engine_that_breaks_in_mid_stream_costs_an_attempt_not_the_answer(
    front: Front,
) -> None:
    broken = ModelError("the engine's stream was cut", code="engine_failed", retry=True)
    front.model.will([TextDelta("It is"), asyncio_yield(), broken], says("It is 4."))

    async with front.client.responses.stream(model="desk", input="2 + 2?") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert kinds[-1] == "response.completed"
    assert final.output_text == "It is 4."
    assert [item.status for item in final.output if item.type == "message"] == ["completed"]


def asyncio_yield() -> asyncio.Event:
    """A step that is already open: it only lets others run."""
    step = asyncio.Event()
    step.set()
    return step


async def test_a_conversation_goes_on_from_its_newest_response(front: Front) -> None:
    client = front.client
    first = await client.responses.create(model="desk", input="one")
    second = await client.responses.create(model="desk", input="two", previous_response_id=first.id)

    assert second.previous_response_id == first.id
    assert second.conversation == first.conversation
    before, after = (json.loads(turn.body)["messages"] for turn in front.model.turns)
    assert after[: len(before)] == before
    assert [message["content"] for message in after[len(before) :]] == ["ok", "two"]


@pytest.mark.parametrize("model", ["desk", "clerk"])
async def test_an_older_response_begins_a_fork_with_the_same_prompt(
    front: Front, model: str
) -> None:
    client = front.client
    answer = says if model == "desk" else replies
    front.model.will(calls(("add", '{"a": 1, "b": 1}')), answer("2"), answer("3"), answer("4"))
    first = await client.responses.create(model=model, input="one", instructions="be brief")
    second = await client.responses.create(model=model, input="two", previous_response_id=first.id)
    fork = await client.responses.create(model=model, input="two", previous_response_id=first.id)

    assert [r.output_text for r in (first, second, fork)] == ["2", "3", "4"]
    assert fork.conversation != first.conversation
    assert second.conversation == first.conversation
    bodies = [json.loads(turn.body)["messages"] for turn in front.model.turns]
    assert bodies[-1] == bodies[-2]


async def test_a_reply_is_a_message_and_no_call(front: Front) -> None:
    front.model.will(replies("hello"))

    async with front.client.responses.stream(model="clerk", input="hi") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert [item.type for item in parsed(final).output] == ["message"]
    assert final.output_text == "hello"
    assert not any("function_call" in kind for kind in kinds)


async def test_a_conversation_can_be_made_first_and_asked_later(front: Front) -> None:
    client = front.client
    made = await client.conversations.create(
        metadata={"team": "a"},
        items=[{"type": "message", "role": "user", "content": "I am Ada."}],
    )
    found = await client.conversations.retrieve(made.id)
    assert (found.id, found.metadata) == (made.id, {"team": "a"})

    response = await client.responses.create(model="desk", input="who am I?", conversation=made.id)

    assert response.conversation is not None
    assert response.conversation.id == made.id
    contents = [m["content"] for m in json.loads(front.model.turns[0].body)["messages"]]
    assert contents == ["You are a desk.", "I am Ada.", "who am I?"]
    with pytest.raises(openai.BadRequestError, match="belongs to 'desk@1'"):
        await client.responses.create(model="big", input="x", conversation={"id": made.id})


async def test_functions_of_the_request_are_run_by_the_client(front: Front) -> None:
    client = front.client
    front.model.will(calls(("look", '{"what": "tea"}'), ("look", '{"what": "milk"}')), says("both"))

    asked = await client.responses.create(model="big", input="is there tea?", tools=[LOOK])

    assert asked.status == "completed"
    wanted = [item for item in parsed(asked).output if item.type == "function_call"]
    assert [json.loads(call.arguments)["what"] for call in wanted] == ["tea", "milk"]
    sent = json.loads(front.model.turns[0].body)
    assert sent["tools"][0]["function"]["name"] == "look"

    answered = await client.responses.create(
        model="big",
        previous_response_id=asked.id,
        tools=[LOOK],
        input=[
            {"type": "function_call_output", "call_id": call.call_id, "output": "yes"}
            for call in wanted
        ],
    )

    assert answered.output_text == "both"
    assert answered.conversation == asked.conversation
    roles = [m["role"] for m in json.loads(front.model.turns[1].body)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]


async def test_every_open_call_needs_its_output_and_no_other_has_one(front: Front) -> None:
    client = front.client
    front.model.will(calls(("look", '{"what": "tea"}')))
    asked = await client.responses.create(model="big", input="tea?", tools=[LOOK])

    with pytest.raises(openai.BadRequestError, match="No tool output found for function call"):
        await client.responses.create(model="big", previous_response_id=asked.id, input="well?")
    with pytest.raises(openai.BadRequestError, match="No tool call found"):
        await client.responses.create(
            model="big",
            input=[{"type": "function_call_output", "call_id": "call_9", "output": "x"}],
        )


async def test_a_function_of_the_client_cannot_take_a_tools_name(front: Front) -> None:
    with pytest.raises(openai.BadRequestError, match="'add' is a tool of the agent 'desk'"):
        await front.client.responses.create(
            model="desk", input="hi", tools=[{**LOOK, "name": "add"}]
        )


async def test_an_agent_runs_its_own_tools_and_leaves_the_clients_open(front: Front) -> None:
    client = front.client
    front.model.will(calls(("add", '{"a": 1, "b": 1}'), ("look", '{"what": "tea"}')), says("so"))

    asked = await client.responses.create(model="desk", input="tea?", tools=[LOOK])

    kinds = [item.type for item in asked.output]
    assert kinds == ["function_call", "function_call", "function_call_output"]
    look = asked.output[1]
    assert look.type == "function_call"
    answered = await client.responses.create(
        model="desk",
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": look.call_id, "output": "green"}],
    )
    assert answered.output_text == "so"


async def test_a_background_response_is_fetched_when_it_is_done(front: Front) -> None:
    gate = asyncio.Event()
    front.model.will([TextDelta("do"), gate, TextDelta("ne"), Done("stop", 10, 0, 2)])

    started = await front.client.responses.create(model="desk", input="go", background=True)
    assert started.status in ("queued", "in_progress")
    gate.set()
    stream = await front.client.responses.retrieve(started.id, stream=True)
    kinds = [event.type async for event in stream]

    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert (await front.client.responses.retrieve(started.id)).output_text == "done"


async def test_a_cancelled_response_ends_and_stays_cancelled(front: Front) -> None:
    front.model.will([TextDelta("do"), asyncio.Event()])
    started = await front.client.responses.create(model="desk", input="go", background=True)

    cancelled = await front.client.responses.cancel(started.id)
    again = await front.client.responses.cancel(started.id)

    assert cancelled.status == again.status == "cancelled"
    stream = await front.client.responses.retrieve(started.id, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "cancelled"


async def test_a_stream_that_was_cut_is_taken_up_again_without_gap_or_repeat(front: Front) -> None:
    gate = asyncio.Event()
    front.model.will([TextDelta("one "), gate, TextDelta("two "), TextDelta("three"), Done("stop")])
    stream = await front.client.responses.create(
        model="desk", input="count", stream=True, background=True
    )
    seen = []
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    created = seen[0]
    assert created.type == "response.created"

    gate.set()
    rest = await front.client.responses.retrieve(
        created.response.id, stream=True, starting_after=seen[-1].sequence_number
    )
    seen += [event async for event in rest]

    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert text == "one two three"
    whole = await front.client.responses.retrieve(created.response.id, stream=True)
    assert [e.model_dump() async for e in whole] == [e.model_dump() for e in seen]


async def test_a_run_goes_on_after_the_front_door_was_started_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    async with front_door(journal) as first:
        first.model.will([TextDelta("half an ans"), asyncio.Event()])
        stream = await first.client.responses.create(model="desk", input="go", stream=True)
        seen = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
    created = seen[0]
    assert created.type == "response.created"

    async with front_door(journal) as second:
        rest = await second.client.responses.retrieve(
            created.response.id, stream=True, starting_after=seen[-1].sequence_number
        )
        seen += [event async for event in rest]
        whole = await second.client.responses.retrieve(created.response.id, stream=True)
        assert [e.model_dump() async for e in whole] == [e.model_dump() for e in seen]

    done = [event.item for event in seen if event.type == "response.output_item.done"]
    assert [item.status for item in done if item.type == "message"] == ["incomplete", "completed"]
    last = seen[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "ok"


async def test_last_event_id_takes_a_stream_up_like_starting_after(front: Front) -> None:
    response = await front.client.responses.create(model="desk", input="hi")

    async with front.http.get(
        f"/v1/responses/{response.id}?stream=true", headers={"last-event-id": "2"}
    ) as answer:
        assert answer.content_type == "text/event-stream"
        body = await answer.text()

    assert body.startswith("event: response.content_part.added\nid: 3\ndata: {")
    assert body.endswith("\n\n")


async def test_a_reader_that_does_not_read_holds_nobody_up(front: Front) -> None:
    front.model.will(says(*["x" * 2**17] * 100))
    body = {"model": "desk", "input": "go", "stream": True}
    async with front.http.post("/v1/responses", json=body):
        (ref,) = await front.journal.due(float("inf"), 9)
        projection = Projection(ref.response_id, ref.conversation)
        async for _ in follow(front.journal, ref, projection):
            pass

    assert projection.status == "completed"


class Turns(asyncio.Event):
    """A step that lets the event loop turn: what came before is stored by itself."""

    async def wait(self) -> Literal[True]:
        for _ in range(100):
            await asyncio.sleep(0)
        return True


async def test_a_reader_that_stops_is_not_written_for_and_gets_all_when_it_comes_back(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    frame = response_stream.frame

    def noting(event: dict[str, Any]) -> bytes:
        written.append(event["sequence_number"])
        return frame(event)

    monkeypatch.setattr(response_stream, "frame", noting)
    pieces = [step for _ in range(300) for step in (TextDelta("x" * 2**17), Turns())]
    front.model.will([*pieces, Done("stop")])  # 39 MB: more than sockets hold
    body = {"model": "desk", "input": "go", "stream": True}
    async with front.http.post("/v1/responses", json=body):
        (ref,) = await front.journal.due(float("inf"), 9)
        numbers = []
        projection = Projection(ref.response_id, ref.conversation)
        async for emitted in follow(front.journal, ref, projection):
            numbers += [event["sequence_number"] for event in emitted]
        assert projection.status == "completed"
        assert len(written) < len(numbers)

    rest = await front.client.responses.retrieve(ref.response_id, stream=True, starting_after=3)
    events = [event async for event in rest]
    assert [event.sequence_number for event in events] == numbers[4:]
    whole = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert len(whole) == 300 * 2**17


async def test_a_silent_stream_is_kept_alive(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_stream, "KEEP_ALIVE_S", 0.01)
    gate = asyncio.Event()
    front.model.will([gate, *says("done")])
    body = {"model": "desk", "input": "go", "stream": True}

    async with front.http.post("/v1/responses", json=body) as answer:
        async for line in answer.content:
            if line == b": keep-alive\n":
                gate.set()
        assert gate.is_set()


async def test_a_client_that_hangs_up_stops_nothing(front: Front) -> None:
    gate = asyncio.Event()
    front.model.will([TextDelta("al"), gate, TextDelta("most"), Done("stop")])
    stream = await front.client.responses.create(model="desk", input="go", stream=True)
    created = await anext(aiter(stream))
    assert created.type == "response.created"
    await stream.close()
    gate.set()

    rest = await front.client.responses.retrieve(created.response.id, stream=True)
    last = [event async for event in rest][-1]

    assert last.type == "response.completed"
    assert last.response.output_text == "almost"


async def test_the_same_idempotency_key_makes_one_turn(front: Front) -> None:
    async def ask(text: str) -> Response:
        return await front.client.responses.create(
            model="desk", input=text, extra_headers={"Idempotency-Key": "k-1"}
        )

    first, second = await asyncio.gather(ask("hi"), ask("hi"))
    third = await ask("hi")

    assert first.id == second.id == third.id
    assert len(front.model.turns) == 1
    with pytest.raises(openai.ConflictError) as refused:
        await ask("something else")
    assert refused.value.code == "idempotency_key_reused"


async def test_one_conversation_has_one_response_in_progress(front: Front) -> None:
    gate = asyncio.Event()
    front.model.will([gate, *says("done")])
    first = await front.client.responses.create(model="desk", input="go", background=True)

    with pytest.raises(openai.ConflictError) as refused:
        await front.client.responses.create(
            model="desk", input="and?", previous_response_id=first.id
        )
    assert refused.value.code == "conversation_locked"
    assert refused.value.response.headers["retry-after"] == "1"
    assert first.conversation is not None
    with pytest.raises(openai.ConflictError):
        await front.client.responses.create(
            model="desk", input="and?", conversation=first.conversation.id
        )
    gate.set()


async def test_what_is_unknown_is_not_found(front: Front) -> None:
    responses = front.client.responses
    for call in (responses.retrieve("resp_x"), responses.cancel("resp_x")):
        with pytest.raises(openai.NotFoundError, match="'resp_x' not found"):
            await call
    with pytest.raises(openai.NotFoundError):
        await responses.input_items.list("resp_x")
    with pytest.raises(openai.NotFoundError, match="'conv_x' not found"):
        await responses.create(model="desk", input="hi", conversation="conv_x")
    with pytest.raises(openai.NotFoundError, match="did you mean 'desk'"):
        await responses.create(model="dsk", input="hi")
    with pytest.raises(openai.BadRequestError) as refused:
        await responses.create(model="desk", input="hi", previous_response_id="resp_x")
    assert refused.value.code == "previous_response_not_found"


async def test_what_is_not_stored_cannot_be_found_again(front: Front) -> None:
    response = await front.client.responses.create(model="desk", input="hi", store=False)
    assert response.output_text == "ok"

    with pytest.raises(openai.NotFoundError):
        await front.client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError):
        await front.client.responses.create(
            model="desk", input="hi", previous_response_id=response.id
        )


async def test_input_items_are_listed_with_ids(front: Front) -> None:
    response = await front.client.responses.create(
        model="desk",
        input=[
            {"role": "user", "content": "one"},
            {"role": "user", "content": [{"type": "input_text", "text": "two"}]},
        ],
    )

    page = await front.client.responses.input_items.list(response.id, order="asc", limit=1)
    items = [item async for item in page]

    assert [item.model_dump()["content"][0]["text"] for item in items] == ["one", "two"]
    assert len({item.id for item in items}) == 2


BAD_BODIES: list[tuple[str, str, str]] = [
    ("{", "invalid_json", ""),
    ("[]", "invalid_value", ""),
    ("{}", "missing_required_parameter", "model"),
    ('{"model": "desk"}', "missing_required_parameter", "input"),
    ('{"model": 3, "input": "hi"}', "invalid_type", "model"),
    ('{"model": "desk", "input": ""}', "invalid_value", "input"),
    ('{"model": "desk", "input": 7}', "invalid_value", "input"),
    (
        '{"model": "desk", "input": [{"role": "x", "content": ""}]}',
        "invalid_value",
        "input[0].role",
    ),
    (
        '{"model": "desk", "input": [{"role": "user", "content": [{"type": "input_image",'
        ' "image_url": "data:image/png;base64,AA=="}]}]}',
        "unsupported_value",
        "input[0].content[0].type",
    ),
    (
        '{"model": "desk", "input": [{"role": "user", "content": [{"type": "input_image",'
        ' "image_url": "https://example.com/a.png"}]}]}',
        "unsupported_value",
        "input[0].content[0].image_url",
    ),
    (
        '{"model": "desk", "input": [{"role": "user", "content": [{"type": "input_file"}]}]}',
        "unsupported_value",
        "input[0].content[0]",
    ),
    ('{"model": "desk", "input": "hi", "temperature": "hot"}', "invalid_type", "temperature"),
    ('{"model": "desk", "input": "hi", "stream": "yes"}', "invalid_type", "stream"),
    ('{"model": "desk", "input": "hi", "metadata": {"a": 1}}', "invalid_type", "metadata.a"),
    (
        '{"model": "desk", "input": "hi", "tools": [{"type": "web_search"}]}',
        "unsupported_value",
        "tools[0].type",
    ),
    (
        '{"model": "desk", "input": "hi", "tools": [{"type": "mcp", "server_label": "docs"}]}',
        "unsupported_value",
        "tools[0].server_label",
    ),
    (
        '{"model": "desk", "input": "hi", "truncation": "oldest"}',
        "invalid_value",
        "truncation",
    ),
    (
        '{"model": "desk", "input": "hi", "reasoning": {"effort": "low"}}',
        "unsupported_value",
        "reasoning.effort",
    ),
    (
        '{"model": "d", "input": "a", "text": {"format": {"type": "json_schema"}}}',
        "missing_required_parameter",
        "text.format.name",
    ),
    (
        '{"model": "desk", "input": "hi", "text": {"format": {"type": "json_object"}}}',
        "unsupported_value",
        "text.format",
    ),
    ('{"model": "desk", "input": "hi", "no_such": 1}', "unknown_parameter", "no_such"),
    ('{"model": "desk", "input": "hi", "text": {"tone": 1}}', "unknown_parameter", "text.tone"),
    (
        '{"model": "desk", "input": "hi", "tool_choice": "sometimes"}',
        "invalid_value",
        "tool_choice",
    ),
    (
        '{"model": "desk", "input": "hi", "tool_choice": {"type": "function", "name": "no"}}',
        "unsupported_value",
        "tool_choice",
    ),
    (
        '{"model": "desk", "input": "hi", "include": ["message.output_text.logprobs"]}',
        "unsupported_parameter",
        "include",
    ),
    (
        '{"model": "desk", "input": "x", "conversation": "a", "previous_response_id": "b"}',
        "invalid_value",
        "previous_response_id",
    ),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD_BODIES)
async def test_bad_input_is_refused_with_the_fields_path(
    front: Front, body: str, code: str, param: str
) -> None:
    async with front.http.post("/v1/responses", data=body) as answer:
        said = await answer.json()

    assert answer.status == 400
    assert said["error"]["type"] == "invalid_request_error"
    assert (said["error"]["code"], said["error"]["param"] or "") == (code, param)
    assert answer.headers["x-request-id"]


async def test_what_means_nothing_here_is_taken_and_shown_again(front: Front) -> None:
    response = await front.client.responses.create(
        model="desk",
        input="hi",
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        service_tier="auto",
        prompt_cache_key="k",
        safety_identifier="s",
    )

    assert response.output_text == "ok"
    assert (response.prompt_cache_key, response.safety_identifier) == ("k", "s")


async def test_a_body_over_the_limit_is_refused(front: Front) -> None:
    async with front.http.post("/v1/responses", data=io.BytesIO(b" " * (17 * 2**20))) as answer:
        said = await answer.json()

    assert answer.status == 413
    assert said["error"]["code"] == "request_too_large"


async def test_a_failed_run_says_why(front: Front) -> None:
    front.model.will([ModelError("the prompt is too long", code="engine_refused", retry=False)])

    response = await front.client.responses.create(model="desk", input="hi")

    assert parsed(response).status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.type) == ("server_error", "engine_refused")


async def test_a_truncated_answer_is_incomplete(front: Front) -> None:
    front.model.will(says("Once", " upon", finish="length"))

    response = await front.client.responses.create(model="desk", input="hi", max_output_tokens=2)

    assert parsed(response).status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert json.loads(front.model.turns[0].body)["max_tokens"] == 2


async def test_the_whole_application_answers_over_a_simulated_engine(
    simulated: openai.AsyncOpenAI,
) -> None:
    client = simulated
    first = await client.responses.create(model="big", input='SIMULATE: {"text": "hello there"}')
    second = await client.responses.create(
        model="auto", input='SIMULATE: {"text": "again"}', previous_response_id=first.id
    )
    stream = await client.responses.create(
        model="big", input='SIMULATE: {"text": "a b c d e f"}', stream=True
    )
    events = [event async for event in stream]

    assert first.output_text == "hello there"
    assert second.output_text == "again"
    assert extension(first)["turns"][0]["replica"] == "big-0"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "a b c d e f"


async def test_a_call_whose_engine_died_in_mid_stream_is_another_item_than_its_second_attempt(
    front: Front,
) -> None:
    gate = asyncio.Event()
    half = [CallStart("add"), ArgumentsDelta('{"a": 2'), gate]
    cut = ModelError("cut", code="engine_failed", retry=True)
    front.model.will([*half, cut], calls(("add", '{"a": 2, "b": 2}')), says("4"))
    async with front.client.responses.stream(model="desk", input="2 + 2?") as stream:
        async for event in stream:
            if event.type == "response.output_item.added":
                gate.set()
        final = await stream.get_final_response()
    assert final.output_text == "4"


async def test_a_compressed_body_is_refused_by_name(front: Front) -> None:
    headers = {"content-encoding": "gzip"}
    body = gzip.compress(b'{"model": "desk", "input": "hi"}')
    async with front.http.post("/v1/responses", data=body, headers=headers) as answer:
        assert answer.status == 400
        assert "content-encoding" in (await answer.json())["error"]["message"]


async def test_a_body_that_is_said_to_be_far_too_large_is_not_waited_for(front: Front) -> None:
    host, port = front.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_an_agent_on_a_route_of_engines_is_told_where_agents_are(front: Front) -> None:
    body = {"model": "desk", "prompt": "hi"}
    async with front.http.post("/v1/completions", json=body) as answer:
        assert answer.status == 404
        said = (await answer.json())["error"]["message"]
        assert said == "model: 'desk' is an agent; send it to /v1/responses or /v1/chat/completions"
