"""Arrays and objects, as a grammar holds them: see rewrite.py for what xgrammar does with which.

A function gives the keywords that the grammar's schema gets, or None where nothing fits.
"""

from __future__ import annotations

from typing import Any

from serving.schemas import regex
from serving.schemas.keywords import KEYWORDS
from serving.schemas.lint import Document, Schema
from serving.schemas.merge import both
from serving.schemas.values import SchemaRefused, child
from serving.schemas.work import Place, Work, refers

MATCH_STEPS = 100_000
COUNTED_PROPERTIES = 8
"""With more optional properties than this, counting them makes a grammar too large."""


def array(  # noqa: PLR0912, PLR0915
    work: Work, schema: Schema, place: Place
) -> Schema | None:
    made: Schema = {}
    low = int(schema.get("minItems", 0))
    if "contains" in schema:
        low = max(low, int(schema.get("minContains", 1)))
    high = int(schema["maxItems"]) if "maxItems" in schema else None
    items = schema.get("items", True)
    prefix = list(schema.get("prefixItems", ()))
    if isinstance(items, list):
        prefix, items = items, schema.get("additionalItems", True)
        work.notes.change(child(place.path, "items"), "a list of items is written as prefixItems")
    if prefix:
        first: list[Schema] = []
        key = "prefixItems" if "prefixItems" in schema else "items"
        for at, sub in enumerate(prefix):
            found = work.rewrite(sub, place.below(key, at))
            if not isinstance(found, dict):
                high, items = min(at, high if high is not None else at), False
                break
            first.append(found)
        if first:
            made["prefixItems"] = first
        if items is True:
            items = False
            work.notes.change(child(place.path, key), "nothing follows the items that are named")
    every = work.rewrite(items, place.below("items"))
    if not isinstance(every, dict):
        ends = len(made.get("prefixItems", ()))
        high = min(ends, high if high is not None else ends)
        made["items"] = False
    elif items is not False:
        made["items"] = every
        if "items" not in schema:
            # With any keyword beside it, xgrammar takes an array without items for an empty one.
            work.notes.change(child(place.path, "items"), "anything, and said so")
    if high is None:
        high = max(work.bounds.max_items, low)
        work.notes.change(child(place.path, "maxItems"), f"no limit was named: {high}")
    if low > high:
        return None
    if "prefixItems" in made and high < len(made["prefixItems"]):
        made["prefixItems"] = made["prefixItems"][:high]
        made["items"] = False
        if not made["prefixItems"]:
            del made["prefixItems"]
    if low:
        made["minItems"] = low
    if "prefixItems" not in made or made.get("items") is not False:
        made["maxItems"] = high
    if schema.get("uniqueItems"):
        made["uniqueItems"] = True
        if high > 1:
            work.notes.after(place.path, "uniqueItems")
    for key in ("contains", "minContains", "maxContains", "unevaluatedItems"):
        if key in schema:
            work.notes.after(place.path, key)
            if refers(schema[key]):
                work.notes.change(child(place.path, key), "checked after: it holds a reference")
            else:
                made[key] = schema[key]
    return made


def object_(work: Work, schema: Schema, place: Place) -> Schema | None:  # noqa: PLR0912, PLR0915
    made: Schema = {}
    given: Schema = dict(schema.get("properties", {}))
    required = list(dict.fromkeys(schema.get("required", ())))
    patterns: Schema = schema.get("patternProperties", {})
    extra = schema.get("additionalProperties", True)
    silent = "additionalProperties" not in schema
    if silent and schema.get("unevaluatedProperties") is False and not patterns:
        extra, silent = False, False
        work.notes.change(
            child(place.path, "unevaluatedProperties"), "as additionalProperties: false"
        )
    elif "unevaluatedProperties" in schema:
        work.notes.after(place.path, "unevaluatedProperties")
    for name in required:
        if name not in given:
            given[name] = _for_name(work.document, patterns, name, extra)
            work.notes.change(child(place.path, "required"), f"{name[:80]!r} gets a property")
    closed = not patterns and (extra is False or (silent and bool(given)))
    if closed and silent:
        work.notes.change(
            child(place.path, "additionalProperties"),
            "false: it names its properties and says nothing of others",
        )
    properties: Schema = {}
    for name, sub in given.items():
        whole = sub
        for text, other in patterns.items():
            if _matches(work.document, text, name):
                whole = both(whole, other)
        found = work.rewrite(whole, place.below("properties", name))
        if isinstance(found, dict):
            properties[name] = found
        elif name in required:
            return None
        else:
            work.notes.change(child(place.path, "properties", name), "nothing fits it: left out")
            if not closed:
                work.notes.after(place.path, "properties")
    names = schema.get("propertyNames", True)
    if "properties" in schema or properties:
        made["properties"] = properties
    if required:
        made["required"] = required
    low = int(schema.get("minProperties", 0))
    high = int(schema["maxProperties"]) if "maxProperties" in schema else None
    if high is not None and high < max(low, len(required)):
        return None
    low = 0 if low <= len(required) else low
    if not closed and _open(work, made, patterns, extra, names, place):
        if high is None:
            high = max(work.bounds.max_properties, low, len(required))
            high += len(properties)
            work.notes.change(child(place.path, "maxProperties"), f"no limit was named: {high}")
    else:
        made["additionalProperties"] = False
        if names is not True:
            work.notes.after(place.path, "propertyNames")
        if low > len(properties):
            return None
        if high is not None and high >= len(properties):
            high = None
    if (low or high is not None) and len(properties) - len(required) > COUNTED_PROPERTIES:
        work.notes.after(place.path, *(("minProperties",) if low else ()))
        work.notes.after(place.path, *(("maxProperties",) if "maxProperties" in schema else ()))
        work.notes.change(place.path, "the number of properties is checked after")
    else:
        if low:
            made["minProperties"] = low
        if high is not None:
            made["maxProperties"] = high
    return made


def _open(  # noqa: PLR0912, PLR0917
    work: Work, made: Schema, patterns: Schema, extra: Any, names: Any, place: Place
) -> bool:
    """Names that the schema does not list: written into `made`; False where there are none."""
    work.notes.after(place.path, "additionalProperties")  # a grammar lets a name stand twice
    if patterns:
        if made.get("properties") or len(patterns) > 1 or extra is not False:
            work.notes.after(place.path, "patternProperties")
        kept: Schema = {}
        for text, sub in patterns.items():
            found = regex.for_grammar(text, work.document.patterns[text].node)
            below = work.rewrite(sub, place.below("patternProperties", text))
            if found is None or not isinstance(below, dict):
                work.notes.after(place.path, "patternProperties")
                work.notes.change(child(place.path, "patternProperties", text), "checked after")
                continue
            if found[0] != text:
                work.notes.change(
                    child(place.path, "patternProperties", text), "its anchors are written out"
                )
            kept[found[0]] = below
        if kept:
            made["patternProperties"] = kept
            made["additionalProperties"] = False
            if extra is not False:
                work.notes.change(
                    child(place.path, "additionalProperties"), "only names that match a pattern"
                )
            if names is not True:
                work.notes.after(place.path, "propertyNames")
            return True
    if extra is False:
        return False
    below = work.rewrite(extra, place.below("additionalProperties"))
    if not isinstance(below, dict):
        return False
    made["additionalProperties"] = below or True
    if names is not True:
        work.notes.after(place.path, "propertyNames")
        kept_names = _names(work, names)
        if kept_names is not None and not made.get("properties"):
            made["propertyNames"] = kept_names
        else:
            work.notes.change(child(place.path, "propertyNames"), "checked after")
    return True


def _names(work: Work, names: Any) -> Schema | None:
    """propertyNames where a grammar can hold it."""
    if not isinstance(names, dict):
        return None
    keys = (names.keys() & KEYWORDS) - {"type"}
    if keys == {"enum"} and all(isinstance(name, str) for name in names["enum"]):
        return {"enum": names["enum"]}
    if keys == {"pattern"}:
        text = names["pattern"]
        found = regex.for_grammar(text, work.document.patterns[text].node)
        return {"pattern": found[0]} if found else None
    return None


def _for_name(document: Document, patterns: Schema, name: str, extra: Any) -> Any:
    """The schema of a property that is required and not listed."""
    found: Any = True
    matched = False
    for text, sub in patterns.items():
        if _matches(document, text, name):
            found, matched = both(found, sub), True
    return found if matched else extra


def _matches(document: Document, text: str, name: str) -> bool:
    try:
        return document.patterns[text].search(name, regex.Steps(MATCH_STEPS))
    except regex.Costly:
        raise SchemaRefused(
            child("/patternProperties", text),
            "patternProperties",
            f"a property's name of {len(name)} characters costs too much to match",
            "use a shorter name, or a simpler pattern",
        ) from None
