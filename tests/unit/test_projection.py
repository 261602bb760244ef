"""The projection: any log gives the same gapless events, in shapes that OpenAI's client knows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from orchestrator.api.projection import Projection
from orchestrator.loop import events as log

RESPONSE_ID = "resp_1"
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def accepted(**request: Any) -> log.ResponseAccepted:
    return log.ResponseAccepted(
        RESPONSE_ID,
        at=100.5,
        input=[{"type": "message", "role": "user", "content": "what is 2 + 2?"}],
        request={"model": "desk", **request},
    )


def turn(step: int, attempt: int = 1) -> list[log.AnyEvent]:
    return [
        log.ModelIntent(step, attempt, at=101.0),
        log.ModelRouted(step, attempt, "frontier", "frontier-0", "home", 64),
    ]


def text(step: int, piece: str, attempt: int = 1) -> log.OutputDelta:
    return log.OutputDelta(step, attempt, "text", piece)


def call(step: int, call_id: str, name: str, attempt: int = 1) -> log.OutputDelta:
    return log.OutputDelta(step, attempt, "call", call_id=call_id, name=name)


def arguments(step: int, call_id: str, piece: str, attempt: int = 1) -> log.OutputDelta:
    return log.OutputDelta(step, attempt, "arguments", piece, call_id=call_id)


def answer(step: int, said: str = "", attempt: int = 1, **more: Any) -> log.ModelResult:
    return log.ModelResult(
        step,
        attempt,
        at=102.0,
        text=said,
        prompt_tokens=100,
        cached_tokens=80,
        output_tokens=5,
        cost_usd=0.5,
        uncached_cost_usd=1.0,
        seconds=0.25,
        **more,
    )


def finished(status: log.Status = "completed", code: str = "", why: str = "") -> log.AnyEvent:
    return log.ResponseFinished(RESPONSE_ID, 103.0, status, code, why)


CALCULATOR_RUN: list[log.AnyEvent] = [
    accepted(),
    *turn(1),
    call(1, "call_1", "calculate"),
    arguments(1, "call_1", '{"expression":'),
    arguments(1, "call_1", '"2+2"}'),
    answer(
        1,
        calls=[log.Call("call_1", "calculate", '{"expression":"2+2"}')],
        finish_reason="tool_calls",
    ),
    log.ToolIntent(1, "call_1", "conv_1:1:call_1", 102.0),
    log.ToolResult(1, "call_1", 102.1, "4"),
    *turn(2),
    text(2, "It is"),
    text(2, " 4."),
    answer(2, "It is 4."),
    finished(),
]


def project(events: Sequence[log.AnyEvent]) -> tuple[Projection, list[dict[str, Any]]]:
    projection = Projection(RESPONSE_ID, "conv_1")
    return projection, [emitted for event in events for emitted in projection.feed(event)]


def kinds(emitted: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in emitted]


def test_an_agent_run_streams_its_call_the_tools_result_and_the_answer() -> None:
    _, emitted = project(CALCULATOR_RUN)

    assert kinds(emitted) == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in emitted] == list(range(len(emitted)))


def test_the_final_response_holds_items_usage_and_what_each_turn_took() -> None:
    projection, emitted = project(CALCULATOR_RUN)
    response = projection.response()

    assert emitted[-1]["response"] == response
    assert [item["type"] for item in response["output"]] == [
        "function_call",
        "function_call_output",
        "message",
    ]
    parsed = Response.model_validate(response)
    assert parsed.output_text == "It is 4."
    assert parsed.usage is not None
    assert (parsed.usage.input_tokens, parsed.usage.input_tokens_details.cached_tokens) == (
        200,
        160,
    )
    assert parsed.conversation is not None
    assert parsed.conversation.id == "conv_1"
    first = response["warmloop"]["turns"][0]
    assert (first["model"], first["replica"], first["reason"]) == ("frontier", "frontier-0", "home")
    assert response["warmloop"]["totals"]["cost_usd"] == 1.0
    assert response["warmloop"]["totals"]["uncached_cost_usd"] == 2.0
    assert response["warmloop"]["totals"]["tool_calls"] == 1


def test_a_superseded_attempt_closes_as_incomplete_and_leaves_the_output() -> None:
    projection, emitted = project(
        [
            accepted(),
            *turn(1),
            text(1, "The answ"),
            log.ModelFailed(1, 1, 102.0, "front door died", superseded=True, wasted_tokens=3),
            *turn(1, attempt=2),
            text(1, "The answer is 4.", attempt=2),
            answer(1, "The answer is 4.", attempt=2),
            finished(),
        ]
    )

    done = [event["item"] for event in emitted if event["type"].endswith("output_item.done")]
    assert [item["status"] for item in done] == ["incomplete", "completed"]
    assert done[0]["id"] != done[1]["id"]
    assert Response.model_validate(projection.response()).output_text == "The answer is 4."
    assert projection.response()["warmloop"]["totals"]["wasted_tokens"] == 3


def test_a_call_that_was_cut_is_never_announced_as_done() -> None:
    _, emitted = project(
        [
            accepted(),
            *turn(1),
            call(1, "call_1", "calculate"),
            arguments(1, "call_1", '{"expr'),
            log.ModelFailed(1, 1, 102.0, "engine died"),
            finished("failed", "engine_failed", "engine died"),
        ]
    )

    assert "function_call_arguments.done" not in kinds(emitted)
    assert emitted[-2]["item"]["status"] == "incomplete"


def test_an_answer_through_the_reply_tool_is_message_text_only() -> None:
    projection, emitted = project(
        [
            accepted(),
            *turn(1),
            text(1, "Hel"),
            answer(1, "Hello", calls=[log.Call("call_1", "reply", '{"text":"Hello"}')]),
            finished(),
        ]
    )

    assert [item["type"] for item in projection.response()["output"]] == ["message"]
    deltas = [event["delta"] for event in emitted if "delta" in event]
    assert deltas == ["Hel", "lo"]


def test_blank_lines_before_a_call_make_no_message() -> None:
    projection, _ = project(
        [
            accepted(),
            *turn(1),
            text(1, "\n\n"),
            call(1, "call_1", "look"),
            answer(1, "\n\n", calls=[log.Call("call_1", "look", "{}")]),
            finished(),
        ]
    )

    assert [item["type"] for item in projection.response()["output"]] == ["function_call"]


def test_an_answer_that_was_not_streamed_is_shown_whole() -> None:
    projection, emitted = project([accepted(), *turn(1), answer(1, "4"), finished()])

    assert [event["delta"] for event in emitted if "delta" in event] == ["4"]
    assert Response.model_validate(projection.response()).output_text == "4"


def test_a_truncated_answer_is_an_incomplete_message_of_an_incomplete_response() -> None:
    projection, emitted = project(
        [
            accepted(),
            *turn(1),
            text(1, "Once upon"),
            answer(1, "Once upon", finish_reason="length"),
            finished("incomplete", "max_output_tokens", "the answer was cut"),
        ]
    )

    response = Response.model_validate(projection.response())
    assert emitted[-1]["type"] == "response.incomplete"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "Once upon"


def test_a_cancelled_background_response_ends_its_stream_with_its_status() -> None:
    projection, emitted = project(
        [
            accepted(background=True),
            log.CancelRequested(RESPONSE_ID, 101.0),
            finished("cancelled"),
        ]
    )

    assert kinds(emitted) == ["created", "queued", "incomplete"]
    assert [event["response"]["status"] for event in emitted] == ["queued", "queued", "cancelled"]
    assert projection.response()["completed_at"] is None


def test_a_failure_of_ours_keeps_its_own_code_as_the_errors_type() -> None:
    projection, _ = project([accepted(), finished("failed", "engine_failed", "no engine")])

    error = Response.model_validate(projection.response()).error
    assert error is not None
    assert (error.code, error.type, error.message) == ("server_error", "engine_failed", "no engine")


def test_a_limit_is_told_with_its_value() -> None:
    projection, _ = project(
        [
            accepted(),
            log.LimitReached("turns", 12, 12, 102.0),
            finished("incomplete", "max_turns", "the limit of 12 model turns is reached"),
        ]
    )

    response = projection.response()
    assert response["incomplete_details"]["reason"] == "max_turns"
    assert response["warmloop"]["limit"] == {
        "kind": "turns",
        "value": 12,
        "limit": 12,
        "scope": "response",
        "answered": False,
    }


def test_events_of_other_responses_and_late_ones_are_not_shown() -> None:
    projection = Projection(RESPONSE_ID, "conv_1")
    assert projection.feed(log.ConversationStarted("desk@1", 99.0)) == []
    for event in CALCULATOR_RUN:
        projection.feed(event)
    assert projection.feed(log.CancelRequested(RESPONSE_ID, 104.0)) == []
    assert projection.feed(log.ResponseAccepted("resp_2", 105.0, [])) == []


WORDS = st.text(alphabet='ab {"\\\n\u00e9\U0001f600', max_size=12)


@st.composite
def logs(draw: st.DrawFn) -> list[log.AnyEvent]:
    """Any log of one response that a worker could write, crashes and retries included."""
    rnd = random.Random(draw(st.integers(0, 2**32)))
    events: list[log.AnyEvent] = [accepted(background=draw(st.booleans()))]
    for step in range(1, draw(st.integers(0, 4)) + 1):
        for attempt in range(1, draw(st.integers(1, 3)) + 1):
            events += turn(step, attempt)
            said = draw(WORDS)
            calls = [
                log.Call(f"call_{step}_{attempt}_{i}", "look", draw(WORDS))
                for i in range(draw(st.integers(0, 2)))
            ]
            deltas: list[log.AnyEvent] = [text(step, p, attempt) for p in pieces(rnd, said)]
            for each in calls:
                deltas.append(call(step, each.call_id, each.name, attempt))
                deltas += [
                    arguments(step, each.call_id, p, attempt) for p in pieces(rnd, each.arguments)
                ]
            events += deltas[: draw(st.integers(0, len(deltas)))]
            if draw(st.booleans()):
                reason = draw(st.sampled_from(["stop", "length"]))
                events.append(answer(step, said, attempt, calls=calls, finish_reason=reason))
                for each in calls:
                    events.append(log.ToolIntent(step, each.call_id, "key", 102.0))
                    events.append(log.ToolResult(step, each.call_id, 102.0, draw(WORDS)))
                break
            if draw(st.booleans()):
                events.append(log.ModelFailed(step, attempt, 102.0, "cut", superseded=True))
    endings: list[log.Status] = ["completed", "failed", "cancelled", "incomplete"]
    status = draw(st.sampled_from(endings))
    code = "max_output_tokens" if status == "incomplete" else ""
    return [*events, finished(status, code)]


def pieces(rnd: random.Random, whole: str) -> list[str]:
    cuts = sorted(rnd.randrange(len(whole) + 1) for _ in range(3)) if whole else []
    bounds = [0, *cuts, len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(bounds) if a < b]


@given(logs(), st.data())
def test_any_cut_and_replay_gives_the_same_numbered_events(
    events: list[log.AnyEvent], data: st.DataObject
) -> None:
    _, whole = project(events)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))

    cut = data.draw(st.integers(0, len(events)))
    before, seen = project(events[:cut])
    _, again = project(events)
    assert seen == again[: len(seen)]
    live = [emitted for event in events[cut:] for emitted in before.feed(event)]
    assert [*seen, *live] == whole


@given(logs())
def test_every_event_and_response_is_what_the_openai_client_expects(
    events: list[log.AnyEvent],
) -> None:
    projection, emitted = project(events)
    for event in emitted:
        parsed = STREAM_EVENT.validate_python(event)
        assert parsed.type == event["type"]
    Response.model_validate(projection.response())


@given(logs())
def test_items_open_once_close_once_and_hold_what_was_streamed(
    events: list[log.AnyEvent],
) -> None:
    projection, emitted = project(events)
    opened: dict[int, dict[str, Any]] = {}
    streamed: dict[int, str] = {}
    closed: dict[int, dict[str, Any]] = {}
    for event in emitted:
        index: int = event.get("output_index", -1)
        if event["type"] == "response.output_item.added":
            assert index == len(opened)
            opened[index], streamed[index] = event["item"], ""
        elif event["type"] == "response.output_item.done":
            assert index in opened
            assert index not in closed
            closed[index] = event["item"]
        elif "delta" in event:
            assert index not in closed
            streamed[index] += event["delta"]
    assert opened.keys() == closed.keys()
    ids = [item["id"] for item in closed.values()]
    assert len(set(ids)) == len(ids)
    for index, item in closed.items():
        assert item["id"] == opened[index]["id"]
        if item["type"] == "function_call":
            assert item["arguments"] == streamed[index]
        elif item["type"] == "message":
            assert item["content"][0]["text"] == streamed[index]
    final = projection.response()["output"]
    assert [item for item in closed.values() if item in final] == final


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete", "cancelled"])
def test_every_ending_has_a_final_event_with_its_status(status: log.Status) -> None:
    _, emitted = project([accepted(), *turn(1), text(1, "4"), answer(1, "4"), finished(status)])

    assert emitted[-1]["type"] in ("response.completed", "response.failed", "response.incomplete")
    assert emitted[-1]["response"]["status"] == status
