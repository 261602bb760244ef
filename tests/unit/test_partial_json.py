"""Streaming one string out of a JSON object."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.partial_json import StringField


def fed(pieces: list[str], name: str = "text") -> str:
    field = StringField(name)
    return "".join(field.feed(piece) for piece in pieces)


def test_text_comes_as_soon_as_it_is_certain() -> None:
    field = StringField("text")
    assert [field.feed(p) for p in ['{"te', 'xt": "Hel', "lo", ' wor"', "}"]] == [
        "",
        "Hel",
        "lo",
        " wor",
        "",
    ]
    assert field.done


def test_an_escape_that_is_cut_waits_for_its_rest() -> None:
    field = StringField("text")
    assert field.feed('{"text":"a\\') == "a"
    assert field.feed("n\\u00") == "\n"
    assert field.feed('e9"}') == "é"


def test_surrogate_pairs_are_joined_and_lone_halves_replaced() -> None:
    assert fed(['{"text":"\\ud83d', '\\ude00"}']) == "😀"
    assert fed(['{"text":"\\ud83dx\\ude00"}']) == "\ufffdx\ufffd"
    assert fed(['{"text":"\\ud83d"}']) == "\ufffd"


def test_other_fields_nested_objects_and_braces_in_strings_are_passed_over() -> None:
    text = '{"a": {"text": "no"}, "b": ["text", "}"], "c": "text", "text": "yes", "d": "no"}'
    assert fed(list(text)) == "yes"


def test_a_field_that_is_no_string_yields_nothing() -> None:
    assert fed(['{"text": 12, "x": "y"}']) == ""
    assert fed(['{"text": ["a"]}']) == ""


@pytest.mark.parametrize("junk", ["", "null", "[]", '"text"', "{]}", '{"text" "a"}', "}}}", "\\"])
def test_what_is_not_an_object_is_survived(junk: str) -> None:
    fed(list(junk))


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.booleans(),
    st.lists(st.integers(min_value=1, max_value=7), min_size=1),
)
def test_joined_pieces_are_the_value_however_the_json_is_cut(
    value: str, ascii_only: bool, cuts: list[int]
) -> None:
    text = json.dumps({"note": value, "text": value, "z": 1}, ensure_ascii=ascii_only)
    pieces, at, turn = [], 0, 0
    while at < len(text):
        pieces.append(text[at : at + cuts[turn % len(cuts)]])
        at += cuts[turn % len(cuts)]
        turn += 1
    assert fed(pieces) == value
