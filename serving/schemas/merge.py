"""Two schemas that both hold, as one: `allOf`, and what stands beside a `$ref` or an `anyOf`.

    combine(a, b) ─► (one schema, the keywords of b that have no place in it)

A subschema that both name becomes an `allOf` of the two, to be combined when it is reached; so
nothing here recurses. A keyword that cannot be combined stays as `a` has it, and b's is reported:
a grammar of the result admits more than both, and the check after must see to it.
"""

from __future__ import annotations

from typing import Any

from serving.schemas.check import canonical
from serving.schemas.keywords import KEYWORDS, TYPES
from serving.schemas.lint import Schema

GREATEST = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
LEAST = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")
MOST_BRANCHES = 64
LISTED = ("if", "then", "else")


def both(a: Any, b: Any) -> Any:
    """A schema that holds where both hold."""
    if a is False or b is False:
        return False
    if a is True or a == {}:
        return b
    if b is True or b == {}:
        return a
    return {"allOf": [a, b]}


def combine(a: Schema, b: Schema) -> tuple[Schema, tuple[str, ...]]:
    """Both as one schema, and which keywords of `b` were left out. Neither holds $ref or allOf."""
    out, lost = dict(a), []
    for key, value in b.items():
        if key == "properties" or (key == "additionalProperties" and key in a):
            out.setdefault(key, value)
        elif key not in out:
            out[key] = value
        elif not _joined(out, key, value):
            lost.append(key)
    if "properties" in out:
        out["properties"] = _properties(a, b)
    if "additionalProperties" in a and "additionalProperties" in b:
        out["additionalProperties"] = both(a["additionalProperties"], b["additionalProperties"])
    if any(key in a for key in LISTED) and any(key in b for key in LISTED):
        lost.extend(key for key in LISTED if key in b)
    if "items" in a and "items" in b and ("prefixItems" in a) != ("prefixItems" in b):
        lost.append("items")
    return out, tuple(dict.fromkeys(lost))


def _properties(a: Schema, b: Schema) -> Schema:
    mine, theirs = a.get("properties", {}), b.get("properties", {})
    out: Schema = {}
    for name in (*mine, *(name for name in theirs if name not in mine)):
        here = mine[name] if name in mine else _extra(a)
        there = theirs[name] if name in theirs else _extra(b)
        out[name] = both(here, there)
    return out


def _extra(schema: Schema) -> Any:
    # With patterns beside it, what a further name must satisfy depends on the name.
    return True if "patternProperties" in schema else schema.get("additionalProperties", True)


def _joined(out: Schema, key: str, value: Any) -> bool:  # noqa: PLR0911
    mine = out[key]
    if mine is value or (type(mine) is type(value) and canonical(mine) == canonical(value)):
        return True
    if key not in KEYWORDS:
        return True
    if isinstance(mine, bool) != isinstance(value, bool) and key.startswith("exclusive"):
        return False
    match key:
        case "type":
            out["type"] = _types(mine, value)
            return True
        case "required":
            out[key] = list(dict.fromkeys((*mine, *value)))
            return True
        case "enum":
            kept = {canonical(item) for item in value}
            out[key] = [item for item in mine if canonical(item) in kept]
            return True
        case "uniqueItems":
            out[key] = mine or value
            return True
        case "items":
            if isinstance(mine, list) or isinstance(value, list):
                return False
            out[key] = both(mine, value)
            return True
        case "propertyNames":
            out[key] = both(mine, value)
            return True
    if key in GREATEST and not isinstance(value, bool):
        out[key] = max(mine, value)
        return True
    if key in LEAST and not isinstance(value, bool):
        out[key] = min(mine, value)
        return True
    return False


def _types(mine: Any, theirs: Any) -> Any:
    here = mine if isinstance(mine, list) else [mine]
    there = theirs if isinstance(theirs, list) else [theirs]
    kept = [name for name in here if name in there or (name == "integer" and "number" in there)]
    kept += [name for name in there if name == "integer" and "number" in here and name not in kept]
    return kept[0] if len(kept) == 1 else kept


def disjoint(branches: list[Schema]) -> bool:
    """Whether no value can fit two branches: other types, or other constants under one name.

    Of more than MOST_BRANCHES it says no, since it compares each with each.
    """
    return len(branches) <= MOST_BRANCHES and all(
        _apart(a, b) for at, a in enumerate(branches) for b in branches[at + 1 :]
    )


def _apart(a: Schema, b: Schema) -> bool:
    if "anyOf" in a or "anyOf" in b:
        return False
    mine, theirs = _value_set(a), _value_set(b)
    if mine is not None and theirs is not None:
        return not mine & theirs
    if not _kinds(a) & _kinds(b):
        return True
    if _kinds(a) == _kinds(b) == {"object"}:
        shared = set(a.get("required", ())) & set(b.get("required", ()))
        for name in shared:
            here, there = a["properties"].get(name, {}), b["properties"].get(name, {})
            one, other = _value_set(here), _value_set(there)
            if one is not None and other is not None and not one & other:
                return True
    return False


def _value_set(schema: Schema) -> set[str] | None:
    if "const" in schema:
        return {canonical(schema["const"])}
    return {canonical(value) for value in schema["enum"]} if "enum" in schema else None


def _kinds(schema: Schema) -> set[str]:
    kinds = set(_listed(schema)) or set(TYPES)
    return {"number" if kind == "integer" else kind for kind in kinds}


def _listed(schema: Schema) -> list[str]:
    found = schema.get("type", [])
    return list(found) if isinstance(found, list) else [found]
