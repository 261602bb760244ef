"""Registration decides: a tool's schema is accepted, rewritten or refused with a path."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.schema_shapes import SHAPES, Shape
from serving.schemas import Bounds, Change, Registered, SchemaRefused, register
from tests import random_schemas

TEXT = {"type": "string", "maxLength": 100}
WHOLE = {"type": "integer"}


def tool(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def one(schema: Any) -> tuple[Any, Registered]:
    """What becomes of a single argument's schema."""
    found = register(tool(a=schema))
    return found.schema["properties"].get("a"), found


def paths(found: Registered) -> list[str]:
    return [change.path for change in found.changes]


def refusal(schema: Any, bounds: Bounds | None = None) -> SchemaRefused:
    with pytest.raises(SchemaRefused) as caught:
        register(schema, bounds or Bounds())
    return caught.value


# -- accepted --------------------------------------------------------------------------------------


def test_a_plain_schema_is_accepted_as_it_is_and_covered() -> None:
    schema = tool(
        ["city"],
        city={"type": "string", "description": "where", "maxLength": 80},
        days={"type": "integer", "minimum": 1, "maximum": 7},
        units={"type": "string", "enum": ["C", "F"]},
        share={"type": "number", "minimum": 0, "maximum": 1},
        note={"type": ["string", "null"], "maxLength": 9},
        tags={"type": "array", "items": TEXT, "maxItems": 5},
        exact={"type": "boolean"},
    )
    found = register(schema)
    assert found.schema == schema
    assert found.changes == ()
    assert found.covered
    assert found.unchecked == ()


def test_remarks_for_the_model_stay_and_the_order_of_keys_stays() -> None:
    schema = tool(
        b={"title": "B", "description": "d", "type": "number", "default": 1, "x-own": [1]},
        a={"examples": [1], "type": "integer", "deprecated": True},
    )
    found = register(schema)
    assert json.dumps(found.schema) == json.dumps(schema)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_shape_of_the_corpus_gets_its_verdict_and_its_example_is_valid(shape: Shape) -> None:
    if shape.verdict == "refused":
        refused = refusal(shape.parameters)
        assert refused.path.startswith("/")
        assert refused.suggestion
        return
    found = register(shape.parameters)
    assert ("rewritten" if found.changes else "accepted") == shape.verdict
    assert found.problems(json.dumps(shape.example)) == []


def test_at_most_one_shape_in_twenty_is_refused_and_most_are_covered() -> None:
    kept = [register(shape.parameters) for shape in SHAPES if shape.verdict != "refused"]
    assert len(SHAPES) >= 45
    assert len(kept) >= 0.95 * len(SHAPES)
    assert sum(found.covered for found in kept) >= 0.6 * len(SHAPES)


# -- rewritten -------------------------------------------------------------------------------------


def test_an_object_that_names_its_properties_is_closed_and_this_is_listed() -> None:
    found = register({"type": "object", "properties": {"a": TEXT}})
    assert found.schema["additionalProperties"] is False
    assert paths(found) == ["/additionalProperties"]
    assert found.covered


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_tool_without_parameters_takes_an_empty_object(nothing: Any) -> None:
    found = register(nothing)
    assert found.covered
    assert found.problems("{}") == []
    assert found.problems('{"a": 1}') == ["arguments: 'a' is not one of its properties"]


def test_an_array_without_a_limit_gets_one_and_one_with_a_limit_keeps_it() -> None:
    schema, found = one({"type": "array", "items": TEXT})
    assert schema["maxItems"] == Bounds().max_items
    assert paths(found) == ["/properties/a/maxItems"]
    assert one({"type": "array", "items": TEXT, "maxItems": 500})[0]["maxItems"] == 500
    assert one({"type": "array", "items": TEXT, "minItems": 100})[0]["maxItems"] == 100


def test_a_free_form_object_stays_free_and_gets_a_limit() -> None:
    schema, found = one({"type": "object"})
    assert schema["additionalProperties"] is True
    assert schema["maxProperties"] == Bounds().max_properties
    assert found.unchecked == ("/properties/a/additionalProperties",)


def test_recursion_is_written_out_to_a_depth() -> None:
    node = tool(["v"], v=WHOLE, next={"$ref": "#/$defs/node"})
    found = register({**tool(list={"$ref": "#/$defs/node"}), "$defs": {"node": node}})
    level, depth = found.schema["properties"]["list"], 1
    while "next" in level["properties"]:
        level, depth = level["properties"]["next"], depth + 1
    assert depth == Bounds().max_depth
    assert Change("/$defs/node", "recursion is kept to 4 levels") in found.changes
    assert "$defs" not in found.schema


def test_the_parts_of_an_allof_become_one_schema() -> None:
    schema, found = one(
        {
            "allOf": [
                {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0}}},
                {"properties": {"x": {"maximum": 9}, "y": TEXT}, "required": ["y"]},
            ]
        }
    )
    assert schema["properties"]["x"] == {"type": "integer", "minimum": 0, "maximum": 9}
    assert schema["required"] == ["y"]
    assert found.covered


def test_what_stands_beside_a_union_moves_into_its_branches() -> None:
    schema, found = one(
        {
            "type": "object",
            "properties": {"kind": TEXT},
            "anyOf": [{"required": ["kind"]}, {"properties": {"n": WHOLE}, "required": ["n"]}],
        }
    )
    assert [set(way["properties"]) for way in schema["anyOf"]] == [{"kind"}, {"kind", "n"}]
    assert found.covered


def test_a_oneof_is_covered_where_its_branches_cannot_overlap() -> None:
    kinds = [tool(["k"], k={"const": kind}, x=TEXT) for kind in ("a", "b")]
    assert one({"oneOf": kinds})[1].covered
    assert one({"oneOf": [TEXT, WHOLE]})[1].covered
    schema, found = one({"oneOf": [tool(x=TEXT), tool(y=TEXT)]})
    assert "anyOf" in schema
    assert found.unchecked == ("/properties/a/oneOf",)
    assert found.problems('{"a": {}}') != []
    assert found.problems('{"a": {"x": ""}}') == []


def test_a_condition_becomes_alternatives_that_the_grammar_can_offer() -> None:
    schema = {
        **tool(["how"], how={"enum": ["card", "cash"]}, number=TEXT),
        "if": {"properties": {"how": {"const": "card"}}},
        "then": {"required": ["number"]},
    }
    found = register(schema)
    card, cash = found.schema["anyOf"]
    assert "number" in card["required"]
    assert cash["properties"]["how"] == {"enum": ["cash"]}
    assert found.covered
    needs = register({**tool(a=TEXT, b=TEXT), "dependentRequired": {"a": ["b"]}})
    assert [sorted(way["properties"]) for way in needs.schema["anyOf"]] == [["b"], ["a", "b"]]
    assert needs.covered


def test_values_that_do_not_fit_what_stands_beside_them_are_dropped() -> None:
    schema, found = one({"type": "string", "enum": ["a", "bb", 3, "a"], "maxLength": 1})
    assert schema == {"type": "string", "enum": ["a"]}
    assert found.covered


def test_a_string_without_a_limit_gets_one_and_lengths_are_covered() -> None:
    schema, found = one({"type": "string"})
    assert schema == {"type": "string", "maxLength": Bounds().max_string}
    assert found.changes == (Change("/properties/a/maxLength", "no limit was named: 4096"),)
    assert found.covered
    schema, found = one({"type": "string", "minLength": 1, "maxLength": 280})
    assert schema == {"type": "string", "minLength": 1, "maxLength": 280}
    assert found.changes == ()
    assert found.covered


def test_a_least_length_that_escapes_can_undercut_is_checked_after() -> None:
    schema, found = one({"type": "string", "minLength": 2, "maxLength": 9})
    assert schema == {"type": "string", "minLength": 2, "maxLength": 9}
    assert found.unchecked == ("/properties/a/minLength",)


def test_without_a_grammar_for_lengths_a_short_string_is_a_pattern_and_a_long_one_checked() -> None:
    plain = Bounds(string_lengths=False)
    short = register(tool(a={"type": "string", "minLength": 2, "maxLength": 3}), plain)
    assert short.schema["properties"]["a"] == {"type": "string", "pattern": "^.{2,3}$"}
    assert short.covered
    given = {"type": "string", "maxLength": 280, "description": "what to say"}
    long = register(tool(a=given), plain)
    assert long.schema["properties"]["a"] == {
        "type": "string",
        "description": "what to say (at most 280 characters)",
    }
    assert long.unchecked == ("/properties/a/maxLength",)
    assert register(tool(a={"type": "string"}), plain).changes == ()


def test_a_pattern_is_anchored_for_a_grammar_that_matches_whole_strings() -> None:
    assert one({"type": "string", "pattern": "[0-9]+x"})[0]["pattern"] == "^.*[0-9]+x.*$"
    assert one({"type": "string", "pattern": "^ab"})[0]["pattern"] == "^ab.*$"
    assert one({"type": "string", "pattern": "^a|b"})[1].unchecked == ("/properties/a/pattern",)
    limited = one({"type": "string", "pattern": "^[a-z]+$", "maxLength": 9})[0]
    assert limited == {"type": "string", "pattern": "^[a-z]{1,9}$"}


def test_bounds_that_no_grammar_holds_are_rounded_or_checked_after() -> None:
    schema, found = one({"type": "integer", "minimum": 0.5, "maximum": 9.5})
    assert schema == {"type": "integer", "minimum": 1, "maximum": 9}
    assert found.covered
    schema, found = one({"type": "integer", "maximum": 10**30})
    assert schema == WHOLE
    assert found.unchecked == ("/properties/a/maximum",)
    assert one({"type": "number", "minimum": 0, "exclusiveMinimum": True})[0] == {
        "type": "number",
        "exclusiveMinimum": 0,
    }


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "items": WHOLE, "maxItems": 3, "uniqueItems": True}, "uniqueItems"),
        ({"type": "number", "multipleOf": 0.25}, "multipleOf"),
        ({"type": "string", "format": "date"}, "format"),
        ({"type": "string", "maxLength": 9, "not": {"const": "x"}}, "not"),
        ({"type": "array", "items": WHOLE, "minItems": 1, "maxItems": 2, "contains": {"const": 1}},
         "contains"),
    ],
)  # fmt: skip
def test_what_the_grammar_ignores_stays_for_the_model_to_read(schema: Any, keyword: str) -> None:
    rewritten, found = one(schema)
    assert rewritten == schema
    assert found.unchecked == (f"/properties/a/{keyword}",)
    assert not found.covered


def test_older_spellings_are_understood() -> None:
    schema, found = one({"type": "array", "items": [TEXT, WHOLE], "additionalItems": False})
    assert schema == {"type": "array", "prefixItems": [TEXT, WHOLE], "items": False}
    assert found.problems('{"a": ["x", 1, 2]}') != []
    assert found.problems('{"a": ["x", 1]}') == []


def test_a_required_name_without_a_property_gets_one() -> None:
    found = register({"type": "object", "required": ["id"]})
    assert found.schema["properties"] == {"id": {}}
    assert found.covered


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "string", "pattern": "^(?=.*[0-9])[a-z0-9]+$"}, "/properties/a/pattern"),
        ({"type": "string", "pattern": "(a)\\1"}, "/properties/a/pattern"),
        ({"type": "string", "pattern": "\\bword\\b"}, "/properties/a/pattern"),
        ({"type": "string", "pattern": "((a{30}){30}){30}"}, "/properties/a/pattern"),
        ({"type": "string", "pattern": "["}, "/properties/a/pattern"),
        ({"$ref": "https://example.org/x.json"}, "/properties/a/$ref"),
        ({"$ref": "#/$defs/nowhere"}, "/properties/a/$ref"),
        ({"$ref": "#/properties/a"}, "/properties/a/$ref"),
        ({"type": "text"}, "/properties/a/type"),
        ({"type": []}, "/properties/a/type"),
        ({"type": "integer", "minimum": "0"}, "/properties/a/minimum"),
        ({"type": "string", "required": True}, "/properties/a/required"),
        ({"type": "object", "properties": [1]}, "/properties/a/properties"),
        ({"enum": []}, "/properties/a/enum"),
        ({"anyOf": []}, "/properties/a/anyOf"),
        ({"items": {"items": 3}}, "/properties/a/items/items"),
        ({"not": {"type": "nope"}}, "/properties/a/not/type"),
        ({"$dynamicRef": "#x"}, "/properties/a/$dynamicRef"),
    ],
)
def test_a_schema_that_cannot_be_is_refused_with_the_path_of_the_keyword(
    schema: Any, path: str
) -> None:
    refused = refusal(tool(a=schema))
    assert refused.path == path
    assert refused.keyword == path.rpartition("/")[2]
    assert str(refused).startswith(f"{path}: ")
    assert refused.suggestion in str(refused)


def test_a_refusal_reads_as_a_sentence() -> None:
    assert str(refusal(tool(a={"type": "string", "pattern": "a(?=b)"}))) == (
        "/properties/a/pattern: look-ahead has no grammar; "
        "drop it, or say it in the description instead"
    )


def test_a_required_argument_that_nothing_fits_is_refused_where_it_contradicts_itself() -> None:
    assert refusal(tool(["a"], a={"type": "integer", "minimum": 3, "maximum": 2})).path == (
        "/properties/a"
    )
    endless = tool(["next"], next={"$ref": "#"})
    assert refusal(endless).reason == "nothing fits this part, so no call is valid"


@pytest.mark.parametrize("given", [3, "x", [], {"type": "string"}, False, 1.5])
def test_parameters_that_are_no_object_schema_are_refused(given: Any) -> None:
    assert refusal(given).suggestion


def test_bombs_are_refused_quickly_whatever_they_are_made_of() -> None:
    wide = tool(**{f"p{at}": TEXT for at in range(100_000)})
    assert "larger than" in refusal(wide).reason
    deep: Any = TEXT
    for _ in range(100_000):
        deep = {"type": "array", "items": deep}
    assert "nests deeper" in refusal(tool(a=deep)).reason
    doubling = {f"d{at}": tool(x={"$ref": f"#/$defs/d{at + 1}"}, y={"$ref": f"#/$defs/d{at + 1}"})
                for at in range(30)}  # fmt: skip
    doubling["d30"] = TEXT
    assert "written out" in refusal({**tool(a={"$ref": "#/$defs/d0"}), "$defs": doubling}).reason
    folded = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(30)}
    folded["d30"] = TEXT
    assert "written out" in refusal({**tool(a={"$ref": "#/$defs/d0"}), "$defs": folded}).reason
    either = {"oneOf": [{"const": at} for at in range(3000)]}
    assert register(tool(a=either)).schema
    listed = {"enum": [f"v{at}" for at in range(10_000)]}
    assert register(tool(a=listed)).schema["properties"]["a"] == listed
    many = tool(**{name: {"$ref": "#"} for name in "abcdefghijkl"})
    assert "written out" in refusal(many).reason
    circle = {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, TEXT]}}
    assert register({**tool(x={"$ref": "#/$defs/a"}), "$defs": circle}).schema
    around = {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}
    assert "leads back" in refusal({**tool(x={"$ref": "#/$defs/a"}), "$defs": around}).reason
    holds_itself: dict[str, Any] = tool()
    holds_itself["properties"]["a"] = holds_itself
    assert "nests deeper" in refusal(holds_itself).reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, b"x", {1: 2}, "\ud800"])
def test_what_is_no_json_is_refused(value: Any) -> None:
    assert refusal(tool(a={"const": value})).path.startswith("/properties/a")


def test_bounds_come_from_whoever_registers() -> None:
    tight = Bounds(max_items=3, max_depth=1, max_schema_bytes=200)
    found = register(tool(a={"type": "array", "items": TEXT}), tight)
    assert found.schema["properties"]["a"]["maxItems"] == 3
    assert "200 bytes" in refusal(tool(a={"description": "x" * 300}), tight).reason


# -- whatever comes --------------------------------------------------------------------------------

LETTERS = st.text(alphabet="aé#/$^({[\\ ", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | LETTERS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "$ref", "enum", "pattern", "a"]
            )
            | LETTERS,
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
RANDOM = st.randoms(use_true_random=False)
CALM = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def decided(schema: Any) -> Registered | None:
    """Registered, or refused with all that a refusal says."""
    try:
        found = register(schema)
    except SchemaRefused as error:
        refused = error
    else:
        json.dumps(found.schema, allow_nan=False)
        return found
    assert refused.path == "" or refused.path.startswith("/")
    assert refused.reason
    assert refused.suggestion
    return None


@CALM
@given(JSON)
def test_any_json_is_registered_or_refused(schema: Any) -> None:
    decided(schema)


@CALM
@given(RANDOM)
def test_a_broken_schema_is_registered_or_refused(chance: random.Random) -> None:
    decided(random_schemas.broken(chance))


@CALM
@given(RANDOM)
def test_registration_says_the_same_twice_and_has_nothing_left_to_do(chance: random.Random) -> None:
    schema = random_schemas.tool(chance)
    before = json.dumps(schema)
    found = decided(schema)
    assert json.dumps(schema) == before
    if found is None:
        return
    assert json.dumps(register(schema).schema) == json.dumps(found.schema)
    again = register(found.schema)
    assert again.changes == ()
    assert json.dumps(again.schema) == json.dumps(found.schema)


@CALM
@given(RANDOM)
def test_a_covered_schema_admits_no_value_that_the_given_one_refuses(chance: random.Random) -> None:
    found = decided(random_schemas.tool(chance))
    if found is None or not found.covered:
        return
    rewritten = register(found.schema)
    for _ in range(10):
        arguments = json.dumps(
            {name: random_schemas.value(chance) for name in found.schema.get("properties", {})}
        )
        if not rewritten.problems(arguments):
            assert found.problems(arguments) == []
