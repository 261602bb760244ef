"""What the load benchmark reads: tokens at their times, usage, and what is wrong with an answer."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load_stream import CUT, IN_STREAM, NO_TOKENS, UNREADABLE, Reader

DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 32},
}
WHOLE = [
    chunk(role="assistant", content=""),
    chunk(content="grüß "),
    b": a comment\n\n",
    chunk(reasoning_content="hm"),
    chunk(content="dich"),
    chunk("stop"),
    event(choices=[], usage=USAGE),
    DONE,
]


def read(*pieces: bytes) -> Reader:
    """Each a second after the one before it."""
    reader = Reader()
    for second, piece in enumerate(pieces):
        reader.feed(float(second), piece)
    return reader


def test_tokens_have_the_times_of_their_chunks_and_a_role_alone_is_none() -> None:
    reader = read(*WHOLE)
    assert reader.error() == ""
    assert reader.token_s == [1.0, 3.0, 4.0]
    assert reader.text == "grüß dich"
    assert (reader.prompt_tokens, reader.cached_tokens, reader.output_tokens) == (40, 32, 3)


@given(st.lists(st.integers(1, len(b"".join(WHOLE)) - 1), max_size=12))
def test_it_reads_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    whole = b"".join(WHOLE)
    ends = [0, *sorted(set(cuts)), len(whole)]
    reader = read(*(whole[a:b] for a, b in pairwise(ends)))
    assert reader.error() == ""
    assert reader.text == "grüß dich"
    assert len(reader.token_s) == 3
    assert reader.token_s == sorted(reader.token_s)


def test_parts_of_calls_are_tokens() -> None:
    reader = read(chunk(tool_calls=[{"index": 0, "function": {"name": "f"}}]), DONE)
    assert reader.error() == ""
    assert len(reader.token_s) == 1


def test_a_server_that_does_not_say_what_was_cached_is_not_taken_for_one_without_a_cache() -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": None}
    assert read(*WHOLE[:6], event(choices=[], usage=usage), DONE).cached_tokens is None


def test_a_model_that_stops_at_once_answered_when_it_stopped() -> None:
    reader = read(chunk(role="assistant", content=""), chunk("stop"), event(usage=USAGE), DONE)
    assert reader.error() == ""
    assert (reader.token_s, reader.text) == ([1.0], "")


def test_what_is_wrong_is_named() -> None:
    assert read(*WHOLE[:4]).error() == CUT
    assert read().error() == CUT
    assert read(chunk("stop"), DONE).error() == NO_TOKENS
    assert read(*WHOLE[:3], event(error={"message": "the replica died"}), DONE).error() == IN_STREAM
    assert read(b"data: {not json\n\n", DONE).error() == UNREADABLE
    assert read(b'data: {"choices": "no list"}\n\n').error() == UNREADABLE


def test_of_what_is_no_answer_the_beginning_is_kept() -> None:
    reader = read(b'{"error": ', b"x" * 10_000)
    assert reader.said.startswith(b'{"error": xxx')
    assert len(reader.said) == 2048
