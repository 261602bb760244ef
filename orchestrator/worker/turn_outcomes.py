"""Was a turn's answer good? What the loop itself sees of it, told to whoever chose the model.

    every call was taken by its tool, which gave a result     good
    a call was refused before it reached a tool               bad: no such tool, or arguments that
                                                              do not fit
    a tool says of a call that its arguments are wrong        bad (the code `invalid_arguments`)
    the run repeats itself, is told so or ended for it        bad: its last turn

A tool that fails otherwise or times out says nothing of the model, and neither does an engine that
does, a limit that keeps a call from its tool, or a person who says no: a call that waits for one
ends in a later run, where its turn is not looked at.
Answers in words are for those to judge who read them (`POST /v1/warmloop/outcomes`).
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.loop.events import (
    AnyEvent,
    LimitReached,
    ModelIntent,
    ModelResult,
    Notice,
    ToolResult,
)
from orchestrator.loop.state import State
from orchestrator.tools.errors import INVALID_ARGUMENTS

LOOPS = ("same_call", "same_state")
TELLING = frozenset({ModelIntent, ModelResult, ToolResult, LimitReached, Notice})
AT_LIMIT = "at_limit"
"""The code of a call that a limit of its response kept from its tool: no fault of the call."""
Report = Callable[[str, str, bool], object]
"""Tenant, the turn's request id, and whether it was good."""


def turn_id(response_id: str, step: int, attempt: int) -> str:
    """The request id of one attempt at one turn."""
    return f"{response_id}-{step}-{attempt}"


class TurnOutcomes:
    """Follows the events of one run as they are emitted."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = ""
        self._calls: list[str] = []
        """Of the last turn, while nothing is said of it."""
        self._results: dict[str, str] = {}
        """Outcomes by call: some come before the turn is whole."""

    def take(self, event: AnyEvent, state: State) -> None:
        """`state` is that after the event."""
        if type(event) not in TELLING:
            return
        match event:
            case ModelIntent():
                self._calls, self._results = [], {}
            case ModelResult() if state.run is not None:
                self._last = turn_id(state.run.response_id, event.step, event.attempt)
                self._calls = [call.call_id for call in event.calls]
                self._judge(state)
            case ToolResult():
                self._results[event.call_id] = _said_by(event)
                self._judge(state)
            case LimitReached() | Notice() if self._last and event.kind in LOOPS:
                self._say(state, good=False)

    def _judge(self, state: State) -> None:
        outcomes = [self._results.get(call_id, "") for call_id in self._calls]
        if "refused" in outcomes:
            self._say(state, good=False)
        elif outcomes and set(outcomes) == {"ok"}:
            self._say(state, good=True)

    def _say(self, state: State, *, good: bool) -> None:
        self._calls = []
        self._report(state.tenant, self._last, good)


def _said_by(result: ToolResult) -> str:
    """What it says of its call: `ok`, `refused`, or anything else, which says nothing."""
    if result.code == AT_LIMIT:
        return AT_LIMIT
    return "refused" if result.code == INVALID_ARGUMENTS else result.outcome
