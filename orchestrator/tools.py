"""Tools: Python functions with a schema, checked arguments, a time limit, and text as a result.

    load("module:function") ─► Tool ┐
                                    ├─ Toolbox.prepare(call) ─► Ready | Refused(text)    no effect
                                    └─ Toolbox.run(ready, key) ─► Ran(outcome, text)     the effect

The schema comes from the function's type hints; what reaches the function has been validated
against it. A model that names a tool that does not exist, or gives arguments that do not fit, gets
a sentence that says what to write instead. What a function returns or raises is data for the
model: never a trace, never evaluated.

A function says how it behaves under repetition with `@tool(kind=...)`; one that does not is
`unsafe`, and after a crash inside it nobody runs it again. An `idempotent` function may take a
keyword `idempotency_key`, which the model does not see.
"""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypeVar

import jsonschema
import msgspec
import pydantic
import pydantic_core
from typing_extensions import TypedDict

from orchestrator.events import Call
from orchestrator.state import ToolKind
from serving import reply
from serving.errors import ConfigError
from serving.schemas import SchemaRefused, register
from serving.sections import nearest

Outcome = Literal["ok", "error", "timeout"]
KEY = "idempotency_key"
THREADS = 32
"""Synchronous tools that run at once; one that never returns holds its thread."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Marker:
    """What `@tool` notes on a function."""

    kind: ToolKind
    timeout_s: float | None


def tool(*, kind: ToolKind, timeout_s: float | None = None) -> Callable[[F], F]:
    """Say how a tool behaves when a call is repeated, and how long it may take."""

    def mark(function: F) -> F:
        function.__warmloop_tool__ = Marker(kind, timeout_s)  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that a model may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments."""
    function: Callable[..., Any]
    arguments: pydantic.TypeAdapter[dict[str, Any]]
    kind: ToolKind = "unsafe"
    timeout_s: float | None = None
    is_async: bool = False
    takes_key: bool = False

    def definition(self) -> dict[str, Any]:
        """As it stands in a chat request."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
                "strict": True,
            },
        }


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A call whose arguments are valid."""

    call: Call
    tool: Tool
    arguments: dict[str, Any]


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A call that must not run, and what the model is told."""

    call: Call
    message: str


class Ran(msgspec.Struct, frozen=True, gc=False):
    """What a call gave."""

    outcome: Outcome
    output: str


def from_function(function: Callable[..., Any]) -> Tool:
    """A tool from a function's name, docstring and type hints. Raises ConfigError."""
    name = function.__name__
    if name == reply.REPLY:
        raise ConfigError(f"tool {name!r}: the name is taken by the built-in tool; rename it")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # a hint is an expression of the user's: anything can go wrong
        raise ConfigError(f"tool {name!r}: its type hints cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    takes_key = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == KEY:
            takes_key = True
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool {name!r}: *args, **kwargs and / have no schema; name them")
        if parameter.name not in hints:
            raise ConfigError(f"tool {name!r}: parameter {parameter.name!r} needs a type hint")
        hint = _described(hints[parameter.name])
        optional = parameter.default is not parameter.empty
        fields[parameter.name] = NotRequired[hint] if optional else hint
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
    marker: Marker = getattr(function, "__warmloop_tool__", Marker("unsafe", None))
    return Tool(
        name=name,
        description=(inspect.getdoc(function) or "").partition("\n")[0],
        parameters=schema,
        function=function,
        arguments=arguments,
        kind=marker.kind,
        timeout_s=marker.timeout_s,
        is_async=inspect.iscoroutinefunction(function),
        takes_key=takes_key,
    )


def _described(hint: Any) -> Any:
    """`Annotated[int, "how many"]`: the string is the parameter's description."""
    if typing.get_origin(hint) is not typing.Annotated:
        return hint
    kind, *notes = typing.get_args(hint)
    notes = [pydantic.Field(description=n) if isinstance(n, str) else n for n in notes]
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


class Toolbox:
    """The tools of one agent."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {each.name: each for each in sorted(tools, key=lambda each: each.name)}
        self._threads: ThreadPoolExecutor | None = None
        self.kinds: Mapping[str, ToolKind] = {t.name: t.kind for t in self._tools.values()}

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    def definitions(self) -> list[dict[str, Any]]:
        """For the request, in the order of their names."""
        return [each.definition() for each in self._tools.values()]

    def prepare(self, call: Call) -> Ready | Refused:
        """Find the tool and check the arguments; has no effect, and gives the same every time."""
        found = self._tools.get(call.name)
        if found is None:
            if call.name == reply.REPLY:
                return Refused(call, reply.REFUSED)
            hint = nearest(call.name, self.names) if self._tools else "there are no tools"
            return Refused(call, f"error: there is no tool {call.name!r}; {hint}")
        try:
            checked = found.arguments.validate_json(call.arguments or "{}")
        except pydantic.ValidationError as error:
            return Refused(call, _explain(found, call.arguments, error))
        return Ready(call, found, checked)

    async def run(self, ready: Ready, key: str, *, timeout_s: float, result_bytes: int) -> Ran:
        """Call the function; returns whatever happens, except that cancelling it cancels."""
        chosen = ready.tool
        arguments = {**ready.arguments, KEY: key} if chosen.takes_key else ready.arguments
        limit_s = chosen.timeout_s or timeout_s
        # `timeout` tells its own expiry from a TimeoutError that the function itself raised.
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                if chosen.is_async:
                    value = await chosen.function(**arguments)
                else:
                    value = await asyncio.get_running_loop().run_in_executor(
                        self._executor(), lambda: chosen.function(**arguments)
                    )
            return Ran("ok", clip(as_text(value), result_bytes))
        except Exception as error:
            if timer.expired():
                note = "" if chosen.kind == "pure" else "; it may still have taken effect"
                return Ran("timeout", f"error: no result within {limit_s:g} s{note}")
            said = f"error: {type(error).__name__}: {error}" if str(error) else repr(error)
            return Ran("error", clip(said, result_bytes))

    def _executor(self) -> ThreadPoolExecutor:
        # Threads of our own: a tool that never returns must not starve the loop's default pool.
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tool")
        return self._threads

    def close(self) -> None:
        """Let go of the threads, without waiting for tools that do not return."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def as_text(value: Any) -> str:
    """A string as it is, anything else as canonical JSON. Raises TypeError for what is neither."""
    if isinstance(value, str):
        # Lone surrogates cannot be stored or sent: they become question marks.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    try:
        return msgspec.json.encode(value, order="sorted").decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        plain = pydantic_core.to_jsonable_python(value)
        return msgspec.json.encode(plain, order="sorted").decode()


def clip(text: str, limit_bytes: int) -> str:
    """Cut a result that is too long, and say so; `limit_bytes` includes the note."""
    if len(text) * 4 <= limit_bytes:
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit_bytes:
        return raw.decode()
    note = f"\n[cut: the result has {len(raw)} bytes, {limit_bytes} are shown]"
    return raw[: max(0, limit_bytes - len(note))].decode("utf-8", "ignore") + note


def _explain(found: Tool, arguments: str, error: pydantic.ValidationError) -> str:
    """Which argument is wrong and what fits. The schema's own words where it has some."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError) as broken:
        said = f"the arguments of {found.name} are not valid JSON ({broken})"
        return f"error: {said}; write one object"
    validator = jsonschema.Draft202012Validator(found.parameters)
    lines = []
    for problem in sorted(validator.iter_errors(value), key=lambda each: each.json_path):
        where = problem.json_path.removeprefix("$").removeprefix(".") or "the arguments"
        lines.append(f"{where}: {problem.message}")
    for detail in () if lines else error.errors(include_url=False, include_context=False):
        lines.append(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}")
    names = ", ".join(found.parameters["properties"]) or "none"
    return clip(f"error: {found.name}: {'; '.join(lines)}. Its arguments: {names}", 2000)
