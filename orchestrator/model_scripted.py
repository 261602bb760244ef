"""The model client's twin without a model: it says what a script says.

For tests and benchmarks. The script gets the turn and returns its events; an exception among them
is raised in their place, an awaitable is awaited.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

import msgspec

from orchestrator.model import (
    ArgumentsDelta,
    CallStart,
    Done,
    ModelEvent,
    ModelTurn,
    Routed,
    TextDelta,
)
from router.turn import Decision
from serving.reply import REPLY, arguments_of

Scripted = ModelEvent | BaseException | Awaitable[object]
Script = Callable[[ModelTurn], Iterable[Scripted]]

ROUTED = Routed(Decision("scripted", "scripted-1", "http://127.0.0.1:9", "scripted"))


class ScriptedModel:
    """Plays a script; remembers the turns that it was asked."""

    def __init__(self, script: Script, *, keep_turns: bool = True) -> None:
        self._script = script
        self._keep_turns = keep_turns
        self.turns: list[ModelTurn] = []

    async def turn(self, turn: ModelTurn) -> AsyncGenerator[ModelEvent, None]:
        if self._keep_turns:
            self.turns.append(turn)
        for event in self._script(turn):
            if isinstance(event, msgspec.Struct):
                yield event
            elif isinstance(event, BaseException):
                raise event
            else:
                await event


def in_order(*answers: Iterable[Scripted]) -> Script:
    """A script that gives one answer after the other, whatever is asked."""
    remaining = iter(answers)
    return lambda turn: next(remaining)


def says(text: str, *, tokens: int = 10) -> list[Scripted]:
    """Plain text."""
    return [ROUTED, TextDelta(text), Done("stop", 100, 80, tokens)]


def calls(*wanted: tuple[str, object], finish: str = "tool_calls") -> list[Scripted]:
    """Tool calls; arguments are given as values, or as text that is passed on as it is."""
    events: list[Scripted] = [ROUTED]
    for name, arguments in wanted:
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        events += [CallStart(name), ArgumentsDelta(text)]
    return [*events, Done(finish, 100, 80, 20)]


def replies(text: str) -> list[Scripted]:
    """The built-in reply tool."""
    return calls((REPLY, arguments_of(text)))
