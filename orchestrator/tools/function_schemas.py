"""What a function's hints and docstring say about its arguments and its result.

    hints ─► a TypedDict ─► JSON schema, registered; the check of a call's arguments
    the return annotation ─► JSON schema; the check of a result

The check of arguments is pydantic's, strict; when it fails, what is wrong is told in the schema's
own words where it has some.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from typing import Any

import jsonschema
import msgspec
import pydantic
from typing_extensions import TypedDict

from orchestrator.tools.base import Check, Later, Refused, ToolOutput
from orchestrator.tools.errors import INVALID_ARGUMENTS, error_text
from serving.errors import ConfigError
from serving.schemas import SchemaRefused, register

SCHEMALESS = (Any, None, type(None), inspect.Signature.empty, ToolOutput, Later, object)
YIELDING = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator)


def parameters_of(
    name: str, fields: dict[str, Any]
) -> tuple[pydantic.TypeAdapter[dict[str, Any]], dict[str, Any]]:
    try:
        # A TypedDict, not a model: parameters may have any name, and defaults stay the function's.
        make: Any = TypedDict  # called with names that only a run knows
        shape = make("Arguments", fields)
        shape.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True)
        arguments: pydantic.TypeAdapter[dict[str, Any]] = pydantic.TypeAdapter(shape)
        schema = _without_titles(arguments.json_schema())
    except Exception as error:
        raise ConfigError(f"tool {name!r}: no JSON schema for its parameters: {error}") from None
    schema.setdefault("properties", {})
    schema["additionalProperties"] = False
    try:
        register(schema)  # now, and not when the first turn is refused for it
    except SchemaRefused as refused:
        raise ConfigError(f"tool {name!r}: its parameters{refused}") from None
    return arguments, schema


def described(hint: Any, told: str) -> Any:
    """`Annotated[int, "how many"]`: the string is the parameter's description."""
    if typing.get_origin(hint) is not typing.Annotated:
        if not told:
            return hint
        return typing.Annotated[hint, pydantic.Field(description=told)]
    kind, *notes = typing.get_args(hint)
    notes = [pydantic.Field(description=n) if isinstance(n, str) else n for n in notes]
    if told and not any(getattr(note, "description", None) for note in notes):
        notes.append(pydantic.Field(description=told))
    return typing.Annotated[(kind, *notes)]


def _without_titles(schema: Any, *, names: bool = False) -> Any:
    """Drop the titles that pydantic makes up: tokens that tell the model nothing. Where the keys
    are names of properties (`names`), one may well be called "title"."""
    if isinstance(schema, list):
        return [_without_titles(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value, names=not names and key in ("properties", "$defs"))
        for key, value in schema.items()
        if names or key != "title" or not isinstance(value, str)
    }


def check_of(
    name: str, adapter: pydantic.TypeAdapter[dict[str, Any]], schema: dict[str, Any]
) -> Check:
    def check(arguments: str) -> dict[str, Any] | Refused:
        try:
            return adapter.validate_json(arguments or "{}")
        except pydantic.ValidationError as error:
            return Refused(error_text(INVALID_ARGUMENTS, _why(name, schema, arguments, error)))

    return check


def _why(name: str, schema: dict[str, Any], arguments: str, error: pydantic.ValidationError) -> str:
    """Which argument is wrong and what fits. The schema's own words where it has some."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError) as broken:
        return f"the arguments of {name} are not valid JSON ({broken}); write one object"
    validator = jsonschema.Draft202012Validator(schema)
    lines = []
    for problem in sorted(validator.iter_errors(value), key=lambda each: each.json_path):
        where = problem.json_path.removeprefix("$").removeprefix(".") or "the arguments"
        lines.append(f"{where}: {problem.message}")
    for detail in () if lines else error.errors(include_url=False, include_context=False):
        lines.append(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}")
    names = ", ".join(schema["properties"]) or "none"
    return f"{name}: {'; '.join(lines)[:1500]}. Its arguments: {names}"


def output_of(annotation: Any) -> tuple[dict[str, Any] | None, Callable[[str], str] | None]:
    """The schema of what a function returns, and the check of a result as JSON."""
    if typing.get_origin(annotation) in YIELDING:
        args = typing.get_args(annotation)
        plain = typing.get_origin(annotation) is Generator and args[2:] not in ((), (None,))
        annotation = args[2] if plain and args[2] is not type(None) else args[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        # `int | ToolOutput`: what is inside a ToolOutput is checked by the rest.
        kept = [each for each in typing.get_args(annotation) if each not in (ToolOutput, Later)]
        annotation = typing.Union[tuple(kept)] if kept else Any  # noqa: UP007 - made at run time
    if annotation in SCHEMALESS:
        return None, None
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
        schema = _without_titles(adapter.json_schema(mode="serialization"))
    except Exception:  # a class that has no schema: its values are told as they come
        return None, None
    if schema == {"type": "string"}:
        return schema, None  # text is shown as it is, whatever it is

    def check(value_json: str) -> str:
        try:
            adapter.validate_json(value_json)
        except pydantic.ValidationError as error:
            detail = error.errors(include_url=False, include_context=False)[0]
            return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix(": ")
        return ""

    return schema, check
