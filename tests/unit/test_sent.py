"""What is known of a stream that passed."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.http1 import Failed
from router.streams.sent import Sent
from router.streams.sent_messages import SentMessages
from serving.protocol import Usage


def event(**fields: Any) -> bytes:
    base = {"id": "chatcmpl-1", "created": 7, "model": "big", "choices": []}
    return b"data: " + json.dumps(base | fields, ensure_ascii=False).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


ROLE = delta(role="assistant", content="")
DONE = b"data: [DONE]\n\n"


def after(*chunks: bytes, max_text_bytes: int = 1 << 20) -> Sent:
    sent = Sent(max_text_bytes)
    for chunk in chunks:
        sent.feed(chunk)
    return sent


def test_the_text_is_what_all_whole_events_said() -> None:
    told = after(ROLE, delta(content="Hel"), delta(content="lo")).told()
    assert (told.text, told.pieces, told.role, told.problem) == ("Hello", 2, True, "")
    assert told.head is not None
    assert (told.head.id, told.head.created, told.head.model) == ("chatcmpl-1", 7, "big")
    assert not told.finish


def test_a_whole_event_is_passed_on_in_the_chunk_in_which_it_came() -> None:
    sent = Sent(1000)
    for chunk in (ROLE, delta(content="a") + delta(content="b"), DONE):
        assert sent.feed(chunk) == chunk


def test_half_an_event_waits_for_its_end_and_is_dropped_by_a_cut() -> None:
    whole = delta(content="é")
    for cut in range(1, len(whole)):
        sent = after(ROLE)
        assert sent.feed(whole[:cut]) == b""
        assert sent.feed(whole[cut:] + whole[:5]) == whole
        assert sent.told().text == "é"


def test_lines_that_end_with_crlf_are_events_too() -> None:
    whole = delta(content="x").replace(b"\n\n", b"\r\n\r\n")
    sent = Sent(1000)
    assert sent.feed(whole + whole[:9]) == whole
    assert sent.told().text == "x"


@given(st.data())
def test_however_the_bytes_are_cut_the_client_gets_whole_events_and_all_of_them(
    data: st.DataObject,
) -> None:
    texts = data.draw(st.lists(st.text(max_size=20), max_size=30))
    stream = b"".join([ROLE, *(delta(content=t) for t in texts), delta("stop"), DONE])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    sent = Sent(1 << 20)
    out = b""
    for start, end in pairwise([0, *cuts, len(stream)]):
        out += sent.feed(stream[start:end])
        assert not out or out.endswith(b"\n\n")
    assert out + sent.rest() == stream
    assert sent.told().text == "".join(texts)


def test_a_long_stream_is_kept_as_its_text() -> None:
    sent = Sent(1 << 20)
    usage = {"prompt_tokens": 7, "completion_tokens": 5000}
    for _ in range(5000):
        sent.feed(delta(content="four"))
    sent.feed(event(usage=usage) + DONE)
    raw = sum(len(chunk) for chunk in sent._raw)
    assert raw < 64 * 1024
    assert sent.usage() == Usage(7, 0, 5000)
    assert sent.told().text == "four" * 5000
    assert sent.told().pieces == 5000


def test_usage_is_found_though_it_was_read_before_the_end() -> None:
    sent = after(event(usage={"prompt_tokens": 7, "completion_tokens": 3}))
    sent.told()
    sent.feed(DONE)
    assert sent.usage() == Usage(7, 0, 3)


def test_a_text_that_is_too_long_is_not_kept_and_passes_on() -> None:
    sent = Sent(100)
    for _ in range(1000):
        assert sent.feed(delta(content="word ")) == delta(content="word ")
    assert "continue_bytes" in sent.told().problem
    assert sum(len(part) for part in sent._parts) == 0
    assert sum(len(chunk) for chunk in sent._raw) < 64 * 1024


def test_an_event_without_end_is_passed_on_in_the_end() -> None:
    sent = Sent(1000)
    out = b"".join(sent.feed(b"x" * 1000) for _ in range(100))
    assert len(out + sent.rest()) == 100_000
    assert "too long" in sent.told().problem


@pytest.mark.parametrize(
    "said",
    [
        delta(reasoning_content="hm"),
        delta(reasoning="hm"),
        delta(tool_calls=[{"index": 0}]),
        delta(refusal="no"),
        event(choices=[{"index": 1, "delta": {"content": "x"}}]),
        b"data: nonsense\n\n",
        b'data: {"choices":[]}\n\n',
    ],
)
def test_what_is_not_the_plain_text_of_one_choice_is_a_problem(said: bytes) -> None:
    assert after(ROLE, said, delta(content="x")).told().problem


def test_null_and_empty_fields_are_no_problem() -> None:
    said = delta(content="x", tool_calls=None, reasoning=None, refusal=None, reasoning_content="")
    assert after(said, delta(content="y", tool_calls=[])).told().problem == ""


def test_an_engines_failure_in_mid_stream_is_a_cut_and_its_refusal_is_not() -> None:
    failure = b'data: {"error":{"message":"EngineCore died","code":500}}\n\n'
    with pytest.raises(Failed, match="reported an error"):
        after(ROLE).feed(failure)
    for end in (Sent.rest, lambda sent: sent.feed(DONE)):
        sent = after(ROLE)
        assert sent.feed(delta(content="first") + failure) == delta(content="first")
        with pytest.raises(Failed, match="reported an error"):
            end(sent)
        assert sent.told().text == "first"
    refusal = failure.replace(b"500", b"400")
    assert after(ROLE).feed(refusal) == refusal
    quoted = delta(content='data: {"error":{"code":500}}')
    assert after(ROLE).feed(quoted) == quoted


def test_an_error_too_long_to_be_waited_for_passes_as_the_engine_wrote_it() -> None:
    sent = after(ROLE)
    told = b'data: {"error":{"message":"' + b"x" * 70_000
    assert sent.feed(told) == told
    assert sent.feed(b'","code":500}}\n\n') + sent.rest() == b'","code":500}}\n\n'


def test_a_stream_that_just_ends_is_a_cut_unless_the_answer_had_ended() -> None:
    with pytest.raises(Failed, match="before the answer's end"):
        after(ROLE, delta(content="x")).rest()
    assert after(ROLE, delta("stop")).rest() == b""
    assert after(ROLE, DONE).rest() == b""
    assert after(b"data: of some other kind\n\n").rest() == b""


# Messages


def part(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


START = part(
    "message_start",
    message={"id": "msg_1", "model": "big", "usage": {"input_tokens": 9, "output_tokens": 0}},
)
OPENED = part("content_block_start", index=0, content_block={"type": "text", "text": ""})
CLOSED = part("content_block_stop", index=0)
ENDED = part("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOPPED = part("message_stop")


def text_part(text: str) -> bytes:
    return part("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def after_parts(*chunks: bytes) -> SentMessages:
    sent = SentMessages(1 << 20)
    for chunk in chunks:
        assert sent.feed(chunk) == chunk
    return sent


def test_the_text_of_a_message_is_what_its_block_said() -> None:
    told = after_parts(START, OPENED, part("ping"), text_part("Hel"), text_part("lo")).told()
    assert (told.text, told.pieces, told.role, told.blocks, told.in_block) == (
        "Hello",
        2,
        True,
        1,
        True,
    )
    assert told.head is not None
    assert (told.head.id, told.head.model) == ("msg_1", "big")


@pytest.mark.parametrize(
    "more",
    [
        part("content_block_start", index=0, content_block={"type": "tool_use"}),
        part("content_block_delta", index=0, delta={"type": "thinking_delta"}),
        part("of_tomorrow"),
    ],
)
def test_a_message_of_more_than_text_is_not_one(more: bytes) -> None:
    assert after_parts(START, OPENED, more).told().problem


def test_a_message_without_an_end_was_cut_and_one_with_it_was_not() -> None:
    cut = after_parts(START, OPENED, text_part("a"), CLOSED)
    with pytest.raises(Failed):
        cut.rest()
    assert (cut.told().text, cut.told().in_block) == ("a", False)
    whole = after_parts(START, OPENED, text_part("a"), CLOSED, ENDED, STOPPED)
    assert whole.rest() == b""
    assert whole.told().done
    assert whole.usage() == Usage(9, 0, 2)


def test_the_prompts_tokens_of_a_long_message_come_from_its_start() -> None:
    long = after_parts(START, OPENED, *(text_part("word " * 50) for _ in range(200)))
    for chunk in (CLOSED, ENDED, STOPPED):
        long.feed(chunk)
    assert long.usage() == Usage(9, 0, 2)


def test_an_engines_failure_in_a_message_is_a_cut_and_its_refusal_passes() -> None:
    refused = part("error", error={"type": "invalid_request_error", "message": "no"})
    assert after_parts(START).feed(refused) == refused
    failed = part("error", error={"type": "internal_error", "message": "EngineCore died"})
    with pytest.raises(Failed):
        after_parts(START).feed(failed)
    sent = after_parts(START)
    assert sent.feed(OPENED + failed) == OPENED
    with pytest.raises(Failed):
        sent.rest()
