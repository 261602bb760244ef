"""Does a finished call fit its schema? The check after generation, in bounded time.

jsonschema walks the schema; what could hang it or what it sees too loosely is replaced here:
patterns run in linear time, uniqueItems is one pass, multipleOf is exact, formats are checked, and
every keyword spends from a budget of steps (a recursive union can cost exponentially much).
Older spellings (a list of `items`, boolean exclusive bounds, `dependencies`) keep their meaning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from serving.schemas import formats
from serving.schemas.lint import Document, Schema
from serving.schemas.regex import Costly, Steps
from serving.schemas.values import Bounds

MAX_PROBLEMS = 20
MAX_NESTING = 64
Errors = Iterator[ValidationError]
Keyword = Callable[[Any, Any, Any, Any], Errors]


def errors(document: Document, schema: Any, value: Any, steps: Steps) -> Errors:
    """Why a value does not fit one subschema of a document. Raises Costly, RecursionError."""
    return iter(validator(document, schema, steps).iter_errors(value))


def validator(document: Document, schema: Any, steps: Steps) -> Any:
    """jsonschema's validator of one subschema, with keywords of ours."""

    def matches(pattern: str, text: str) -> bool:
        return document.patterns[pattern].search(text, steps)

    def pattern(_: Any, text: str, instance: Any, __: Any) -> Errors:
        if isinstance(instance, str) and not matches(text, instance):
            yield ValidationError(f"{_short(instance)} does not match {text!r}")

    def pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Errors:
        if isinstance(instance, dict):
            for text, sub in patterns.items():
                for name, value in instance.items():
                    if matches(text, name):
                        yield from validator.descend(value, sub, path=name, schema_path=text)

    def additional_properties(validator: Any, sub: Any, instance: Any, schema: Any) -> Errors:
        if not isinstance(instance, dict):
            return
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, value in instance.items():
            if name in known or any(matches(text, name) for text in patterns):
                continue
            if sub is False:
                yield ValidationError(f"{name[:80]!r} is not one of its properties")
            else:
                yield from validator.descend(value, sub, path=name)

    def ref(validator: Any, reference: str, instance: Any, _: Any) -> Errors:
        yield from validator.descend(instance, document.target(reference))

    def counted(keyword: Keyword) -> Keyword:
        def run(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
            steps.spend()
            yield from keyword(validator, value, instance, schema) or ()

        return run

    keywords = dict(jsonschema.Draft202012Validator.VALIDATORS)
    keywords.update(OWN)
    keywords["$ref"] = ref
    keywords["pattern"] = pattern
    keywords["patternProperties"] = pattern_properties
    keywords["additionalProperties"] = additional_properties
    keywords.pop("$dynamicRef", None)
    made = jsonschema.validators.create(
        meta_schema={},
        validators={name: counted(keyword) for name, keyword in keywords.items()},
        type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER,
        id_of=lambda _: "",
    )
    return made(schema)


def _items(validator: Any, items: Any, instance: Any, schema: Any) -> Errors:
    if not isinstance(instance, list):
        return
    if isinstance(items, list):
        for at, (value, sub) in enumerate(zip(instance, items, strict=False)):
            yield from validator.descend(value, sub, path=at, schema_path=at)
        items, start = schema.get("additionalItems", True), len(items)
    else:
        start = len(schema.get("prefixItems", ()))
    if items is False and len(instance) > start:
        yield ValidationError(f"has {len(instance)} items, and {start} is the most")
        return
    for at in range(start, len(instance)):
        yield from validator.descend(instance[at], items, path=at)


def _unique(_: Any, unique: Any, instance: Any, __: Any) -> Errors:
    if unique and isinstance(instance, list):
        seen = {canonical(value) for value in instance}
        if len(seen) < len(instance):
            yield ValidationError("an item is there twice, and items must differ")


def canonical(value: Any) -> str:
    """Equal JSON values, and only these, give equal text: 1 and 1.0 do, 1 and true do not."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _multiple_of(_: Any, factor: Any, instance: Any, __: Any) -> Errors:
    if not _is_number(instance):
        return
    if isinstance(instance, float) and instance in (float("inf"), float("-inf")):
        yield ValidationError("the number is too large")
    elif abs(Fraction(str(instance))) and Fraction(str(instance)) % Fraction(str(factor)) != 0:
        yield ValidationError(f"{instance} is not a multiple of {factor}")


def _bound(keyword: str, exclusive: str, sign: int, word: str) -> Keyword:
    def check(_: Any, bound: Any, instance: Any, schema: Any) -> Errors:
        open_end = schema.get(exclusive) is True
        if _is_number(instance):
            over = sign * instance - sign * bound
            if over > 0 or (open_end and over == 0):
                yield ValidationError(f"{instance} is {word} {keyword} {bound}")

    return check


def _exclusive(sign: int, word: str) -> Keyword:
    def check(_: Any, bound: Any, instance: Any, __: Any) -> Errors:
        if not isinstance(bound, bool) and _is_number(instance) and sign * instance >= sign * bound:
            yield ValidationError(f"{instance} is not {word} {bound}")

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dependencies(validator: Any, dependencies: Any, instance: Any, _: Any) -> Errors:
    if not isinstance(instance, dict):
        return
    for name, needs in dependencies.items():
        if name not in instance:
            continue
        if isinstance(needs, list):
            for other in needs:
                if other not in instance:
                    yield ValidationError(f"{name!r} needs {other!r} beside it")
        else:
            yield from validator.descend(instance, needs, schema_path=name)


def _format(_: Any, name: str, instance: Any, __: Any) -> Errors:
    known = formats.CHECKS.get(name)
    if known and isinstance(instance, str) and not known(instance):
        yield ValidationError(f"{_short(instance)} is no {name}")


def _required(_: Any, names: Any, instance: Any, __: Any) -> Errors:
    if isinstance(instance, dict):
        for name in names:
            if name not in instance:
                yield ValidationError(f"{name!r} is missing")


OWN: dict[str, Keyword] = {
    "items": _items,
    "uniqueItems": _unique,
    "multipleOf": _multiple_of,
    "minimum": _bound("minimum", "exclusiveMinimum", -1, "below"),
    "maximum": _bound("maximum", "exclusiveMaximum", 1, "above"),
    "exclusiveMinimum": _exclusive(-1, "above"),
    "exclusiveMaximum": _exclusive(1, "below"),
    "dependencies": _dependencies,
    "format": _format,
    "required": _required,
}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


class _Twice(ValueError):
    """A name that stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise _Twice(f"the name {twice[:80]!r} is there twice in one object")
    return found


def _constant(name: str) -> Any:
    raise _Twice(f"{name} is no JSON value")


def _integer(digits: str) -> int:
    if len(digits) > 1000:
        raise _Twice(f"a number of {len(digits)} digits")
    return int(digits)


def problems(document: Document, limits: Bounds, arguments_json: str) -> list[str]:
    """Why a call's arguments must not reach its tool; empty when they may. Never raises."""
    if len(arguments_json.encode("utf-8", "replace")) > limits.max_arguments_bytes:
        return [f"the arguments are larger than {limits.max_arguments_bytes} bytes"]
    try:
        value = json.loads(
            arguments_json,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
        )
    except _Twice as error:
        return [_plain_text(str(error))]
    except json.JSONDecodeError as error:
        return [f"not JSON: {error.msg} at character {error.pos}"]
    except (RecursionError, ValueError):
        return ["not JSON that can be read: it nests too deeply or holds too large a number"]
    found = list(islice(_over_bounds(value, limits), MAX_PROBLEMS))
    if found:
        return [_plain_text(text) for text in found]
    steps = Steps(limits.max_check_steps)
    try:
        for one in errors(document, document.root, value, steps):
            found.append(f"{_where(one)}: {one.message[:400]}")
            if len(found) == MAX_PROBLEMS:
                break
    except (Costly, RecursionError):
        found.append("the arguments cost too much to check against this schema")
    return [_plain_text(text) for text in found]


def _plain_text(text: str) -> str:
    """Half of a surrogate pair, which JSON can hold and UTF-8 cannot, as a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _where(error: ValidationError) -> str:
    text = ""
    for part in error.absolute_path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:80]}" if text else part[:80]
    return text or "arguments"


def _over_bounds(value: Any, limits: Bounds) -> Iterator[str]:
    todo: list[tuple[str, Any, int]] = [("", value, 0)]
    while todo:
        where, node, depth = todo.pop()
        name = where or "arguments"
        if depth > MAX_NESTING:
            yield f"{name[:80]}: nests deeper than {MAX_NESTING} levels"
            return
        if isinstance(node, str) and len(node) > limits.max_string:
            yield f"{name}: {len(node)} characters, and {limits.max_string} is the most"
        elif isinstance(node, list):
            if len(node) > limits.max_items:
                yield f"{name}: {len(node)} items, and {limits.max_items} is the most"
            todo.extend((f"{where}[{at}]", item, depth + 1) for at, item in enumerate(node))
        elif isinstance(node, dict):
            if len(node) > limits.max_properties:
                yield f"{name}: {len(node)} properties, and {limits.max_properties} is the most"
            todo.extend(
                (f"{where}.{key[:80]}" if where else key[:80], item, depth + 1)
                for key, item in node.items()
            )


def limits_for(document: Document, bounds: Bounds) -> Bounds:
    """The bounds that hold in a check: a larger limit that the schema itself names wins."""
    names = {"max_string": "maxLength", "max_items": "maxItems", "max_properties": "maxProperties"}
    names_min = {"max_string": "minLength", "max_items": "minItems"}
    wide = {name: getattr(bounds, name) for name in names}
    for node in _nodes(document):
        for name, keyword in (*names.items(), *names_min.items()):
            wide[name] = max(wide[name], int(node.get(keyword, 0)))
        wide["max_properties"] = max(wide["max_properties"], len(node.get("properties", ())) + 32)
        for text in (*node.get("enum", ()), node.get("const")):
            wide["max_string"] = max(wide["max_string"], len(text) if isinstance(text, str) else 0)
    return replace(bounds, **wide)


def _nodes(document: Document) -> Iterator[Schema]:
    todo: list[Any] = [document.root]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if id(node) in document.pointers:
                yield node
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
