"""Schemas drawn at random: sensible ones, contradictory ones, and ones that are nothing at all.

Every draw goes through `random.Random`, so a seed names a schema; hypothesis can hand in its own.
"""

from __future__ import annotations

import random
from typing import Any

NAMES = ["a", "b", "id", "größe", 'q"\\', "", "x-y", "a b", "名", "$ref", "type", "n/m~"]
WORDS = ["", "a", "ab", "red", "größe", 'say "x"', "back\\slash", "new\nline", "日本", "😀", "12"]
PATTERNS = ["^[a-z]+$", "^x-[a-z]{1,5}$", "[0-9]", "^(a|bc)*$", "^\\d{2}-\\d{2}$", "a$", "^[^x]$"]
PATTERNS += ["^.{2,4}$", "^\\w+@\\w+$", "^a|b$", "^\\S+$", "^[\\w.-]+$", "^$", "\\.", "^(ab?c+)+$"]
PATTERNS += ["^a|^b", "^(a|b)$|^c$", "^\\\\[a-z]$", '^"', "^[A-Z0-9-]+$", "^\\s?\\D\\W$"]
FORMATS = ["date", "date-time", "time", "email", "uuid", "uri", "ipv4", "ipv6", "hostname"]
FORMATS += ["duration", "uri-reference", "json-pointer", "colour", "regex"]
FORMATS += ["uri-template", "relative-json-pointer"]
TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"]
NOTES = ["title", "description", "default", "examples", "$comment", "deprecated", "x-own"]


def value(chance: random.Random, depth: int = 2) -> Any:
    """Any JSON value."""
    pick = chance.randrange(9 if depth else 7)
    if pick == 7:
        return [value(chance, depth - 1) for _ in range(chance.randrange(3))]
    if pick == 8:
        return {name: value(chance, depth - 1) for name in chance.sample(NAMES, 2)}
    return [
        None,
        chance.random() < 0.5,
        chance.randrange(-20, 20),
        chance.choice([0.5, -1.25, 1e-7, 2.0, 0.1, 1e30]),
        chance.choice([2**53, -(2**63), 10**25]),
        chance.choice(WORDS),
        chance.choice(WORDS),
    ][pick]


def schema(  # noqa: PLR0911
    chance: random.Random, depth: int = 3, *, references: bool = True
) -> Any:
    """A schema that is mostly sensible; references go to #, #/$defs/one and #/$defs/two."""
    if depth <= 0:
        return chance.choice([{"type": "string"}, {"type": "integer"}, {}, True, {"type": "null"}])
    pick = chance.random()
    if pick < 0.02:
        return chance.random() < 0.5
    if pick < 0.08 and references:
        out = {"$ref": chance.choice(["#/$defs/one", "#/$defs/two", "#"])}
        if chance.random() < 0.2:
            out["description"] = "referred"
        return out
    if pick < 0.2:
        key = chance.choice(["anyOf", "oneOf", "allOf"])
        branches = [schema(chance, depth - 1, references=references) for _ in range(2)]
        out = {key: branches}
        if chance.random() < 0.3:
            out.update(typed(chance, depth - 1, references=references))
        return out
    if pick < 0.28:
        out = {"enum": [value(chance) for _ in range(chance.randrange(1, 5))]}
        if chance.random() < 0.4:
            out["type"] = chance.choice(TYPES)
        return out
    if pick < 0.32:
        return {"const": value(chance)}
    return typed(chance, depth, references=references)


def typed(chance: random.Random, depth: int, *, references: bool = True) -> dict[str, Any]:
    """A schema that names a type, or two."""
    names = chance.sample(TYPES, 2 if chance.random() < 0.15 else 1)
    out: dict[str, Any] = {"type": names[0] if len(names) == 1 else names}
    if chance.random() < 0.05:
        del out["type"]
    for name in names:
        _KEYWORDS.get(name, lambda *_: None)(chance, depth, references, out)
    if chance.random() < 0.1:
        out["not"] = schema(chance, 1, references=False)
    if chance.random() < 0.1:
        for key in ("if", "then", "else"):
            out[key] = schema(chance, 1, references=False)
    if chance.random() < 0.2:
        out[chance.choice(NOTES)] = chance.choice(["some words", True, ["x"]])
    return out


def tool(chance: random.Random) -> dict[str, Any]:
    """A tool's parameters: an object, with what its references point at."""
    out: dict[str, Any] = {"type": "object"}
    _object(chance, 3, True, out)
    out["$defs"] = {"one": schema(chance, 2), "two": typed(chance, 2)}
    return out


def broken(chance: random.Random) -> Any:
    """A tool's parameters with one value in them replaced by something arbitrary."""
    out = tool(chance)
    places: list[tuple[Any, Any]] = []
    todo: list[Any] = [out]
    while todo:
        node = todo.pop()
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                todo.append(node[key])
    node, key = chance.choice(places)
    node[key] = value(chance)
    return out


def _object(chance: random.Random, depth: int, references: bool, out: dict[str, Any]) -> None:
    names = chance.sample(NAMES, chance.randrange(4))
    if names or chance.random() < 0.5:
        out["properties"] = {
            name: schema(chance, depth - 1, references=references) for name in names
        }
    if chance.random() < 0.5:
        out["required"] = [name for name in names if chance.random() < 0.5]
        if chance.random() < 0.1:
            out["required"].append(chance.choice(NAMES))
    pick = chance.random()
    if pick < 0.4:
        out["additionalProperties"] = False
    elif pick < 0.5:
        out["additionalProperties"] = schema(chance, depth - 2, references=references)
    if chance.random() < 0.08:
        out["patternProperties"] = {
            chance.choice(PATTERNS): schema(chance, depth - 2, references=references)
        }
    if chance.random() < 0.08:
        out["propertyNames"] = chance.choice(
            [{"pattern": chance.choice(PATTERNS)}, {"maxLength": 3}, {"enum": NAMES[:3]}]
        )
    if chance.random() < 0.1:
        out["minProperties"] = chance.randrange(3)
    if chance.random() < 0.1:
        out["maxProperties"] = chance.randrange(4)
    if chance.random() < 0.08 and len(names) > 1:
        out["dependentRequired"] = {names[0]: [names[1]]}
    if chance.random() < 0.03:
        out["unevaluatedProperties"] = False


def _array(chance: random.Random, depth: int, references: bool, out: dict[str, Any]) -> None:
    if chance.random() < 0.8:
        out["items"] = schema(chance, depth - 1, references=references)
    if chance.random() < 0.15:
        out["prefixItems"] = [
            schema(chance, depth - 1, references=references) for _ in range(chance.randrange(1, 3))
        ]
    if chance.random() < 0.25:
        out["minItems"] = chance.randrange(3)
    if chance.random() < 0.25:
        out["maxItems"] = chance.randrange(5)
    if chance.random() < 0.1:
        out["uniqueItems"] = True
    if chance.random() < 0.06:
        out["contains"] = schema(chance, 1, references=False)


def _string(chance: random.Random, depth: int, references: bool, out: dict[str, Any]) -> None:
    if chance.random() < 0.25:
        out["pattern"] = chance.choice(PATTERNS)
    if chance.random() < 0.2:
        out["format"] = chance.choice(FORMATS)
    if chance.random() < 0.2:
        out["minLength"] = chance.randrange(4)
    if chance.random() < 0.2:
        out["maxLength"] = chance.choice([0, 1, 3, 8, 40, 9000])


def _number(chance: random.Random, depth: int, references: bool, out: dict[str, Any]) -> None:
    bounds = [0, 1, -1, 5, 100, -250, 0.5, -0.25, 1e-7, 0.1234, 10**12, 2**70, 1e300]
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if chance.random() < 0.25:
            out[key] = chance.choice(bounds)
    if chance.random() < 0.15:
        out["multipleOf"] = chance.choice([1, 2, 5, 0.5, 0.01, 7, 1000])


_KEYWORDS = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": _number,
    "integer": _number,
}
