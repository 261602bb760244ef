from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.calls import pseudo as pseudo_calls
from router.calls.pseudo import Found, PseudoCalls

CALL = '{"name": "weather", "arguments": {"city": "Rome {}[] \\"x\\" \\\\ ☂"}}'
ARGUMENTS = {"city": 'Rome {}[] "x" \\ ☂'}


def read(pieces: list[str]) -> list[Found]:
    calls = PseudoCalls({"weather", "clock"})
    found = [part for piece in pieces for part in calls.feed(piece)] + calls.end()
    joined: list[Found] = []
    for part in found:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def cut(text: str, at: list[int]) -> list[str]:
    places = sorted({min(place, len(text)) for place in at} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)]


SPELLINGS = {
    "bare": CALL,
    "fenced": f"```json\n{CALL}\n```",
    "fenced without a language": f"```\n{CALL}```",
    "tagged": f"<tool_call>\n{CALL}\n</tool_call>",
    "tagged without an end": f"<tool_call>{CALL}",
    "braces doubled outside": "{" + CALL + "}",
    "braces doubled at the start": "{" + CALL,
    "braces doubled everywhere": CALL.replace('": {"', '": {{"')
    .replace('"}}', '"}}}')
    .join(("{", "}")),
    "braces doubled in a fence": "```json\n{" + CALL + "}\n```",
    "braces doubled inside": CALL.replace('": {"', '": {{"').replace('"}}', '"}}}'),
    "a list": f"[{CALL}]",
    "a list in a fence": f"```json\n[\n{CALL}\n]\n```",
    "parameters": CALL.replace("arguments", "parameters"),
    "as OpenAI's": f'{{"type": "function", "function": {CALL}}}',
    "in tool_calls": f'{{"tool_calls": [{CALL}]}}',
    "arguments first": json.dumps({"arguments": ARGUMENTS, "name": "weather"}),
    "arguments as a string": json.dumps({"name": "weather", "arguments": json.dumps(ARGUMENTS)}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("before", ["", "Let me see.\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_call_is_found_in_whatever_it_is_wrapped_and_its_marks_are_dropped(
    spelling: str, before: str, size: int
) -> None:
    text = before + SPELLINGS[spelling]
    found = read([text[i : i + size] for i in range(0, len(text), size)])
    *texts, (name, arguments) = found
    assert texts == [before] * bool(before)
    assert (name, json.loads(arguments)) == ("weather", ARGUMENTS)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_place_to_cut_gives_the_same_as_no_cut(spelling: str) -> None:
    text = f"Now.\n{SPELLINGS[spelling]} Then {{1}} and ``` and <tool."
    whole = read([text])
    for at in range(len(text)):
        assert read(cut(text, [at])) == whole, at


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "a set {1, 2} and a [list](http://x) of `code`",
        '```json\n{"city": "Rome"}\n```\nis JSON',
        '{"name": "Bob", "age": 3}',
        '{"name": "weatherman"}',
        '{"name": "weather" , "arguments": ',
        "<tool_call> is a tag",
        "ends with <tool_ca",
        "ends with ```json\n",
        "{{ name }} in a template",
        "{" * 300,
        '{"a":' * 300,
        '{"function":' * 300,
        "[" * 300 + "{",
        '[{"id": 1}, {"id": 2}]',
        "   \n\n  ",
        '{"type": "object", "properties": {}}',
    ],
)
@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_what_is_no_call_is_text_to_the_last_character(text: str, size: int) -> None:
    if text.startswith('{"name": "weather" ,'):
        # It names a tool: a call that is broken, which the reader will not let pass.
        assert read([text]) == [("weather", '{ , "arguments": ')]
        return
    found = read([text[i : i + size] for i in range(0, len(text), size)])
    assert found == [text]


@given(
    st.text(alphabet='{}[]"\\`<tolcal_>: ,nameweather\n', max_size=80),
    st.lists(st.integers(0, 80), max_size=20),
)
def test_the_pieces_do_not_matter(text: str, at: list[int]) -> None:
    assert read(cut(text, at)) == read([text])


@given(st.text(max_size=80), st.lists(st.integers(0, 80), max_size=20))
def test_text_without_a_tools_name_comes_out_as_it_is(text: str, at: list[int]) -> None:
    assert "".join(map(str, read(cut(text, at)))) == text


def test_two_calls_in_one_fence_leave_no_mark() -> None:
    clock = '{"name": "clock", "arguments": {}}'
    text = f"```json\n{clock}\n{clock}\n```\n"
    assert read([*text]) == [("clock", "{}"), ("clock", "{}"), "\n"]


@pytest.mark.parametrize(
    "broken",
    [
        '{"name": "weather", "arguments": {city: "Rome"}}',
        '{"name": "weather", "arguments": {"city": "Rome"}',
        '{"name": "weather", "arguments": {"city": "Ro',
        '```json\n{"name": "weather", "argu',
    ],
)
def test_a_broken_call_is_a_call_whose_arguments_are_no_json(broken: str) -> None:
    [(name, arguments)] = read([*broken])
    assert name == "weather"
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)


def test_text_is_not_held_back_without_a_reason() -> None:
    calls = PseudoCalls({"weather"})
    assert calls.feed("Hello ") == ["Hello "]
    assert calls.feed("{1") == ["{1"]
    assert calls.feed('{"name": "Bo') == ['{"name": "Bo']


@pytest.mark.parametrize(
    "unit",
    ["word ", " ", "`", "{", "[", '{"name": "weather", ', '{"arguments": {"a": "', "<tool_call>",
     '{"arguments": [1], ', "}", "\\", '"', "{1 ", '{"name":', '```json\n{"name": "weather" '],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_the_work_for_a_long_answer_grows_with_its_length(
    unit: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, work = pseudo_calls._scan, 0

    def counted(text: str, at: int, held: pseudo_calls._Held) -> None:
        nonlocal work
        before = held.at
        scan(text, at, held)
        work += held.at - before

    monkeypatch.setattr(pseudo_calls, "_scan", counted)

    def work_for(length: int) -> int:
        nonlocal work
        work = 0
        text = unit * (length // len(unit))
        read([text[i : i + size] for i in range(0, len(text), size)])
        return work

    assert work_for(40_000) <= 3 * work_for(20_000) + 1000


@pytest.mark.parametrize("unit", ["word ", " ", '{"name": "weather", "arguments": {"a": "', "{1 "])
def test_a_long_answer_in_single_characters_comes_to_its_end(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    assert "".join(map(str, read([*text])))
