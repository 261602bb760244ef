"""A tool of a Python function: its schema from type hints and docstring, its call made uniform.

    def f(...)               runs in a thread of the tool's own
    async def f(...)         runs on the loop
    (async) def with yield   each value is progress that a watcher sees; the last is the result
                             (a plain generator's `return` wins over it)

What reaches the function has been validated against its hints. Parameters that the model does not
see: `idempotency_key`, and one annotated as `ToolContext`. Descriptions come from
`Annotated[T, "..."]`, else from the docstring (Google, NumPy or reST style). The return annotation
is the result's schema: what does not fit it never reaches the model as a result.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import typing
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, NotRequired

import docstring_parser

from orchestrator.tools.base import (
    Invoke,
    Marker,
    Tool,
    ToolContext,
)
from orchestrator.tools.function_schemas import check_of, described, output_of, parameters_of
from serving import reply
from serving.errors import ConfigError

KEY = "idempotency_key"
THREADS = 32
"""Calls of a synchronous tool that run at once; one that never returns holds its thread."""


def from_function(function: Callable[..., Any]) -> Tool:
    """A tool from a function's name, docstring and type hints. Raises ConfigError."""
    name = function.__name__
    if name == reply.REPLY:
        raise ConfigError(f"tool {name!r}: the name is taken by the built-in tool; rename it")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # a hint is an expression of the user's: anything can go wrong
        raise ConfigError(f"tool {name!r}: its type hints cannot be read: {error}") from None
    doc = docstring_parser.parse(inspect.getdoc(function) or "")
    told = {each.arg_name: each.description or "" for each in doc.params}
    fields: dict[str, Any] = {}
    hidden: dict[str, str] = {}
    """Parameters that the model does not see → what they get."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == KEY:
            hidden[KEY] = "key"
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool {name!r}: *args, **kwargs and / have no schema; name them")
        if parameter.name not in hints:
            raise ConfigError(f"tool {name!r}: parameter {parameter.name!r} needs a type hint")
        if hints[parameter.name] is ToolContext:
            hidden[parameter.name] = "context"
            continue
        hint = described(hints[parameter.name], told.get(parameter.name, ""))
        optional = parameter.default is not parameter.empty
        fields[parameter.name] = NotRequired[hint] if optional else hint
    arguments, schema = parameters_of(name, fields)
    marker: Marker = getattr(function, "__warmloop_tool__", Marker())
    if (marker.kind == "queryable") != (marker.lookup is not None):
        raise ConfigError(
            f"tool {name!r}: kind 'queryable' and lookup=function go together; give both or none"
        )
    threads = Threads(name)
    output_schema, check_output = output_of(hints.get("return", inspect.Signature.empty))
    return Tool(
        name=name,
        description=(doc.short_description or "").replace("\n", " "),
        parameters=schema,
        check=check_of(name, arguments, schema),
        invoke=_invoke(function, hidden, threads),
        kind=marker.kind,
        limits=marker.limits,
        output_schema=output_schema,
        check_output=check_output,
        version=marker.version,
        requires_approval=marker.requires_approval,
        lookup=_lookup(marker.lookup, threads) if marker.lookup else None,
        close=threads.close,
    )


class Threads:
    """A tool's own threads: one that never returns must not starve the other tools."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], Any]) -> Any:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"tool-{self._name}")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Let go of the threads, without waiting for calls that do not return."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _invoke(function: Callable[..., Any], hidden: dict[str, str], threads: Threads) -> Invoke:
    call = _uniform(function, threads)
    if not hidden:
        return call

    def with_hidden(arguments: dict[str, Any], context: ToolContext) -> Awaitable[Any]:
        extra = {name: context.key if what == "key" else context for name, what in hidden.items()}
        return call({**arguments, **extra}, context)

    return with_hidden


def _uniform(function: Callable[..., Any], threads: Threads) -> Invoke:
    """Whatever the function is, as something to await."""

    async def stream(arguments: dict[str, Any], context: ToolContext) -> Any:
        last = None
        async with aclosing(function(**arguments)) as values:
            async for last in values:
                context.progress(last)
        return last

    async def walk(arguments: dict[str, Any], context: ToolContext) -> Any:
        report = asyncio.get_running_loop().call_soon_threadsafe
        gone = threading.Event()

        def through() -> Any:
            last = None
            values = function(**arguments)
            try:
                while not gone.is_set():
                    last = next(values)
                    report(context.progress, last)
            except StopIteration as stop:
                return last if stop.value is None else stop.value
            finally:
                values.close()
            return None

        try:
            return await threads.run(through)
        finally:
            gone.set()

    async def in_thread(arguments: dict[str, Any], context: ToolContext) -> Any:
        return await threads.run(lambda: function(**arguments))

    if inspect.isasyncgenfunction(function):
        return stream
    if inspect.iscoroutinefunction(function):
        return lambda arguments, context: function(**arguments)
    return walk if inspect.isgeneratorfunction(function) else in_thread


def _lookup(
    function: Callable[..., Any], threads: Threads
) -> Callable[[str, ToolContext], Awaitable[Any]]:
    async def lookup(key: str, context: ToolContext) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(key)
        return await threads.run(lambda: function(key))

    return lookup
