"""The schema that an engine gets: what xgrammar enforces right stays, the rest is checked after.

    Document ─► Rewriter ─► schema, changes, unchecked

Every rule here comes from experiments with xgrammar 0.2.8, not from its documentation; the
differential test (tests/integration/test_schema_grammars.py) holds them against the real one.

| xgrammar                                     | so here                                   |
|----------------------------------------------|-------------------------------------------|
| `$ref` loses what stands beside it, and a    | written out in place; recursion is kept   |
|   cycle has no end                           |   to a depth                              |
| `allOf` of several is "anything"             | combined into one schema                  |
| what stands beside `anyOf`, `enum`, `const`  | moved into the branches; values that do   |
|   is ignored                                 |   not fit are dropped                     |
| `oneOf` is `anyOf`                           | exact where branches cannot overlap,      |
|                                              |   else checked after                      |
| with a length, a string can hold no line     | kept where the engine's grammar is ours   |
|   break, quote or backslash, may hold raw    |   (`Bounds.string_lengths`), else a       |
|   control characters, and takes seconds to   |   pattern, or checked after               |
|   compile                                    |                                           |
| a pattern matches the whole string           | anchors written out                       |
| `if`, `dependent...` are ignored             | written as alternatives where possible    |
| `uniqueItems`, `contains`, `not`, most of    | kept for the model to read, checked after |
|   `multipleOf` are ignored                   |                                           |
| `false`, `items` as a list, and bounds that  | rewritten, or removed and checked after   |
|   are no 64-bit whole numbers are refused    |                                           |
| an array with any keyword and without        | `items` written out                       |
|   `items` is the empty one                   |                                           |
| a required name without a property is        | gets a property                           |
|   ignored                                    |                                           |
| a name may stand twice in a free-form object | checked after                             |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.schemas import check, containers, regex, scalars
from serving.schemas.check import canonical
from serving.schemas.conditions import alternatives
from serving.schemas.keywords import KEYWORDS, OF_TYPE, ONLY_FOR_REFERENCES
from serving.schemas.lint import Document, Schema
from serving.schemas.merge import both, combine, disjoint
from serving.schemas.values import Bounds, SchemaRefused, child
from serving.schemas.work import NEVER, Never, Notes, Place, refers, types_of

READ_ONLY = ("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies")
"""Ignored by the grammar, understood by a model: kept, and checked after."""


@dataclass(slots=True)
class Rewriter:
    document: Document
    bounds: Bounds
    notes: Notes = field(default_factory=Notes)
    nodes: int = 0
    dead_ends: int = 0
    dead_end: str = ""
    """Pointer of the part that nothing fits, found last."""

    def root(self) -> Schema:
        """The whole schema. Raises SchemaRefused."""
        node = self.document.root
        types = types_of(node)
        if types and "object" not in types:
            raise SchemaRefused(
                "/type", "type", "a call's arguments are an object", 'use {"type": "object"}'
            )
        whole = node if types == ["object"] else both(node, {"type": "object"})
        found = self.rewrite(whole, Place(""))
        if types != ["object"] and isinstance(found, dict):
            self.notes.change("", 'arguments are an object: "type": "object"')
        if not isinstance(found, dict):
            raise SchemaRefused(
                self.dead_end,
                self.dead_end.rpartition("/")[2],
                "nothing fits this part, so no call is valid",
                "drop what contradicts itself or never ends",
            )
        if "type" not in found:
            found = {"type": "object", **found}
        return found

    # -- one subschema -------------------------------------------------------------------------

    def rewrite(self, node: Any, place: Place) -> Schema | Never:
        """One subschema as the grammar must see it."""
        before = self.dead_ends
        found = self.one(node, place)
        if not isinstance(found, dict) and self.dead_ends == before:
            self.dead_end = self.document.pointers.get(id(node), place.path)
            self.dead_ends += 1
        return found

    def count(self, place: Place) -> None:
        self.nodes += 1
        if self.nodes > self.bounds.max_nodes:
            raise SchemaRefused(
                place.path,
                place.path.rpartition("/")[2],
                f"written out, the schema has more than {self.bounds.max_nodes} parts",
                "refer less often, or use fewer branches",
            )

    def one(self, node: Any, place: Place) -> Schema | Never:  # noqa: PLR0911
        self.count(place)
        if place.level > self.bounds.max_nesting:
            raise SchemaRefused(
                place.path,
                place.path.rpartition("/")[2],
                f"written out, it nests deeper than {self.bounds.max_nesting} levels",
                "make it flatter",
            )
        if node is False:
            return NEVER
        if node is True:
            return {}
        path = self.document.pointers.get(id(node), place.path)
        flat = self.flatten(node, Place(path, place.level, place.trail), ())
        if flat is None:
            return NEVER
        schema, place = flat
        if "enum" in schema or "const" in schema:
            return self.values(schema, place)
        condition = alternatives(schema)
        if condition is not None:
            first = condition.keywords[0]
            if not condition.exact:
                self.notes.after(place.path, *condition.keywords)
            self.notes.change(child(place.path, first), "written as alternatives")
            return self.union(condition.rest, condition.ways, first, place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                rest = {name: value for name, value in schema.items() if name != key}
                return self.union(rest, schema[key], key, place)
        return self.typed(schema, place)

    def flatten(  # noqa: PLR0912
        self, node: Schema, place: Place, entered: tuple[int, ...]
    ) -> tuple[Schema, Place] | None:
        """A subschema without $ref and allOf; None where nothing fits."""
        out = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
        parts: list[Any] = list(node.get("allOf", ()))
        if "$ref" in node:
            parts.insert(0, self.document.target(node["$ref"]))
        if not parts:
            return out, place
        entered_here: dict[int, None] = {}
        for at, part in enumerate(parts):
            trail = place.trail
            if part is False:
                return None
            if part is True:
                continue
            referred = "$ref" in node and at == 0
            path = self.document.pointers.get(id(part), place.path)
            self.count(place)
            if referred:
                if id(part) in entered:
                    raise SchemaRefused(
                        child(place.path, "$ref"),
                        "$ref",
                        f"{node['$ref'][:200]!r} leads back to itself and says nothing on the way",
                        "give it a type of its own",
                    )
                if trail.count(id(part)) >= self.bounds.max_depth:
                    return None
                if trail.count(id(part)) == 1:
                    self.notes.change(path, f"recursion is kept to {self.bounds.max_depth} levels")
                self.notes.change(
                    child(place.path, "$ref"), "the reference is written out in place"
                )
                trail = (*trail, id(part))
            elif id(node) in self.document.pointers:
                self.notes.change(
                    child(place.path, "allOf"), "its parts are combined into one schema"
                )
            inner = self.flatten(
                part,
                Place(path, place.level, trail),
                (*entered, id(part)),
            )
            if inner is None:
                return None
            flat, reached = inner
            entered_here.update(dict.fromkeys(reached.trail[len(place.trail) :]))
            out, lost = combine(out, flat)
            self.notes.after(path, *lost)
        if "type" in out and not types_of(out):
            return None
        whole = place.path
        if "$ref" in node and len(node.keys() & KEYWORDS) == 1:
            whole = self.document.pointers.get(id(parts[0]), place.path)
        return out, Place(whole, place.level, (*place.trail, *entered_here))

    def union(self, schema: Schema, ways: Sequence[Any], key: str, place: Place) -> Schema | Never:
        """`schema` in each of several ways; `key` is the keyword that they come from."""
        notes = _clean({name: value for name, value in schema.items() if not _constrains(name)})
        rest = {name: value for name, value in schema.items() if _constrains(name)}
        kept: list[Schema] = []
        for at, way in enumerate(ways):
            found = self.rewrite(both(way, rest), place.below(key, at))
            if isinstance(found, dict):
                kept.append(found)
        if key in ("anyOf", "oneOf"):
            if any(not _holds(way, rest) for way in ways):
                what = "what stands beside it is moved into its branches"
                self.notes.change(child(place.path, key), what)
            if len(kept) < len(ways):
                what = "branches that nothing fits are dropped"
                self.notes.change(child(place.path, key), what)
        if key == "oneOf":
            if not disjoint(kept):
                self.notes.after(place.path, "oneOf")
            what = "anyOf in the grammar: xgrammar has no oneOf"
            self.notes.change(child(place.path, "oneOf"), what)
        if not kept:
            return NEVER
        if len(kept) == 1:
            return {**kept[0], **notes}
        return {**notes, "anyOf": kept}

    def values(self, schema: Schema, place: Place) -> Schema | Never:
        key = "enum" if "enum" in schema else "const"
        given = schema["enum"] if key == "enum" else [schema["const"]]
        steps = regex.Steps(self.bounds.max_check_steps)
        beside = {name: value for name, value in schema.items() if name != key}
        fits = check.validator(self.document, beside, steps) if _constraints(beside) else None
        kept, seen = [], set()
        try:
            for value in given:
                if canonical(value) in seen:
                    continue
                seen.add(canonical(value))
                if fits is None or next(fits.iter_errors(value), None) is None:
                    kept.append(value)
        except (regex.Costly, RecursionError):
            raise SchemaRefused(
                child(place.path, key),
                key,
                "its values cost too much to check against what stands beside them",
                "list only the values, without further keywords",
            ) from None
        written = [value for value in map(_whole, kept) if _printable(value)]
        dropped = len(given) - len(written)
        if dropped:
            self.notes.change(
                child(place.path, key),
                f"{dropped} left out: repeated, not fitting, or not to be written exactly",
            )
        if not written:
            return NEVER
        notes = {name: value for name, value in schema.items() if not _constrains(name)}
        out = _clean(notes)
        types = types_of(schema)
        if types:
            out["type"] = schema["type"]
        if key == "const" or (len(written) == 1 and "const" in schema):
            out["const"] = written[0]
        else:
            out["enum"] = written
        return _ordered(out, schema)

    def typed(self, schema: Schema, place: Place) -> Schema | Never:  # noqa: PLR0912
        types = types_of(schema)
        if not types:
            types = [name for name, keys in OF_TYPE.items() if any(key in schema for key in keys)]
            if types:
                names = ", ".join(types)
                self.notes.change(child(place.path, "type"), f"its keywords are about: {names}")
        out = _clean({name: value for name, value in schema.items() if not _constrains(name)})
        for key in READ_ONLY:
            if key in schema:
                self.notes.after(place.path, key)
                if refers(schema[key]):
                    self.notes.change(child(place.path, key), "checked after: it holds a reference")
                else:
                    out[key] = schema[key]
        if not types:
            return _ordered(out, schema)
        if "number" in types:
            types = [name for name in types if name != "integer"]
        left: list[str] = []
        for name in dict.fromkeys(types):
            made: Schema | None
            match name:
                case "object":
                    made = containers.object_(self, schema, place)
                case "array":
                    made = containers.array(self, schema, place)
                case "string":
                    made = scalars.string(self, schema, place, out)
                case "number" | "integer":
                    made = scalars.number(self, schema, place, whole=name == "integer")
                case _:
                    made = {}
            if made is not None:
                left.append(name)
                out.update(made)
        if not left:
            return NEVER
        if len(left) < len(types) and "type" in schema:
            self.notes.change(child(place.path, "type"), f"only {', '.join(left)} can be written")
        out["type"] = left[0] if len(left) == 1 else left
        return _ordered(out, schema)


def _holds(way: Any, rest: Schema) -> bool:
    """Whether a branch already says all that stands beside it."""
    return not rest or (
        isinstance(way, dict)
        and all(key in way and canonical(way[key]) == canonical(rest[key]) for key in rest)
    )


def _constrains(name: str) -> bool:
    return name in KEYWORDS


def _constraints(schema: Schema) -> list[str]:
    return [name for name in schema if _constrains(name)]


def _clean(notes: Schema) -> Schema:
    """Remarks without what only a reference needs."""
    return {name: value for name, value in notes.items() if name not in ONLY_FOR_REFERENCES}


def _ordered(out: Schema, schema: Schema) -> Schema:
    """In the order of the given keys, new ones behind."""
    first = [key for key in schema if key in out]
    return {key: out[key] for key in (*first, *(key for key in out if key not in schema))}


def _whole(value: Any) -> Any:
    """1.0 as 1: the same number, and the one that a grammar writes."""
    if isinstance(value, float) and value.is_integer() and abs(value) < scalars.MAX_INTEGER:
        return int(value)
    return value


def _printable(value: Any) -> bool:
    """Whether a grammar writes this value exactly; numbers outside of these come out otherwise."""
    todo = [value]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
        elif isinstance(node, float):
            if not scalars.exact_bound(node, whole=False):
                return False
        elif isinstance(node, int) and not isinstance(node, bool) and abs(node) >= 2**63:
            return False
    return True
