"""How sure a small model was of a call's arguments, and what is seen of the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.tiers import confidence
from serving.protocol import SseSplitter

FORCED = 0.0


def tokens(*parts: tuple[str, float]) -> list[tuple[bytes, float]]:
    return [(text.encode(), logprob) for text, logprob in parts]


def answer(**message: Any) -> dict[str, Any]:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion", "choices": [choice], "usage": {"x": 1}}


def judged(said: dict[str, Any], **options: Any) -> confidence.Judged:
    options = {"wants_json": False, "keep_logprobs": False, **options}
    found = confidence.judged(json.dumps(said).encode(), **options)
    assert found is not None
    return found


def test_only_the_values_of_arguments_count() -> None:
    call = tokens(
        ("<tool_call>", FORCED), ('{"name": "', FORCED), ("weather", -3.0),
        ('", "arguments": {"', FORCED), ("city", -4.0), ('": "', FORCED), ("Lis", -1.0),
        ("bon", -0.5), ('", "days', FORCED), ('": ', FORCED), ("3", -0.3), ("}}", FORCED),
    )  # fmt: skip
    assert confidence.argument_logprob(call) == pytest.approx(-1.8 / 3)


def test_the_envelope_of_required_calls_is_read_too() -> None:
    call = tokens(('[{"name":"f","parameters":{"a":', FORCED), ("true", -2.0), ("}}]", FORCED))
    assert confidence.argument_logprob(call) == -2.0


def test_all_calls_count_and_a_reply_does_not() -> None:
    def one(name: str, logprob: float) -> list[tuple[bytes, float]]:
        begin = '<tool_call>{"name": "' + name + '", "arguments": {"a": "'
        return tokens((begin, FORCED), ("x", logprob), ('"}}</tool_call>', FORCED))

    assert confidence.argument_logprob(one("f", -1.0) + one("g", -3.0)) == -2.0
    assert confidence.argument_logprob(one("reply", -9.0)) is None


@pytest.mark.parametrize("text", ["", "no call", '{"name": "f", "arguments": {}}', '{"name": "f"'])
def test_where_there_are_no_values_nothing_is_said(text: str) -> None:
    assert confidence.argument_logprob(tokens((text, -5.0))) is None


def test_a_character_may_be_cut_by_its_tokens() -> None:
    parts = tokens(('{"name": "f", "arguments": {"a": "', FORCED))
    parts += [(b"\xc3", -1.0), (b"\xa9", -2.0)]
    assert confidence.argument_logprob(parts + tokens(('"}}', FORCED))) == -1.5


def test_log_probabilities_that_nobody_asked_for_are_not_shown() -> None:
    said = answer(tool_calls=[{"id": "1", "function": {"name": "f", "arguments": '{"a":"b"}'}}])
    content = [
        {"token": '{"name":"f","arguments":{"a":"', "logprob": 0.0, "bytes": None},
        {"token": "b", "logprob": -0.7, "bytes": [98]},
        {"token": '"}}', "logprob": 0.0, "bytes": None},
    ]
    said["choices"][0]["logprobs"] = {"content": content}
    looked = judged(said)
    assert (looked.problem, looked.logprob) == ("", -0.7)
    assert looked.answer["choices"][0]["logprobs"] is None
    assert judged(said, keep_logprobs=True).answer == said


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": [{"token": "x"}]}])
def test_an_engine_without_log_probabilities_is_judged_by_validity(logprobs: Any) -> None:
    said = answer(tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}])
    said["choices"][0]["logprobs"] = logprobs
    assert (judged(said).problem, judged(said).logprob) == ("", None)


def test_an_empty_answer_and_broken_json_are_problems() -> None:
    assert judged(answer(content=" ")).problem == "empty"
    assert judged(answer(content="words")).problem == ""
    assert judged(answer(content="words"), wants_json=True).problem == "no-json"
    assert judged(answer(content='{"a": 1}'), wants_json=True).problem == ""


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[7]}'])
def test_what_is_no_completion_is_not_judged(body: bytes) -> None:
    assert confidence.judged(body, wants_json=False, keep_logprobs=False) is None


def test_a_held_request_is_whole_and_asks_for_log_probabilities() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"z": [1.0]}'
    wished = confidence.wish(body)
    assert wished == confidence.Wish(stream=True, usage=True, logprobs=False, choices=1)
    asked = confidence.held(body, logprobs=True)
    assert asked == b'{"model":"m","stream":false,"z":[1.0],"logprobs":true}'
    assert confidence.wish(b'{"stream": 7}') is None


def test_a_whole_answer_becomes_the_stream_that_was_asked_for() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    stream = confidence.as_stream(answer(content=None, tool_calls=[call]), usage=True)
    *events, done = [event.data for event in SseSplitter().feed(stream)]
    chunks = [json.loads(event) for event in events]
    assert done == b"[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    delta = chunks[0]["choices"][0]["delta"]
    assert delta == {"role": "assistant", "tool_calls": [{"index": 0, **call}]}
    assert chunks[1]["choices"][0]["finish_reason"] == "tool_calls"
    assert (chunks[2]["choices"], chunks[2]["usage"]) == ([], {"x": 1})
    assert b'"usage"' not in confidence.as_stream(answer(content="x"), usage=False)
