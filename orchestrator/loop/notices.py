"""What the loop tells the model: when, in which words. Pure; docs/safety.md has the table.

    warned      a limit comes near: go on, but spend what is left well
    noticed     the model repeats itself, asks for too much at once, or has been at it for long
    wound down  (`last`) the next turn has no tools and gives the final answer

A notice is an event of the log, shown where it happened and never moved: the prompt only grows.
Its words hold nothing that another try would say differently (no clock, no share of a budget that
others use): after a crash the same turn is asked in the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from orchestrator.loop.budgets import Bounds, Cap
from orchestrator.loop.events import (
    Item,
    LimitKind,
    LimitReached,
    ModelResult,
    Notice,
    ResponseAccepted,
)
from orchestrator.loop.state import Run, State
from serving.config.agent import AgentLimits

TASK_CHARACTERS = 600
"""Of the task that a reminder repeats."""

_WHAT = {
    "turns": "{limit:g} model turns",
    "tool_calls": "{limit:g} tool calls",
    "tokens": "{limit:g} tokens",
    "seconds": "{limit:g} seconds",
    "cost": "{limit:g} US dollars",
    "overflow": "{limit:g} tokens of context",
}
_WHOSE = {
    "response": "for this task",
    "conversation": "for this conversation",
    "tenant": "for this task and others together",
}
WARNED = (
    "Notice: most of the budget of {what} {whose} is used. Do only what the answer still needs."
)
LAST = "Answer now, as well as you can with what you know: no more tools can be used."
_ENDED = "Notice: the budget of {what} {whose} is nearly used up."
_LAST = {
    "same_call": "Notice: the same call was made again and again, and was not run once more.",
    "same_state": "Notice: the same calls gave the same results again and again.",
    "storm": "Notice: too many tool calls were asked for again; none was run.",
}
SAME_CALL = (
    "Notice: this call was made before, with the same arguments. Its result is above. Do not "
    "repeat it: use the result, try something else, or answer."
)
SAME_STATE = (
    "Notice: these calls gave the same results before. You are going in circles: try something "
    "else, or answer with what you know."
)
STORM = (
    "Notice: {value:g} tool calls at once, or in a minute, are more than the limit of {limit:g}: "
    "none of them was run. Ask for the few that matter most."
)
DRIFT = (
    "Notice: {turns} turns have passed. The task was: {task}\n"
    "Check that what you do serves it. Say in one or two lines what is done and what is left, then "
    "go on, or answer if it is done."
)
REFUSED = {
    "same_call": "not run: the same call was made too often in a row",
    "storm": "not run: too many tool calls at once",
}
NOT_RUN = "not run: the budget of tool calls is used up"


def before_turn(state: State, run: Run, bounds: Bounds) -> list[Notice]:
    """What the model is told before the next turn; a last one, if any, comes alone."""
    if run.last is not None:
        return []
    step, spent = state.step + 1, run.spent
    limits, now = bounds.limits, bounds.now
    if limits.last_answer:
        if spent.same_state >= limits.same_state:
            seen = LimitReached("same_state", spent.same_state, limits.same_state, now)
            return [last(step, seen)]
        if cap := bounds.nearly():
            return [last(step, cap.reached(now))]
    told: list[Notice] = []
    for cap in bounds.warnings():
        if cap.name not in run.told and cap.name not in state.told:
            text = WARNED.format(what=_what(cap), whose=_WHOSE[cap.scope])
            told.append(
                Notice(step, cap.kind, text, now, cap.scope, value=cap.used, limit=cap.limit)
            )
    if spent.repeats == limits.same_call - 1 and spent.repeats > 1:
        limit = limits.same_call
        told.append(Notice(step, "same_call", SAME_CALL, now, value=spent.repeats, limit=limit))
    elif 1 < spent.same_state < limits.same_state:
        value, limit = spent.same_state, limits.same_state
        told.append(Notice(step, "same_state", SAME_STATE, now, value=value, limit=limit))
    every = limits.remind_every
    if every and spent.turns and spent.turns % every == 0:
        text = DRIFT.format(turns=spent.turns, task=task(state))
        told.append(Notice(step, "drift", text, now, value=spent.turns, limit=every))
    if not told:
        return told
    said = _since_turn(state)
    return [notice for notice in told if name(notice) not in said]


def _since_turn(state: State) -> set[str]:
    """Names of what was said since the newest turn: its answer did not come, and it stands."""
    said: set[str] = set()
    for event in reversed(state.history):
        if isinstance(event, ModelResult):
            break
        if isinstance(event, Notice):
            said.add(name(event))
    return said


def refusal(
    state: State, run: Run, reached: LimitReached, limits: AgentLimits
) -> tuple[str, Notice] | None:
    """What calls that must not run give, and what the model is told; None: the response is cut."""
    if reached.kind == "storm" and "response.storm" not in run.told:
        text = STORM.format(value=reached.value, limit=reached.limit)
        value, limit = reached.value, reached.limit
        notice = Notice(state.step + 1, "storm", text, reached.at, value=value, limit=limit)
    elif limits.last_answer:
        notice = last(state.step + 1, reached)
    else:
        return None
    return REFUSED.get(reached.kind, NOT_RUN), notice


def last(step: int, reached: LimitReached) -> Notice:
    """Before the turn that gives the final answer."""
    kind, scope = reached.kind, reached.scope
    why = _LAST.get(kind) or _ENDED.format(what=_what(reached), whose=_WHOSE[scope])
    return Notice(
        step, kind, f"{why} {LAST}", reached.at, scope, reached.value, reached.limit, last=True
    )


def reached(notice: Notice, now: float, *, answered: bool) -> LimitReached:
    """The limit for which a last answer was asked, and given or not."""
    kind = cast("LimitKind", notice.kind)  # a reminder is never the last
    return LimitReached(kind, notice.value, notice.limit, now, notice.scope, answered)


def name(notice: Notice) -> str:
    """What it is remembered by, so that a warning is given once."""
    return f"{notice.scope}.{notice.kind}"


def task(state: State) -> str:
    """What the user asked for in this response, in its beginning."""
    for event in reversed(state.history):
        if isinstance(event, ResponseAccepted):
            return _beginning(event.input)
    return ""


def _beginning(items: Sequence[Item]) -> str:
    said = ""
    for text in filter(None, map(_text, items)):
        said = f"{said} {text}" if said else text
        if len(said) > TASK_CHARACTERS:
            return said[:TASK_CHARACTERS] + " [...]"
    return said


def _text(item: Item) -> str:
    if item.get("type", "message") != "message" or item.get("role") != "user":
        return ""
    content = item.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def _what(limit: Cap | LimitReached) -> str:
    return _WHAT[limit.kind].format(limit=limit.limit)
