"""The agent loop without its effects: a fold over the log, and what to do next.

    log ──fold──► State ──next_step──► Step ──worker──► events ──► log

`next_step` is asked only when nothing is in flight. So an intent that has no result is then not
"running" but in doubt: the process that wrote it died. Every row of the crash table that concerns
this loop follows from that one rule:

    model intent, no result     ask again: a new attempt that supersedes the old one
    tool intent, no result      pure, idempotent: run again with the same key
                                anything else: its outcome is unknown, and stays so
    some calls have results     only the others run
    all have results            the next turn, from the same history: the same prompt bytes

The values are in `state.py`, what concerns model turns in `turn_rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator import budgets, turn_rules
from orchestrator.budgets import Spent
from orchestrator.events import (
    AnyEvent,
    Call,
    CancelRequested,
    ConversationStarted,
    HistoryImported,
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
    OutputDelta,
    Purged,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)
from orchestrator.journal import Recorded
from orchestrator.state import IDLE, Finish, Run, RunTools, State, Step, ToolKind
from serving.config import AgentLimits


def fold_all(recorded: Iterable[Recorded], state: State | None = None) -> State:
    """The state after these events, from the log's beginning or on top of `state`."""
    state = state or State()
    for entry in recorded:
        fold(state, entry.event)
        state.seq = entry.seq
    return state


def fold(state: State, event: AnyEvent) -> State:
    """Take one event in; returns the same, changed state. Events that do not fit are ignored:
    a log is history, and history cannot be refused."""
    handler = _HANDLERS.get(type(event))
    if handler is not None:
        handler(state, event)
    return state


def _started(state: State, event: ConversationStarted) -> None:
    state.agent = event.agent
    state.tenant = event.tenant


def _imported(state: State, event: HistoryImported) -> None:
    state.history.append(event)
    # Ids of calls hold the step's number: go on above those that the imported calls can have.
    state.step += sum(item.get("type") == "function_call" for item in event.items)


def _accepted(state: State, event: ResponseAccepted) -> None:
    state.history.append(event)
    client_tools = frozenset(tool.get("name", "") for tool in event.request.get("tools") or ())
    state.run = Run(event.response_id, event.request, Spent(since=event.at), client_tools)
    state.last_response_id = event.response_id
    state.last_status = "in_progress"


def _tool_intent(state: State, event: ToolIntent) -> None:
    run = state.run
    if run and (open_call := run.calls.get(event.call_id)):
        if open_call.attempts == 0:
            run.spent.tool_calls += 1
        open_call.attempts = event.attempt


def _tool_result(state: State, event: ToolResult) -> None:
    run = state.run
    if run is None or (open_call := run.calls.get(event.call_id)) is None or open_call.result:
        return
    open_call.result = event
    run.unresolved -= 1
    if run.unresolved == 0:
        _show_results(state, run)
        run.phase = "ready"


def _show_results(state: State, run: Run, *, left_to_client: bool = False) -> None:
    # In the order of the calls, not of arrival: the prompt must not depend on who was faster.
    for open_call in run.calls.values():
        result = open_call.result
        if result is None:
            if left_to_client and open_call.call.name in run.client_tools:
                continue  # its output comes with the next request
            said = "not run: the response ended"
            result = ToolResult(state.step, open_call.call.call_id, 0.0, said, "refused")
        state.history.append(result)
    run.calls = {}


def _limit(state: State, event: LimitReached) -> None:
    if state.run:
        state.run.limit = event


def _cancel(state: State, event: CancelRequested) -> None:
    if state.run and state.run.response_id == event.response_id:
        state.run.cancel_requested = True


def _finished(state: State, event: ResponseFinished) -> None:
    run = state.run
    if run and run.response_id == event.response_id:
        if run.calls:
            # Every call that the model made needs an answer in later prompts.
            _show_results(state, run, left_to_client=event.status == "completed")
        state.run = None
        state.last_status = event.status


def _purged(state: State, event: Purged) -> None:
    state.step = max(state.step, event.step)
    state.purged = state.purged or event.of == "conversation_started"


_HANDLERS: Mapping[type, Any] = {
    ConversationStarted: _started,
    HistoryImported: _imported,
    ResponseAccepted: _accepted,
    ModelIntent: turn_rules.intent,
    ModelRouted: lambda state, event: None,
    OutputDelta: turn_rules.delta,
    ModelFailed: turn_rules.failed,
    ModelResult: turn_rules.result,
    ToolIntent: _tool_intent,
    ToolResult: _tool_result,
    LimitReached: _limit,
    CancelRequested: _cancel,
    ResponseFinished: _finished,
    Purged: _purged,
}


def next_step(state: State, limits: AgentLimits, kinds: Mapping[str, ToolKind], now: float) -> Step:
    """What to do, given that nothing is in flight. `kinds` tells what may run a second time."""
    run = state.run
    if run is None:
        return IDLE
    if run.cancel_requested:
        return Finish("cancelled")
    if run.answer is not None:
        return turn_rules.ending(run.answer)
    reached = run.limit or budgets.overall(run.spent, limits, now)
    if reached is not None:
        return turn_rules.over(reached)
    if run.phase == "tools":
        return _tools(state, run, limits, kinds, now)
    return turn_rules.next_turn(state, run, limits, now)


def _tools(
    state: State, run: Run, limits: AgentLimits, kinds: Mapping[str, ToolKind], now: float
) -> Step:
    calls: list[tuple[Call, int]] = []
    unknown: list[Call] = []
    fresh = 0
    for open_call in run.calls.values():
        if open_call.result is not None or open_call.call.name in run.client_tools:
            continue
        if open_call.attempts == 0:
            fresh += 1
            calls.append((open_call.call, 1))
        elif kinds.get(open_call.call.name) in ("pure", "idempotent"):
            calls.append((open_call.call, open_call.attempts + 1))
        else:
            unknown.append(open_call.call)
    if fresh and (reached := budgets.before_tools(run.spent, fresh, limits, now)):
        return turn_rules.over(reached)
    if not calls and not unknown:
        return Finish("completed")  # what is open now is for the client to run
    return RunTools(state.step, calls, unknown)
