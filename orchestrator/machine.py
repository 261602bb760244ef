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

A State belongs to whoever folds it: `fold` changes it in place, O(1) an event, because a worker
folds each event once and a copy of a long history for every event would be quadratic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from orchestrator import budgets
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
    Status,
    ToolIntent,
    ToolResult,
)
from orchestrator.journal import Recorded
from serving import reply
from serving.config import AgentLimits
from serving.errors import Unavailable

REPLY = reply.REPLY
ToolKind = Literal["pure", "idempotent", "queryable", "unsafe"]
"""May a call whose outcome is in doubt run again? `pure` has no effect at all, `idempotent` acts
once for each key, `queryable` can be asked what it did, `unsafe` can do none of these."""

Shown = HistoryImported | ResponseAccepted | ModelResult | ToolResult
"""The events that the model sees, in the order in which it sees them."""

Phase = Literal["ready", "asking", "retry", "given_up", "tools", "answered"]


@dataclass(slots=True)
class OpenCall:
    """A call of the newest turn: how often it was started, and what it gave."""

    call: Call
    attempts: int = 0
    result: ToolResult | None = None


@dataclass(slots=True)
class Run:
    """A response in progress."""

    response_id: str
    request: dict[str, Any]
    spent: Spent
    client_tools: frozenset[str] = frozenset()
    """Function tools that the client runs: their calls end the response and stay open."""
    phase: Phase = "ready"
    attempt: int = 0
    failures: int = 0
    """Attempts of this step that failed; attempts that died with their process do not count, nor
    do those that found no engine."""
    waiting_since: float = 0.0
    """Unix seconds of this step's first attempt that found no engine; 0: none did."""
    failed: ModelFailed | None = None
    calls: dict[str, OpenCall] = field(default_factory=dict)
    unresolved: int = 0
    answer: ModelResult | None = None
    limit: LimitReached | None = None
    cancel_requested: bool = False
    streamed_chars: int = 0
    """Output of the attempt in progress that is already in the log."""


@dataclass(slots=True)
class State:
    """A conversation as its log tells it."""

    agent: str = ""
    tenant: str = ""
    seq: int = 0
    step: int = 0
    """The newest step's number; counts through the whole conversation."""
    history: list[Shown] = field(default_factory=list)
    """Append-only, with the results of parallel calls in the order of the calls."""
    run: Run | None = None
    last_response_id: str = ""
    last_status: Status | None = None
    purged: bool = False
    """Nothing is left of the conversation; it takes no requests."""


class Idle(msgspec.Struct, frozen=True, gc=False):
    """Nothing to do until the next request."""


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Nothing to do before `until` (Unix seconds)."""

    until: float


class CallModel(msgspec.Struct, frozen=True, gc=False):
    """Ask the model; `supersedes` is an attempt whose process died (0: none)."""

    step: int
    attempt: int
    supersedes: int = 0


class RunTools(msgspec.Struct, frozen=True, gc=False):
    """Run these calls (with the number of each's new attempt); close those as unknown."""

    step: int
    calls: list[tuple[Call, int]]
    unknown: list[Call]


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The response ends."""

    status: Status
    code: str = ""
    message: str = ""
    limit: LimitReached | None = None


Step = Idle | Wait | CallModel | RunTools | Finish
IDLE = Idle()


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


def _model_intent(state: State, event: ModelIntent) -> None:
    state.step = event.step
    if run := state.run:
        run.attempt = event.attempt
        run.phase = "asking"
        run.streamed_chars = 0


def _delta(state: State, event: OutputDelta) -> None:
    if run := state.run:
        run.streamed_chars += len(event.text)


def _model_failed(state: State, event: ModelFailed) -> None:
    if run := state.run:
        run.spent.wasted_tokens += event.wasted_tokens
        run.failed = event
        if event.superseded:
            run.phase = "retry"
        elif event.code == Unavailable.default_code:
            run.waiting_since = run.waiting_since or event.at
            run.phase = "retry"
        else:
            run.failures += 1
            run.phase = "retry" if event.retry else "given_up"


def _model_result(state: State, event: ModelResult) -> None:
    state.step = event.step
    state.history.append(event)
    run = state.run
    if run is None:
        return
    spent = run.spent
    spent.turns += 1
    spent.prompt_tokens += event.prompt_tokens
    spent.cached_tokens += event.cached_tokens
    spent.output_tokens += event.output_tokens
    spent.cost_usd += event.cost_usd
    spent.uncached_cost_usd += event.uncached_cost_usd
    run.failures = 0
    run.waiting_since = 0.0
    run.failed = None
    if event.calls and not replies(event):
        spent.count_calls(event.calls)
        run.calls = {call.call_id: OpenCall(call) for call in event.calls}
        run.unresolved = len(run.calls)
        run.phase = "tools"
    else:
        run.answer = event
        run.phase = "answered"


def replies(result: ModelResult) -> bool:
    """Did the model answer through the reply tool? Then the response ends, and calls beside it do
    not run. A reply without usable text is a call like any other that is refused."""
    return any(call.name == REPLY and reply.text_of(call.arguments) for call in result.calls)


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
    ModelIntent: _model_intent,
    ModelRouted: lambda state, event: None,
    OutputDelta: _delta,
    ModelFailed: _model_failed,
    ModelResult: _model_result,
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
        return _ending(run.answer)
    reached = run.limit or budgets.overall(run.spent, limits, now)
    if reached is not None:
        return _over(reached)
    if run.phase == "tools":
        return _tools(state, run, limits, kinds, now)
    return _model(state, run, limits, now)


def _ending(answer: ModelResult) -> Finish:
    if answer.finish_reason == "length":
        return Finish("incomplete", "max_output_tokens", "the answer was cut at max_output_tokens")
    if answer.finish_reason == "content_filter":
        return Finish("incomplete", "content_filter", "the engine withheld the answer")
    return Finish("completed")


def _over(reached: LimitReached) -> Finish:
    code, message = budgets.explain(reached)
    return Finish("incomplete", code, message, reached)


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
        return _over(reached)
    if not calls and not unknown:
        return Finish("completed")  # what is open now is for the client to run
    return RunTools(state.step, calls, unknown)


def _model(state: State, run: Run, limits: AgentLimits, now: float) -> Step:
    if run.phase == "asking":
        return CallModel(state.step, run.attempt + 1, supersedes=run.attempt)
    if run.failed is not None:
        return _try_again(state, run, run.failed, limits, now)
    if reached := budgets.before_model(run.spent, limits, now):
        return _over(reached)
    return CallModel(state.step + 1, 1)


def _try_again(
    state: State, run: Run, failed: ModelFailed, limits: AgentLimits, now: float
) -> Step:
    waited_s = failed.at - run.waiting_since if run.waiting_since else 0.0
    tired = run.failures >= limits.model_attempts or waited_s > limits.engine_wait_s
    if run.phase == "given_up" or tired:
        return Finish("failed", failed.code or "engine_failed", failed.error)
    if reached := budgets.before_model(run.spent, limits, now):
        return _over(reached)
    until = failed.at if failed.superseded else failed.at + backoff_s(run.failures, waited_s)
    return Wait(until) if until > now else CallModel(state.step, run.attempt + 1)


def backoff_s(failures: int, waited_s: float = 0.0) -> float:
    """Seconds between a failed attempt and the next: 0.25, 0.5, 1, ... at most 5.

    While no engine is ready the pause grows with the time waited: polling that long waits slow.
    """
    return float(min(5.0, max(0.25 * 2 ** max(0, failures - 1), waited_s / 4)))
