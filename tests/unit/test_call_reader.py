from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engines.tools.call_reader import CallReader


def written(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'


def read(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """What a stream adds up to."""
    reader = CallReader()
    text, calls = "", [("", "")][:0]
    for piece in pieces:
        for event in reader.feed(piece):
            if event.kind == "text":
                text += event.text
            elif event.kind == "name":
                assert event.call == len(calls)
                calls.append((event.text, ""))
            else:
                assert event.call == len(calls) - 1
                calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return text, calls


def cut(text: str, at: list[int]) -> list[str]:
    places = sorted({min(place, len(text)) for place in at} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.dictionaries(st.text(), VALUES, max_size=4)),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.integers(0, 600), max_size=30),
)
def test_calls_come_back_byte_for_byte_however_the_stream_is_cut(
    calls: list[tuple[str, dict[str, object]]], at: list[int]
) -> None:
    dumped = [(name, json.dumps(value, ensure_ascii=False)) for name, value in calls]
    answer = "Let me see.\n" + "\n".join(written(*call) for call in dumped)
    assert read(cut(answer, at)) == ("Let me see.\n", dumped)
    assert CallReader().whole(answer) == ("Let me see.\n", dumped)


def test_an_argument_may_hold_the_tags_themselves() -> None:
    arguments = json.dumps({"text": 'write </tool_call> and <tool_call>\n{"name": "x"}'})
    assert CallReader().whole(written("note", arguments)) == ("", [("note", arguments)])


def test_a_name_is_told_before_its_arguments_begin() -> None:
    reader = CallReader()
    assert reader.feed('<tool_call>\n{"name": "wea') == []
    [event] = reader.feed('ther"')
    assert (event.kind, event.text, event.call) == ("name", "weather", 0)


@pytest.mark.parametrize("tail", ["<tool", "<", "<tool_cal"])
def test_the_beginning_of_a_tag_is_text_when_nothing_follows(tail: str) -> None:
    assert CallReader().whole("a < b " + tail) == ("a < b " + tail, [])


def test_a_call_that_is_cut_short_is_left_out() -> None:
    answer = written("note", '{"text": "half of it"}').partition(" of it")[0]
    assert CallReader().whole(answer) == ("", [])
    assert CallReader().whole(answer.partition(":")[0]) == ("", [])


@pytest.mark.parametrize("tail", ["", "\\", "\\u", "\\u00e"])
def test_a_reply_that_is_cut_short_is_what_there_is_of_its_text(tail: str) -> None:
    answer = written("reply", '{"text": "half\\n' + "@").partition("@")[0] + tail
    [(name, arguments)] = CallReader().whole(answer)[1]
    assert name == "reply"
    assert json.loads(arguments) == {"text": "half\n"}
    assert CallReader().whole(written("reply", '{"te').partition('"te')[0]) == ("", [])


def test_the_line_break_between_two_calls_is_no_text() -> None:
    answer = written("a", "{}") + "\n" + written("b", "{}")
    assert CallReader().whole(answer) == ("", [("a", "{}"), ("b", "{}")])


@pytest.mark.parametrize(
    "beginning",
    [
        "",
        "<tool_call>",
        '<tool_call>{"name": "',
        '<tool_call>{"name": "x"',
        written("x", "{}")[:-12],
    ],
)
@pytest.mark.parametrize("unit", [" ", "a", "{", '"'])
def test_what_never_becomes_a_call_is_not_kept(beginning: str, unit: str) -> None:
    reader = CallReader()
    for char in beginning + unit * 20_000:
        reader.feed(char)
        assert len(reader._rest) <= 1024


def test_arguments_of_a_megabyte_in_small_pieces() -> None:
    arguments = json.dumps({"text": 'a "b" \\ {☂' * 100_000}, ensure_ascii=False)
    answer = written("note", arguments)
    reader = CallReader()
    events = [e for i in range(0, len(answer), 4) for e in reader.feed(answer[i : i + 4])]
    assert events[0].text == "note"
    assert "".join(event.text for event in events[1:]) == arguments
