"""What is understood of requests, answers and streams."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequest, NotFound, UpstreamError
from serving.protocol import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    ChatAsk,
    SseEvent,
    SseSplitter,
    Usage,
    UsageTail,
    parse,
    role_of,
    split_sse,
    usage_in,
)

HELLO = [{"role": "user", "content": "hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_chat_request_is_understood_and_keeps_its_messages_bytes() -> None:
    raw = b'{"model":"m", "messages":[ {"role":"user",  "content":"hi"} ],"stream":true,"n":[1]}'
    ask = parse(CHAT, raw)
    assert isinstance(ask, ChatAsk)
    assert (ask.model, ask.stream) == ("m", True)
    assert bytes(ask.messages[0]) == b'{"role":"user",  "content":"hi"}'
    assert role_of(ask.messages[0]) == "user"


@pytest.mark.parametrize(
    ("path", "raw", "param", "says"),
    [
        (CHAT, b"", None, "empty"),
        (CHAT, b'{"model":', None, "not valid JSON"),
        (CHAT, b'{"model":"m" "x":1}', None, "not valid JSON"),
        (CHAT, b"[]", None, "one JSON object"),
        (CHAT, b"\xff\xfe", None, "not valid JSON"),
        (CHAT, body(messages=HELLO), "model", "GET /v1/models"),
        (CHAT, body(model="", messages=HELLO), "model", "is empty"),
        (CHAT, body(model=7, messages=HELLO), "model", "expected `str`"),
        (CHAT, body(model="m"), "messages", "is missing"),
        (CHAT, body(model="m", messages=[]), "messages", "is empty"),
        (CHAT, body(model="m", messages={"role": "user"}), "messages", "expected `array`"),
        (CHAT, body(model="m", messages=[*HELLO, "hi"]), "messages[1]", "not an object"),
        (CHAT, body(model="m", messages=HELLO, stream="yes"), "stream", "true or false"),
        (COMPLETIONS, body(model="m"), "prompt", "is missing"),
        (MESSAGES, body(model="m"), "messages", "is missing"),
    ],
)
def test_a_request_that_cannot_be_routed_is_refused_with_its_field_and_the_fix(
    path: str, raw: bytes, param: str | None, says: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(path, raw)
    assert refused.value.param == param
    assert says in refused.value.message


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    deep = b'{"model":"m","messages":[{"content":' + b"[" * 200_000
    with pytest.raises(BadRequest):
        parse(CHAT, deep)


def test_a_path_without_an_engine_route_is_not_found() -> None:
    with pytest.raises(NotFound):
        parse("/v1/embeddings", b"{}")


def test_usage_is_read_in_openai_s_and_in_anthropic_s_form() -> None:
    openai = body(
        usage={
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 8},
        }
    )
    anthropic = body(usage={"input_tokens": 2, "cache_read_input_tokens": 8, "output_tokens": 3})
    assert usage_in(openai) == usage_in(anthropic) == Usage(10, 8, 3)


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"no json", b'{"usage":null}', b'{"usage":7}', b'{"message":"no"}']
)
def test_an_answer_without_usage_has_none(answer: bytes) -> None:
    assert usage_in(answer) is None


def test_missing_cache_details_count_as_nothing_cached() -> None:
    assert usage_in(body(usage={"prompt_tokens": 4, "prompt_tokens_details": None})) == Usage(
        4, 0, 0
    )


STREAM = (
    b": a comment\n\n"
    b"event: first\ndata: 1\n\n"
    b"data: two\ndata: lines\n\n"
    b'data: {"x":"\xc3\xa9"}\r\n\r\n'
    b"data: [DONE]\n\n"
)
EVENTS = [
    SseEvent("first", b"1"),
    SseEvent("", b"two\nlines"),
    SseEvent("", b'{"x":"\xc3\xa9"}'),
    SseEvent("", b"[DONE]"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_stream_is_cut_into_chunks(cuts: list[int]) -> None:
    splitter = SseSplitter()
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert [event for piece in pieces for event in splitter.feed(piece)] == EVENTS


async def test_a_stream_of_chunks_becomes_a_stream_of_events() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield STREAM[:30]
        yield STREAM[30:]

    assert [event async for event in split_sse(chunks())] == EVENTS


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = SseSplitter(max_event_bytes=100)
    with pytest.raises(UpstreamError):
        splitter.feed(b"data: " + b"x" * 200)


def usage_event(**usage: Any) -> bytes:
    return b"data: " + body(choices=[], usage=usage) + b"\n\n"


@given(st.integers(1, 300))
def test_usage_is_found_at_the_end_of_a_stream_in_chunks_of_any_size(size: int) -> None:
    stream = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n' * 100
    stream += usage_event(prompt_tokens=9, completion_tokens=2) + b"data: [DONE]\n\n"
    tail = UsageTail()
    for i in range(0, len(stream), size):
        tail.feed(stream[i : i + size])
    assert tail.usage() == Usage(9, 0, 2)


def test_an_anthropic_stream_s_usage_is_put_together_from_both_ends() -> None:
    tail = UsageTail()
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 7}}}
    tail.feed(b"event: message_start\ndata: " + json.dumps(start).encode() + b"\n\n")
    for _ in range(200):
        tail.feed(b'event: content_block_delta\ndata: {"delta":{"text":"word"}}\n\n')
    delta = {"type": "message_delta", "usage": {"output_tokens": 5}}
    tail.feed(b"event: message_delta\ndata: " + json.dumps(delta).encode() + b"\n\n")
    assert tail.usage() == Usage(7, 0, 5)


def test_the_tail_of_an_endless_stream_stays_small() -> None:
    tail = UsageTail()
    for _ in range(10_000):
        tail.feed(b"data: x\n\n")
    assert sum(map(len, tail._recent)) < 2 * UsageTail.KEEP_BYTES
    assert tail.usage() is None
