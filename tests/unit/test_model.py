"""From an engine's chunks to a turn's events, and from those to an answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.loop.events import Call, OutputDelta
from orchestrator.model import (
    ArgumentsDelta,
    CallStart,
    ChunkReader,
    Done,
    ModelError,
    ModelEvent,
    ModelTurn,
    Routed,
    RouterModel,
    TextDelta,
)
from orchestrator.worker.answer import Answer
from router.turn import Decision, TurnRequest
from serving.errors import BadRequest, RequestError, Unavailable

DECISION = Decision("small", "small-1", "http://127.0.0.1:1", "home")
TURN = ModelTurn(b"{}", "conv", "req", "tool-call")


def chunk(finish: str | None = None, usage: Any = None, **delta: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta or finish else []
    return json.dumps({"choices": choices, "usage": usage}).encode()


def piece(index: int, name: str | None = None, arguments: str | None = None) -> list[Any]:
    return [{"index": index, "function": {"name": name, "arguments": arguments}}]


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 8},
}


class Engine:
    """A router that answers every turn with these bytes, or refuses."""

    def __init__(self, *body: bytes, status: int = 200, error: RequestError | None = None) -> None:
        self.body = body
        self.status = status
        self.error = error
        self.decision = DECISION
        self.headers: dict[str, str] = {}
        self.asked: list[TurnRequest] = []

    @asynccontextmanager
    async def open(self, turn: TurnRequest) -> AsyncIterator[Engine]:
        self.asked.append(turn)
        if self.error:
            raise self.error
        yield self

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self.body:
            yield part


async def played(engine: Engine) -> list[ModelEvent]:
    return [event async for event in RouterModel(engine).turn(TURN)]


def sse(*data: bytes) -> bytes:
    return b"".join(b"data: " + each + b"\n\n" for each in (*data, b"[DONE]"))


async def test_a_stream_becomes_events_wherever_it_is_cut() -> None:
    stream = sse(
        chunk(role="assistant", content=""),
        chunk(content="Hé"),
        chunk(tool_calls=piece(0, "search", "")),
        chunk(tool_calls=piece(0, None, '{"q":')),
        chunk(tool_calls=piece(0, None, "1}")),
        chunk(finish="tool_calls"),
        chunk(usage=USAGE),
    )
    expected = [
        Routed(DECISION),
        TextDelta("Hé"),
        CallStart("search"),
        ArgumentsDelta('{"q":'),
        ArgumentsDelta("1}"),
        Done("tool_calls", 9, 8, 3),
    ]
    assert await played(Engine(stream)) == expected
    assert await played(Engine(*(stream[i : i + 1] for i in range(len(stream))))) == expected


async def test_the_router_is_told_the_session_and_the_turn_type() -> None:
    engine = Engine(sse(chunk(content="x", finish="stop")))
    await played(engine)
    asked = engine.asked[0]
    assert (asked.session, asked.turn_type, asked.request_id) == ("conv", "tool-call", "req")


@pytest.mark.parametrize(
    ("engine", "code", "retry"),
    [
        (Engine(error=Unavailable("none")), "no_engine_ready", True),
        (Engine(error=BadRequest("bad", code="x")), "x", False),
        (Engine(b"maximum context length is 8", status=400), "context_length_exceeded", False),
        (Engine(b"secret prompt", status=400), "engine_refused", False),
        (Engine(b"", status=503), "engine_refused", True),
        (Engine(sse(chunk(content="x"))), "engine_failed", True),
        (Engine(b"data: nonsense\n\n"), "engine_failed", True),
        (Engine(sse(b'{"error": {"message": "secret"}}')), "engine_failed", True),
    ],
)
async def test_failures_say_whether_asking_again_helps_and_quote_no_content(
    engine: Engine, code: str, retry: bool
) -> None:
    with pytest.raises(ModelError) as caught:
        await played(engine)
    assert (caught.value.code, caught.value.retry) == (code, retry)
    assert "secret" not in str(caught.value)


def test_pieces_of_two_calls_that_mix_are_refused() -> None:
    reader = ChunkReader()
    reader.feed(chunk(tool_calls=piece(0, "a", "{}")))
    reader.feed(chunk(tool_calls=piece(1, "b", "{}")))
    with pytest.raises(ModelError):
        reader.feed(chunk(tool_calls=piece(0, None, "{}")))


def fed(*events: ModelEvent) -> Answer:
    answer = Answer(2, 1)
    for event in events:
        answer.feed(event)
    return answer


def test_deltas_are_coalesced_and_never_repeated() -> None:
    answer = fed(TextDelta("a"), TextDelta("b"))
    assert answer.drain() == [OutputDelta(2, 1, "text", "ab")]
    assert answer.drain() == []
    for event in (CallStart("f"), ArgumentsDelta("{"), CallStart("g")):
        answer.feed(event)
    assert answer.drain() == [
        OutputDelta(2, 1, "call", "{", "call_2_0", "f"),
        OutputDelta(2, 1, "call", "", "call_2_1", "g"),
    ]
    answer.feed(ArgumentsDelta("}"))
    assert answer.drain() == [OutputDelta(2, 1, "arguments", "}", "call_2_1")]


def test_a_reply_streams_as_text_and_stays_a_call() -> None:
    answer = fed(CallStart("reply"), ArgumentsDelta('{"text": "Hel'))
    assert answer.drain() == [OutputDelta(2, 1, "text", "Hel")]
    answer.feed(ArgumentsDelta('lo"}'))
    assert answer.drain() == [OutputDelta(2, 1, "text", "lo")]
    answer.feed(Done("tool_calls"))
    text, calls, _ = answer.whole()
    assert text == "Hello"
    assert calls == [Call("call_2_0", "reply", '{"text": "Hello"}')]


def test_a_truncated_answer_has_no_calls() -> None:
    answer = fed(TextDelta("x"), CallStart("f"), ArgumentsDelta("{}"), Done("length"))
    text, calls, done = answer.whole()
    assert (text, calls, done.finish_reason) == ("x", [], "length")


@pytest.mark.parametrize("events", [[], [TextDelta("x")], [TextDelta(" \n"), Done("stop")]])
def test_an_answer_that_is_cut_or_empty_is_an_error_worth_a_retry(
    events: list[ModelEvent],
) -> None:
    with pytest.raises(ModelError) as caught:
        fed(*events).whole()
    assert caught.value.retry
