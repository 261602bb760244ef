"""A finished call against its schema: what is found, how it is said, and that it ends."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.schemas import Bounds, register
from serving.schemas.regex import Matcher, Steps, Unsupported, lengths, parse


def problems(schema: Any, value: Any, bounds: Bounds | None = None) -> list[str]:
    """Of one argument, `a`."""
    tool = {"type": "object", "properties": {"a": schema}}
    text = value if isinstance(value, str) else json.dumps({"a": value["a"]})
    return register(tool, bounds or Bounds()).problems(text)


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "integer"}, "x", "a: 'x' is not of type 'integer'"),
        ({"type": "number", "multipleOf": 0.01}, 0.075, "a: 0.075 is not a multiple of 0.01"),
        ({"type": "integer", "maximum": 7}, 9, "a: 9 is above maximum 7"),
        ({"type": "number", "exclusiveMinimum": 0}, 0, "a: 0 is not above 0"),
        ({"uniqueItems": True}, [1, 1.0], "a: an item is there twice, and items must differ"),
        ({"format": "date"}, "2023-02-29", 'a: "2023-02-29" is no date'),
        ({"format": "ipv4"}, "1.2.3.256", 'a: "1.2.3.256" is no ipv4'),
        ({"pattern": "^[0-9]+$"}, "12x", "a: \"12x\" does not match '^[0-9]+$'"),
        ({"items": {"required": ["b"]}}, [{}], "a[0]: 'b' is missing"),
        ({"additionalProperties": False}, {"z": 1}, "a: 'z' is not one of its properties"),
        ({"propertyNames": {"pattern": "^[a-z]$"}}, {"Z": 1}, "a: \"Z\" does not match '^[a-z]$'"),
    ],
)
def test_a_problem_names_the_argument_and_what_is_wrong(schema: Any, value: Any, said: str) -> None:
    assert problems(schema, {"a": value}) == [said]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "number", "multipleOf": 0.01}, 0.07),
        ({"type": "number", "multipleOf": 0.1}, 1e300),
        ({"type": "integer"}, 2.0),
        ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}]),
        ({"format": "date-time"}, "2024-02-29T23:59:60.123456789+05:30"),
        ({"format": "colour"}, "no one knows"),
        ({"pattern": "b"}, "abc"),
        ({"$ref": "#/properties/a/$defs/x", "$defs": {"x": {"type": "null"}}}, None),
    ],
)
def test_what_fits_is_let_through(schema: Any, value: Any) -> None:
    assert problems(schema, {"a": value}) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "the name 'a' is there twice in one object"),
        ('{"a": {"b": 1, "b": 1}}', "the name 'b' is there twice in one object"),
        ('{"a": NaN}', "NaN is no JSON value"),
        ('{"a": -Infinity}', "-Infinity is no JSON value"),
        ('{"a": 1', "not JSON: "),
        ("", "not JSON: "),
        ("[1]", "arguments: [1] is not of type 'object'"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("[" * 100_000, "not JSON that can be read"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "a[0][0]"),
        ('{"a": "' + "x" * 5000 + '"}', "a: 5000 characters, and 4096 is the most"),
        ('{"a": [' + "1," * 99 + "1]}", "a: 100 items, and 64 is the most"),
        ('{"a": "' + "x" * 2_000_000 + '"}', "the arguments are larger than 1048576 bytes"),
    ],
)
def test_what_is_no_call_at_all_is_a_problem_and_never_an_error(text: str, said: str) -> None:
    assert problems({}, text)[0].startswith(said)


def test_half_a_surrogate_pair_gives_a_sentence_that_can_be_sent() -> None:
    for text in ('{"\\ud800": 1, "\\ud800": 2}', '{"a": "\\ud800"}'):
        for said in problems({"pattern": "^x$"}, text):
            assert said.encode("utf-8")


def test_a_limit_that_the_schema_names_wins_over_the_default() -> None:
    assert problems({"type": "string", "maxLength": 9000}, {"a": "x" * 8000}) == []
    assert problems({"type": "array", "maxItems": 200}, {"a": [1] * 150}) == []


def test_unevaluated_properties_are_checked_through_references() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {
                "allOf": [{"$ref": "#/$defs/x"}],
                "properties": {"n": {}},
                "unevaluatedProperties": False,
            }
        },
        "$defs": {"x": {"type": "object", "properties": {"m": {}}}},
    }
    found = register(schema)
    assert found.problems('{"a": {"n": 1, "m": 2}}') == []
    assert found.problems('{"a": {"n": 1, "z": 2}}') != []


def test_a_check_that_would_cost_too_much_ends_with_a_problem() -> None:
    node: Any = {"anyOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/n"}, {"type": "null"}]}
    tree = {"type": "object", "properties": {"next": node}, "additionalProperties": False}
    found = register({"type": "object", "properties": {"a": node}, "$defs": {"n": tree}})
    value: Any = 3
    for _ in range(50):
        value = {"next": value}
    assert found.problems(json.dumps({"a": value})) == [
        "the arguments cost too much to check against this schema"
    ]


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(a*)*b$", "(x+x+)+y", "^(.*)*$"])
def test_a_pattern_that_makes_others_hang_is_matched_in_linear_time(pattern: str) -> None:
    steps = Steps(10**6)
    assert Matcher(parse(pattern)).search("a" * 4000, steps) == (
        re.search(pattern, "a" * 20) is not None
    )


PIECES = [
    "a",
    "b",
    "[ab]",
    "[^a]",
    ".",
    "\\d",
    "\\w",
    "(a|b)",
    "(?:ab)",
    "(a|b|)",
    "\\.",
    "(?:x{2})",
]
ENDS = ["", "*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(ENDS)), min_size=1, max_size=4),
    st.sampled_from(["", "^"]),
    st.sampled_from(["", "$"]),
    st.text(alphabet="abx1._\n", max_size=8),
)
def test_a_pattern_means_what_it_means_elsewhere(
    parts: list[tuple[str, str]], start: str, end: str, text: str
) -> None:
    pattern = start + "".join(piece + times for piece, times in parts) + end
    expected = re.search(pattern.replace("$", "\\Z"), text) is not None
    node = parse(pattern)
    assert Matcher(node).search(text, Steps(10**6)) == expected
    least, most = lengths(node)
    if start and end and expected:
        assert least <= len(text) <= most


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="ab()[]{}|*+?^$\\-.,1:=!<>wdsuxpb", max_size=12))
def test_any_text_is_a_pattern_or_says_why_it_is_none(text: str) -> None:
    try:
        node = parse(text)
    except Unsupported as error:
        refused = error
    else:
        Matcher(node).search("ab", Steps(10**6))
        return
    assert str(refused)
    assert refused.fix
