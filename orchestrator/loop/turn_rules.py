"""Model turns in the loop: what their events change, and when the model is asked (again).

    intent ─► delta* ─► result   the turn's calls are open, or the response has its answer
                     └► failed   retried after a pause that the log's own times give

An intent without an end is an attempt whose process died: the next one supersedes it, and does not
count as a failure. While no engine is ready attempts do not count either; the wait is bounded.
"""

from __future__ import annotations

from orchestrator.loop import budgets, context_rules, notices
from orchestrator.loop.budgets import Bounds
from orchestrator.loop.events import (
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
    OutputDelta,
)
from orchestrator.loop.state import (
    Around,
    CallModel,
    CloseTurn,
    Compact,
    Finish,
    OpenCall,
    Run,
    State,
    Step,
    Wait,
    replies,
)
from serving.errors import Unavailable


def intent(state: State, event: ModelIntent) -> None:
    state.step = event.step
    if run := state.run:
        if event.attempt == 1:
            run.spent.begin_turn(event.at)
        run.attempt = event.attempt
        run.phase = "asking"
        run.streamed_chars = 0
        run.streamed_text = []


def routed(state: State, event: ModelRouted) -> None:
    state.turn_model = event.model


def delta(state: State, event: OutputDelta) -> None:
    if run := state.run:
        run.streamed_chars += len(event.text)
        if event.kind == "text":
            run.streamed_text.append(event.text)


def failed(state: State, event: ModelFailed) -> None:
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


def result(state: State, event: ModelResult) -> None:
    state.step = event.step
    state.history.append(event)
    state.total.add(event)
    context_rules.note_pause(state, event)
    context_rules.note_read(state, event)
    run = state.run
    if run is None:
        return
    spent = run.spent
    spent.add(event)
    run.touches = 0
    run.failures = 0
    run.waiting_since = 0.0
    run.failed = None
    if event.calls and not replies(event):
        spent.count_calls(event.calls)
        begun = run.calls  # some may have run while the turn was written
        run.calls = {c.call_id: begun.get(c.call_id) or OpenCall(c) for c in event.calls}
        run.unresolved = [each.result for each in run.calls.values()].count(None)
        run.phase = "tools"
    else:
        run.answer = event
        run.phase = "answered"


def ending(run: Run, answer: ModelResult, now: float) -> Finish:
    """How an answer ends its response. A last answer completes it; that it was one is noted."""
    if answer.finish_reason == "length":
        return Finish("incomplete", "max_output_tokens", "the answer was cut at max_output_tokens")
    if answer.finish_reason == "content_filter":
        return Finish("incomplete", "content_filter", "the engine withheld the answer")
    if run.last is not None:
        return Finish("completed", limit=notices.reached(run.last, now, answered=True))
    return Finish("completed")


def over(reached: LimitReached) -> Finish:
    """How a limit ends it."""
    code, message = budgets.explain(reached)
    return Finish("incomplete", code, message, reached)


def next_turn(state: State, run: Run, bounds: Bounds, around: Around) -> Step:
    """Ask the model: for the first time, again, or not any more."""
    if run.phase == "asking" and run.calls:
        return CloseTurn(state.step, run.attempt)
    if run.phase == "asking":
        return CallModel(state.step, run.attempt + 1, supersedes=run.attempt)
    if run.failed is not None:
        return _try_again(state, run, run.failed, bounds, around)
    if reached := bounds.cut(asking=True):
        return over(reached)
    context = context_rules.before_turn(state, run, bounds, around)
    if isinstance(context, Compact):
        return context
    told = [context] if context else notices.before_turn(state, run, bounds)
    return CallModel(state.step + 1, 1, notices=told)


def _try_again(state: State, run: Run, failed: ModelFailed, bounds: Bounds, around: Around) -> Step:
    limits, now = bounds.limits, bounds.now
    if failed.code == context_rules.TOO_LONG and (
        shorter := context_rules.after_refusal(state, run, bounds, around)
    ):
        return shorter
    waited_s = failed.at - run.waiting_since if run.waiting_since else 0.0
    tired = run.failures >= limits.model_attempts or waited_s > limits.engine_wait_s
    if run.phase == "given_up" or tired:
        said = failed.error
        if failed.code == context_rules.TOO_LONG:
            said = f"{said}; {context_rules.said_too_long(run)}"
        return Finish("failed", failed.code or "engine_failed", said)
    if reached := bounds.cut(asking=True):
        return over(reached)
    until = failed.at if failed.superseded else failed.at + backoff_s(run.failures, waited_s)
    return Wait(until) if until > now else CallModel(state.step, run.attempt + 1)


def backoff_s(failures: int, waited_s: float = 0.0) -> float:
    """Seconds between a failed attempt and the next: 0.25, 0.5, 1, ... at most 5.

    While no engine is ready the pause grows with the time waited: polling that long waits slow.
    """
    return float(min(5.0, max(0.25 * 2 ** max(0, failures - 1), waited_s / 4)))
