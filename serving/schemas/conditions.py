"""Conditions as alternatives: what a grammar cannot ask, it can offer as one of several ways.

    if X then T else E             X and T   |  not X and E
    dependentRequired {a: [b]}     without a |  with a and b

`alternatives` takes one condition out of a schema and gives the ways in which it can hold, and
whether these are all right: "not X" can be said when X is about one property.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.schemas.keywords import KEYWORDS
from serving.schemas.lint import Schema
from serving.schemas.merge import both

MOST_DEPENDENCIES = 2
"""Each one doubles what the model has to read."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """A schema's condition, written as ways to meet it."""

    keywords: tuple[str, ...]
    rest: Schema
    ways: tuple[Any, ...]
    exact: bool
    """Whatever fits one of the ways meets the condition."""


def alternatives(schema: Schema) -> Alternatives | None:
    """The first condition of an object's schema; None without one that can be written so."""
    if schema.get("type") != "object":
        return None
    if "if" in schema and ("then" in schema or "else" in schema):
        return _conditional(schema)
    for key in ("dependentRequired", "dependentSchemas", "dependencies"):
        found = schema.get(key)
        if found and len(found) <= MOST_DEPENDENCIES and _closed(schema):
            return _dependency(schema, key)
    return None


def _conditional(schema: Schema) -> Alternatives:
    rest = {key: value for key, value in schema.items() if key not in ("if", "then", "else")}
    asked, then, other = schema["if"], schema.get("then", True), schema.get("else", True)
    keywords = tuple(key for key in ("if", "then", "else") if key in schema)
    if _says_nothing(then):  # whatever fits `else` is right, with or without `if`
        return Alternatives(keywords, rest, (both(asked, then), other), exact=True)
    refused = _opposites(asked) if _closed(schema) else None
    if refused is None:
        return Alternatives(keywords, rest, (both(asked, then), other), exact=False)
    first = then if _says_nothing(other) else both(asked, then)
    ways = (first, *(both(way, other) for way in refused))
    return Alternatives(keywords, rest, ways, exact=True)


def _opposites(asked: Any) -> tuple[Schema, ...] | None:
    """The ways in which an object does not fit a schema about one property."""
    if not isinstance(asked, dict):
        return None
    said = asked.keys() & KEYWORDS
    properties, required = asked.get("properties", {}), asked.get("required", [])
    names = {*properties, *required}
    if not said <= {"properties", "required", "type"} or len(names) != 1:
        return None
    if asked.get("type", "object") != "object":
        return None
    (name,) = names
    ways: list[Schema] = []
    if name in properties:
        ways.append({"properties": {name: {"not": properties[name]}}, "required": [name]})
    if name in required:
        ways.append({"properties": {name: False}})
    return tuple(ways)


def _dependency(schema: Schema, key: str) -> Alternatives:
    found = dict(schema[key])
    name, needs = next(iter(found.items()))
    del found[name]
    rest = {other: value for other, value in schema.items() if other != key}
    if found:
        rest[key] = found
    present = {"required": [name, *needs]} if isinstance(needs, list) else {"required": [name]}
    way = present if isinstance(needs, list) else both(present, needs)
    return Alternatives((key,), rest, ({"properties": {name: False}}, way), exact=True)


def _closed(schema: Schema) -> bool:
    """Without a name among the properties there is no such property."""
    if "patternProperties" in schema:
        return False
    named = bool(schema.get("properties") or schema.get("required"))
    return schema.get("additionalProperties", not named) is False


def _says_nothing(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and not schema.keys() & KEYWORDS)
