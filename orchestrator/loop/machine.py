"""The agent loop without its effects: a fold over the log, and what to do next.

    log ──fold──► State ──next_step──► Step ──worker──► events ──► log

`next_step` is asked only when nothing is in flight. So an intent that has no result is then not
"running" but in doubt: the process that wrote it died. Every row of the crash table that concerns
this loop follows from that one rule:

    model intent, no result     ask again: a new attempt that supersedes the old one
    tool intent, no result      pure, idempotent: run again with the same key
                                queryable: ask what it did; unsafe: ask a person
    some calls have results     only the others run
    all have results            the next turn, from the same history: the same prompt bytes

The values are in `state.py`, what concerns model turns in `turn_rules.py`, calls in
`call_rules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from orchestrator.journal.base import Recorded
from orchestrator.loop import budgets, call_rules, context_rules, notices, turn_rules
from orchestrator.loop.budgets import Bounds, Spent
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ApprovalRequested,
    CallReady,
    CancelRequested,
    Compacted,
    ConversationStarted,
    HistoryImported,
    HistoryReplaced,
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
    Notice,
    OutputDelta,
    Purged,
    ResponseAccepted,
    ResponseFinished,
    TimerSet,
    ToolFailed,
    ToolIntent,
    ToolResult,
    ToolsListed,
    ToolsOffered,
    Warmed,
)
from orchestrator.loop.mcp_calls import apart
from orchestrator.loop.state import (
    ALONE,
    IDLE,
    Around,
    Finish,
    Run,
    State,
    Step,
    ToolKind,
    functions_of,
)
from orchestrator.mcp.offer import shared
from serving.config.agent import AgentLimits

_STEP_OF_CALL = re.compile(r"call_([0-9]{1,9})_")


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
    # Ids of calls hold the step's number: go on above those that the imported calls have.
    items = apart(event.items)
    ids = [item.get("call_id", "") for item in items if item.get("type") == "function_call"]
    steps = (int(found[1]) for each in ids if (found := _STEP_OF_CALL.match(each)))
    state.step = max([state.step + len(ids), *steps])


def _replaced(state: State, event: HistoryReplaced) -> None:
    state.history = [HistoryImported("", "", event.items)]


def _listed(state: State, event: ToolsListed) -> None:
    # Tools stand before all messages: a second list waits until those are written anew.
    taken = state.offers_next if event.server in state.offers else state.offers
    taken[event.server] = shared(event.listing)


def _offered(state: State, event: ToolsOffered) -> None:
    if state.run:
        state.run.offered[event.server] = event


def _accepted(state: State, event: ResponseAccepted) -> None:
    state.history.append(event)
    if not call_rules.only_decisions(event):
        # New input answers what the client was to run: intake sees to it.
        clients = [each for each, open_call in state.waiting.items() if not open_call.approval]
        for call_id in clients:
            del state.waiting[call_id]
    client_tools = frozenset(str(tool["name"]) for tool in functions_of(event.request))
    state.run = Run(event.response_id, event.request, Spent(since=event.at), client_tools)
    state.last_response_id = event.response_id
    state.last_status = "in_progress"


def _model_result(state: State, event: ModelResult) -> None:
    turn_rules.result(state, event)
    call_rules.settle(state)  # its calls may all have run meanwhile


def _notice(state: State, event: Notice) -> None:
    run = state.run
    name = notices.name(event)
    if event.scope == "conversation":
        state.told.add(name)
    if run is None:
        return
    run.told.add(name)
    if run.calls:
        run.unsaid.append(event)  # the results of calls must follow the calls
    else:
        call_rules.show_notice(state, run, event)


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
            call_rules.show_results(state, run, keep_open=event.status == "completed")
        state.run = None
        state.last_status = event.status


def _purged(state: State, event: Purged) -> None:
    state.step = max(state.step, event.step)
    state.purged = state.purged or event.of == "conversation_started"


_HANDLERS: Mapping[type, Any] = {
    ConversationStarted: _started,
    HistoryImported: _imported,
    HistoryReplaced: _replaced,
    ToolsListed: _listed,
    ToolsOffered: _offered,
    ResponseAccepted: _accepted,
    ModelIntent: turn_rules.intent,
    ModelRouted: turn_rules.routed,
    OutputDelta: turn_rules.delta,
    ModelFailed: turn_rules.failed,
    ModelResult: _model_result,
    CallReady: call_rules.ready,
    ToolIntent: call_rules.intent,
    ToolFailed: call_rules.failed,
    TimerSet: call_rules.timer,
    ApprovalRequested: call_rules.requested,
    ApprovalDecided: call_rules.decided,
    ToolResult: call_rules.result,
    LimitReached: _limit,
    Notice: _notice,
    Compacted: context_rules.compacted,
    Warmed: context_rules.warmed,
    CancelRequested: _cancel,
    ResponseFinished: _finished,
    Purged: _purged,
}


def next_step(  # noqa: PLR0911 - a table: the first line that fits
    state: State,
    limits: AgentLimits,
    kinds: Mapping[str, ToolKind],
    now: float,
    *,
    need_approval: Collection[str] = (),
    running: Collection[str] = (),
    around: Around = ALONE,
) -> Step:
    """What to do, given that nothing is in flight but the calls `running`.

    `kinds` tells what may run a second time, `need_approval` what a person must allow, `around`
    what others than this conversation have used.
    """
    run = state.run
    if run is None:
        return IDLE
    if run.cancel_requested:
        return Finish("cancelled")
    if run.answer is not None:
        return turn_rules.ending(run, run.answer, now)
    caps = [
        *budgets.of_response(run.spent, limits, now),
        *budgets.of_conversation(state.total, run.spent, limits),
        *around.caps,
    ]
    bounds = Bounds(limits, caps, now)
    reached = run.limit or bounds.cut(asking=False)
    if reached is not None:
        return turn_rules.over(reached)
    if run.phase == "tools":
        return call_rules.next_calls(state, run, bounds, kinds, need_approval, running)
    if run.phase == "ready" and state.waiting:
        return Finish("completed")  # other calls of that turn still wait for their word
    return turn_rules.next_turn(state, run, bounds, around)
