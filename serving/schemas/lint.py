"""Is this a schema at all, small and closed in itself? Asked before anything is rewritten.

    any JSON value ─► Document   a private copy; every subschema has its pointer, every pattern is
                                 compiled, every reference is known to end inside the document

Nothing here recurses, so no depth of nesting can exhaust a stack; everything is refused with the
pointer of the keyword that is at fault.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from serving.schemas import regex
from serving.schemas.keywords import (
    COUNTS,
    LISTED_SCHEMAS,
    NAMED_SCHEMAS,
    NUMBERS,
    ONE_SCHEMA,
    TYPES,
)
from serving.schemas.values import Bounds, SchemaRefused, child

Schema = dict[str, Any]
MAX_INPUT_NESTING = 60

NO_MEANING = ("$dynamicRef", "$recursiveRef")


@dataclass(slots=True)
class Document:
    """A schema that is well formed."""

    root: Schema
    pointers: dict[int, str] = field(default_factory=dict)
    """`id` of each subschema in `root` → its JSON pointer."""
    anchors: dict[str, Schema] = field(default_factory=dict)
    patterns: dict[str, regex.Matcher] = field(default_factory=dict)

    def target(self, reference: str) -> Any:
        """What a local reference points at. Raises LookupError."""
        fragment = reference
        own = self.root.get("$id", self.root.get("id"))
        if isinstance(own, str) and own and reference.startswith(own.rstrip("#")):
            fragment = reference[len(own.rstrip("#")) :] or "#"
        if not fragment.startswith("#"):
            raise LookupError(reference)
        if fragment[1:] in self.anchors:
            return self.anchors[fragment[1:]]
        if fragment != "#" and not fragment.startswith("#/"):
            raise LookupError(reference)
        node: Any = self.root
        for raw in fragment.split("/")[1:]:
            key = _unescape(raw)
            if isinstance(node, list):
                node = node[int(key)] if key.isdigit() and int(key) < len(node) else None
            else:
                node = node.get(key) if isinstance(node, dict) else None
            if node is None:
                raise LookupError(reference)
        return node


def _unescape(raw: str) -> str:
    plain = re.sub("%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), raw)
    return plain.replace("~1", "/").replace("~0", "~")


def read(schema: Schema, bounds: Bounds) -> Document:
    """Raises SchemaRefused."""
    _check_json(schema, bounds)
    document = Document(json.loads(json.dumps(schema)))
    nodes = _subschemas(document)
    for path, node in nodes:
        if isinstance(node.get("$anchor"), str):
            document.anchors.setdefault(node["$anchor"], node)
        _compile_all(path, node, document, bounds)
    _check_together(nodes)
    for path, node in nodes:
        if "$ref" in node:
            _check_reference(path, node["$ref"], document)
    return document


def _subschemas(document: Document) -> list[tuple[str, Schema]]:
    """Every subschema that is an object, with its pointer; each is well formed by itself."""
    found: list[tuple[str, Schema]] = []
    todo: list[tuple[str, Any]] = [("", document.root)]
    while todo:
        path, node = todo.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise SchemaRefused(
                path,
                path.rpartition("/")[2],
                f"a schema is an object or a boolean, not {_kind(node)}",
                "write it as an object",
            )
        document.pointers[id(node)] = path
        _check_keywords(path, node)
        found.append((path, node))
        todo.extend(reversed(_children(path, node)))
    return found


def _check_together(nodes: list[tuple[str, Schema]]) -> None:
    """What is fine by itself and not in one document."""
    patterned = any("patternProperties" in node for _, node in nodes)
    referring = any("$ref" in node for _, node in nodes)
    for path, node in nodes:
        for key in ("unevaluatedItems", "unevaluatedProperties"):
            if key in node and patterned:
                raise SchemaRefused(
                    child(path, key),
                    key,
                    "it cannot be checked in bounded time beside patternProperties",
                    "use additionalProperties instead",
                )
        if path and referring and isinstance(node.get("$id"), str):
            raise SchemaRefused(
                child(path, "$id"),
                "$id",
                "a schema with an address of its own, in a schema with references",
                "drop the inner $id, and refer to #/$defs/NAME",
            )


def _check_json(schema: Schema, bounds: Bounds) -> None:
    todo: list[tuple[str, Any, int]] = [("", schema, 0)]
    size = 0
    while todo:
        path, node, depth = todo.pop()
        keyword = path.rpartition("/")[2]
        size += len(node) + 2 if isinstance(node, str) else 4
        if size > bounds.max_schema_bytes:
            raise SchemaRefused(
                path,
                keyword,
                f"the schema is larger than {bounds.max_schema_bytes} bytes up to here",
                "split the tool, or describe the values instead of listing them",
            )
        if depth > MAX_INPUT_NESTING:
            raise SchemaRefused(
                path,
                keyword,
                f"the schema nests deeper than {MAX_INPUT_NESTING} levels",
                "make it flatter",
            )
        if isinstance(node, dict):
            for key, value in node.items():
                if not isinstance(key, str) or not _encodable(key):
                    raise SchemaRefused(path, keyword, f"{key!r} is no JSON name", "use text")
                size += len(key) + 4
                todo.append((child(path, key), value, depth + 1))
        elif isinstance(node, list | tuple):
            todo.extend((child(path, i), value, depth + 1) for i, value in enumerate(node))
        elif isinstance(node, float) and not math.isfinite(node):
            raise SchemaRefused(path, keyword, f"{node} is no JSON number", "use a finite number")
        elif isinstance(node, int) and abs(node) > 10**300:
            raise SchemaRefused(path, keyword, "a number beyond 1e300", "use a smaller number")
        elif not isinstance(node, str | int | float | None) or (
            isinstance(node, str) and not _encodable(node)
        ):
            raise SchemaRefused(path, keyword, f"{_kind(node)} is no JSON value", "use plain JSON")


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _children(path: str, node: Schema) -> list[tuple[str, Any]]:
    found = [(child(path, key), node[key]) for key in ONE_SCHEMA if key in node]
    for key in LISTED_SCHEMAS:
        found += [(child(path, key, i), sub) for i, sub in enumerate(node.get(key, ()))]
    for key in NAMED_SCHEMAS:
        found += [(child(path, key, name), sub) for name, sub in node.get(key, {}).items()]
    if isinstance(node.get("items"), list):
        found += [(child(path, "items", i), sub) for i, sub in enumerate(node["items"])]
    elif "items" in node:
        found.append((child(path, "items"), node["items"]))
    for name, sub in node.get("dependencies", {}).items():
        if not isinstance(sub, list):
            found.append((child(path, "dependencies", name), sub))
    return found


def _check_keywords(path: str, node: Schema) -> None:
    for key, value in node.items():
        wrong = _wrong(key, value, node)
        if wrong:
            raise SchemaRefused(child(path, key), key, *wrong)


def _wrong(key: str, value: Any, node: Schema) -> tuple[str, str] | None:  # noqa: PLR0911, PLR0912
    """What is wrong with one keyword's value, and what to do; None where nothing is."""
    if key in NO_MEANING:
        return f"{key} needs a document that is not here", "use $ref to #/$defs/NAME"
    if key == "type":
        names = value if isinstance(value, list) else [value]
        if not names:
            return "an empty list of types admits nothing", "name a type"
        for name in names:
            if name not in TYPES:
                return f"{name!r} is no JSON type", f"use one of {', '.join(TYPES)}"
    if key in LISTED_SCHEMAS and not (isinstance(value, list) and value):
        return f"{key} is a list of at least one schema", "give it one, or drop it"
    if key in (*NAMED_SCHEMAS, "dependencies") and not isinstance(value, dict):
        return f"{key} is an object of schemas, not {_kind(value)}", "write it as an object"
    if key == "enum" and not (isinstance(value, list) and value):
        return "enum is a list of at least one value", "list the values, or drop it"
    if key == "required" and not _names(value):
        if isinstance(value, bool):
            return "required is a list of names, not a boolean", "name it in the object's required"
        return "required is a list of names", 'write it as ["name"]'
    if key == "dependentRequired" and not (
        isinstance(value, dict) and all(map(_names, value.values()))
    ):
        return "dependentRequired maps a name to a list of names", 'write {"a": ["b"]}'
    if key == "dependencies" and any(
        isinstance(sub, list) and not _names(sub) for sub in value.values()
    ):
        return "a dependency is a list of names or a schema", 'write {"a": ["b"]}'
    if key in COUNTS and not (_is_number(value) and value == int(value) and value >= 0):
        return f"{key} is a whole number from 0, not {_shown(value)}", "write it as a number"
    if key in NUMBERS and not _is_number(value):
        if isinstance(value, bool) and key.startswith("exclusive"):
            return None if not value or key[9:].lower() in node else ("no bound", "add one")
        return f"{key} is a number, not {_shown(value)}", "write it as a number"
    if key == "multipleOf" and value <= 0:
        return "multipleOf is above 0", "use a positive number"
    if key in ("pattern", "format", "$ref") and not isinstance(value, str):
        return f"{key} is text, not {_kind(value)}", "write it as text"
    return None


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return repr(value) if _is_number(value) else _kind(value)


def _compile_all(path: str, node: Schema, document: Document, bounds: Bounds) -> None:
    if "pattern" in node:
        _compile(child(path, "pattern"), "pattern", node["pattern"], document, bounds)
    for text in node.get("patternProperties", ()):
        where = child(path, "patternProperties", text)
        _compile(where, "patternProperties", text, document, bounds)


def _compile(path: str, key: str, text: str, document: Document, bounds: Bounds) -> None:
    if text in document.patterns:
        return
    try:
        node = regex.parse(text)
    except regex.Unsupported as error:
        raise SchemaRefused(path, key, str(error), error.fix) from None
    if regex.states(node) > bounds.max_pattern_states:
        raise SchemaRefused(
            path,
            key,
            f"the pattern, written out, has more than {bounds.max_pattern_states} states",
            "use a smaller count, or maxLength beside a plain pattern",
        )
    document.patterns[text] = regex.Matcher(node)


def _check_reference(path: str, reference: str, document: Document) -> None:
    try:
        target = document.target(reference)
    except LookupError:
        outside = "is outside of this schema, and nothing is fetched"
        where = "points at nothing" if reference.startswith("#") else outside
        raise SchemaRefused(
            child(path, "$ref"),
            "$ref",
            f"{reference[:200]!r} {where}",
            "define it under $defs and refer to #/$defs/NAME",
        ) from None
    if not isinstance(target, bool) and id(target) not in document.pointers:
        raise SchemaRefused(
            child(path, "$ref"),
            "$ref",
            f"{reference[:200]!r} does not point at a schema",
            "define it under $defs and refer to #/$defs/NAME",
        )
