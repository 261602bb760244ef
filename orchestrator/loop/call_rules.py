"""Calls in the loop: what their events change, and what each open call needs next.

    fresh ─► intent ─► result                          it ran
               ├─► failed(retry_at) ─► intent ...      nothing happened; tried again, then told
               ├─► timer(until) ─► result              the tool said: later
               └─► (nothing)                           in doubt: the process died inside it
                     pure, idempotent   run again with the same key
                     queryable          ask what it did
                     unsafe             ask a person
    fresh, needs approval ─► requested ─► the response ends; decided by a later one

Calls that wait for a person, or that the client runs, stay open between responses. A decision
brings its call into the response that it came with, and that response's other input is shown to
the model only after the call's result: a call and its answer stand together in the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from orchestrator.loop import notices
from orchestrator.loop.budgets import Bounds
from orchestrator.loop.events import (
    ApprovalDecided,
    ApprovalRequested,
    Call,
    CallReady,
    Notice,
    ResponseAccepted,
    TimerSet,
    ToolFailed,
    ToolIntent,
    ToolResult,
)
from orchestrator.loop.state import (
    Action,
    AskPerson,
    CloseCall,
    Finish,
    LookUpCall,
    OpenCall,
    Refuse,
    Run,
    RunTools,
    StartCall,
    State,
    Step,
    ToolKind,
    Wait,
)
from orchestrator.loop.turn_rules import over
from orchestrator.tools.errors import error_text

NOT_RUN = "not run: the response ended"
UNKNOWN = error_text(
    "outcome_unknown",
    "the process ended while this call ran; whether it took effect is unknown, and it was not run "
    "again. Check before you repeat it",
)
CUT = error_text(
    "outcome_unknown",
    "the response ended while this call ran; whether it took effect is unknown. Check before you "
    "repeat it",
)
DECISION = "mcp_approval_response"


def only_decisions(event: ResponseAccepted) -> bool:
    """Does this request do nothing but decide on calls that wait?"""
    return bool(event.input) and all(item.get("type") == DECISION for item in event.input)


# -- what events change --


def ready(state: State, event: CallReady) -> None:
    if (run := state.run) and run.phase == "asking":
        run.calls[event.call.call_id] = OpenCall(event.call)


def intent(state: State, event: ToolIntent) -> None:
    run = state.run
    if run and (open_call := run.calls.get(event.call_id)):
        if open_call.attempts == 0:
            run.spent.count_call(event.at)
            state.total.tool_calls += 1
        open_call.attempts = event.attempt
        open_call.began_at = event.at
        open_call.failed = None
        if open_call.approval == "approved":
            open_call.approval = ""  # it was for this run of the call


def failed(state: State, event: ToolFailed) -> None:
    if (run := state.run) and (open_call := run.calls.get(event.call_id)):
        open_call.failed = event
        open_call.failures += 1


def timer(state: State, event: TimerSet) -> None:
    if (run := state.run) and (open_call := run.calls.get(event.call_id)):
        open_call.timer = event


def requested(state: State, event: ApprovalRequested) -> None:
    if (run := state.run) and (open_call := run.calls.get(event.call_id)):
        if not open_call.approval_id:  # asked about again, it stays whose it was
            name, offers = open_call.call.name, run.offered.values()
            open_call.offered = next((each for each in offers if name in each.names), None)
        open_call.approval = "asked"
        open_call.approval_id = event.approval_id
        open_call.reason = event.reason


def decided(state: State, event: ApprovalDecided) -> None:
    run = state.run
    if run is None or (open_call := state.waiting.pop(event.call_id, None)) is None:
        return
    accepted = state.history[-1] if state.history else None
    # Only this response's own: an earlier one, which decided other calls, may stand before it.
    if isinstance(accepted, ResponseAccepted) and accepted.response_id == run.response_id:
        state.history.pop()
        run.held = accepted
    open_call.approval = "approved" if event.approve else "denied"
    open_call.said = event.reason
    run.calls[event.call_id] = open_call
    run.unresolved += 1
    run.phase = "tools"


def result(state: State, event: ToolResult) -> None:
    run = state.run
    if run is None or (open_call := run.calls.get(event.call_id)) is None or open_call.result:
        return
    open_call.result = event
    run.spent.cost_usd += event.cost_usd
    state.total.cost_usd += event.cost_usd
    if run.phase != "tools":
        return  # the turn that makes the call is still being written
    run.unresolved -= 1
    settle(state)


def settle(state: State) -> None:
    """When all calls of a turn have results, the model is asked next."""
    if (run := state.run) and run.phase == "tools" and run.unresolved == 0:
        run.spent.count_state(_digest(run))
        show_results(state, run)
        run.phase = "ready"


def show_results(state: State, run: Run, *, keep_open: bool = False) -> None:
    """Into the history, in the order of the calls, not of arrival: the prompt must not depend on
    who was faster. What is still open stays so (`keep_open`), or is told as not run."""
    for call_id, open_call in run.calls.items():
        found = open_call.result
        if found is None:
            if keep_open and (open_call.approval == "asked" or _is_clients(run, open_call)):
                state.waiting[call_id] = open_call
                continue
            found = ToolResult(state.step, call_id, 0.0, NOT_RUN, "refused")
        state.history.append(found)
    run.calls = {}
    if run.held is not None:
        state.history.append(run.held)
        run.held = None
    unsaid, run.unsaid = run.unsaid, []
    for notice in unsaid if not state.waiting else ():
        show_notice(state, run, notice)


def cut(state: State, now: float, kinds: Mapping[str, ToolKind]) -> list[ToolResult]:
    """What is to be told, when the response ends now, of calls that may have taken effect."""
    run = state.run
    return [
        ToolResult(state.step, call_id, now, CUT, "outcome_unknown")
        for call_id, open_call in (run.calls.items() if run else ())
        if _in_doubt(open_call) and kinds.get(open_call.call.name) != "pure"
    ]


def _in_doubt(open_call: OpenCall) -> bool:
    begun = open_call.attempts > 0 and open_call.result is None
    return begun and open_call.timer is None and open_call.failed is None


def show_notice(state: State, run: Run, notice: Notice) -> None:
    """At the end of what the model sees."""
    state.history.append(notice)
    if notice.last:
        run.last = notice


def _digest(run: Run) -> bytes:
    """The same for turns with the same calls and results."""
    digest = hashlib.blake2b(digest_size=8)
    each_call = [
        (c.call.name, c.call.arguments, (c.result and c.result.output) or "")
        for c in run.calls.values()
    ]
    for each in sorted(each_call):
        digest.update("\0".join((*each, "")).encode("utf-8", "replace"))
    return digest.digest()


def _is_clients(run: Run, open_call: OpenCall) -> bool:
    return open_call.call.name in run.client_tools


# -- what comes next --


def next_calls(  # noqa: PLR0917 - the facts, in the order of next_step
    state: State,
    run: Run,
    bounds: Bounds,
    kinds: Mapping[str, ToolKind],
    need_approval: Collection[str] = (),
    running: Collection[str] = (),
) -> Step:
    """What the open calls need. `running` are ids of calls that this process is running now."""
    actions: list[Action] = []
    due: float | None = None
    fresh: list[Call] = []
    now = bounds.now
    for call_id, open_call in run.calls.items():
        if open_call.result or call_id in running or _is_clients(run, open_call):
            continue
        if open_call.approval == "asked":
            continue
        until = _not_before(open_call)
        if until > now:
            due = until if due is None else min(due, until)
            continue
        actions.append(_action(open_call, kinds, need_approval))
        if open_call.attempts == 0 and open_call.approval != "denied":
            fresh.append(open_call.call)
    if fresh and run.last is not None:  # it was told to answer, and called tools
        return over(notices.reached(run.last, now, answered=False))
    if fresh and (reached := bounds.before_tools(run.spent, len(run.calls), len(fresh))):
        refusal = notices.refusal(state, run, reached, bounds.limits)
        return over(reached) if refusal is None else Refuse(state.step, fresh, *refusal)
    if actions or running:
        return RunTools(state.step, actions, due)
    return Finish("completed") if due is None else Wait(due)  # others than we have the word


def _not_before(open_call: OpenCall) -> float:
    if open_call.timer is not None:
        return open_call.timer.until
    return open_call.failed.retry_at if open_call.failed is not None else 0.0


def _action(  # noqa: PLR0911 - a table: the first line that fits
    open_call: OpenCall, kinds: Mapping[str, ToolKind], need_approval: Collection[str]
) -> Action:
    call, attempt = open_call.call, open_call.attempts + 1
    if open_call.timer is not None:
        return CloseCall(call, "ok", open_call.timer.output)
    if open_call.approval == "denied":
        if open_call.reason == "outcome_unknown":
            return CloseCall(call, "outcome_unknown", UNKNOWN)
        why = f": {open_call.said}" if open_call.said else ""
        said = error_text("refused_by_person", f"refused by a person{why}")
        return CloseCall(call, "refused", said)
    if open_call.approval == "approved" or open_call.failed is not None:
        return StartCall(call, attempt)
    if open_call.attempts == 0:
        wanted = call.name in need_approval
        return AskPerson(call, "required") if wanted else StartCall(call, attempt)
    match kinds.get(call.name):
        case "pure" | "idempotent":
            return StartCall(call, attempt)
        case "queryable":
            return LookUpCall(call, attempt)
        case _:
            return AskPerson(call, "outcome_unknown")
