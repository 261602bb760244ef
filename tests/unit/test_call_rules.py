"""What open calls need next: retries, timers, approvals, doubt, calls ahead of their turn's end."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orchestrator.journal.base import Recorded
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ApprovalRequested,
    Call,
    CallReady,
    ConversationStarted,
    HistoryImported,
    ModelIntent,
    ModelResult,
    OutputDelta,
    ResponseAccepted,
    ResponseFinished,
    TimerSet,
    ToolFailed,
    ToolIntent,
    ToolResult,
)
from orchestrator.loop.machine import fold, fold_all, next_step
from orchestrator.loop.prompt import Prompt
from orchestrator.loop.state import (
    AskPerson,
    CallModel,
    CloseCall,
    CloseTurn,
    Finish,
    LookUpCall,
    RunTools,
    StartCall,
    State,
    Step,
    Wait,
)
from serving.config.agent import AgentLimits

KINDS: dict[str, Any] = {"look": "pure", "count": "idempotent", "ask": "queryable", "buy": "unsafe"}
LIMITS = AgentLimits()
BEGUN: list[AnyEvent] = [
    ConversationStarted("desk@1", 0.0),
    ResponseAccepted("r1", 0.0, [{"role": "user", "content": "go"}]),
]


def call(index: int, name: str) -> Call:
    return Call(f"call_1_{index}", name, "{}")


def after(*events: AnyEvent, names: tuple[str, ...] = ("buy",)) -> State:
    """A turn has made these calls, and then this came."""
    turn = ModelResult(1, 1, 0.6, calls=[call(index, name) for index, name in enumerate(names)])
    log = [*BEGUN, ModelIntent(1, 1, 0.5), turn, *events]
    return fold_all(Recorded(seq, event) for seq, event in enumerate(log, 1))


def step(state: State, now: float = 1.0, **more: Any) -> Step:
    return next_step(state, LIMITS, KINDS, now, **more)


def begun(index: int = 0, attempt: int = 1) -> ToolIntent:
    return ToolIntent(1, f"call_1_{index}", f"c:1:call_1_{index}", 0.7, attempt)


def done(index: int = 0, output: str = "out") -> ToolResult:
    return ToolResult(1, f"call_1_{index}", 0.8, output)


def refused_until(retry_at: float, attempt: int = 1) -> ToolFailed:
    return ToolFailed(1, "call_1_0", 0.8, attempt, "busy", "busy", retry_at)


def asks(index: int = 0, reason: Any = "required") -> ApprovalRequested:
    return ApprovalRequested(1, f"call_1_{index}", f"mcpr_{index}", 0.9, reason)


ENDED = ResponseFinished("r1", 1.0, "completed")


def decides(*indexes: int, approve: bool = True, say: str = "") -> list[AnyEvent]:
    """The next request decides on these calls."""
    items = [
        {"type": "mcp_approval_response", "approval_request_id": f"mcpr_{index}"}
        for index in indexes
    ]
    words = [{"type": "message", "role": "user", "content": say}] if say else []
    decided = [
        ApprovalDecided(f"mcpr_{index}", f"call_1_{index}", 5.0, approve, "too dear")
        for index in indexes
    ]
    return [ResponseAccepted("r2", 5.0, [*items, *words]), *decided]


def feed(state: State, *events: AnyEvent) -> State:
    for event in events:
        fold(state, event)
    return state


# -- failures that may pass --


def test_a_failure_that_may_pass_waits_for_its_time_and_then_runs_again() -> None:
    state = after(begun(), refused_until(9.0))
    assert step(state, now=8.9) == Wait(9.0)
    assert step(state, now=9.0) == RunTools(1, [StartCall(call(0, "buy"), 2)])


def test_a_retry_that_died_with_its_process_is_in_doubt_like_any_other_run() -> None:
    state = after(begun(), refused_until(9.0), begun(attempt=2))
    assert step(state, now=10.0) == RunTools(1, [AskPerson(call(0, "buy"), "outcome_unknown")])


def test_the_others_go_on_while_one_waits_for_its_retry() -> None:
    state = after(begun(0), refused_until(9.0), names=("buy", "look"))
    assert step(state) == RunTools(1, [StartCall(call(1, "look"), 1)], 9.0)


def test_calls_that_are_running_are_left_alone() -> None:
    state = after(begun(0), names=("buy", "look"))
    found = step(state, running={"call_1_0"})
    assert found == RunTools(1, [StartCall(call(1, "look"), 1)])
    feed(state, begun(1), done(1))
    assert step(state, running={"call_1_0"}) == RunTools(1, [])


# -- doubt --


def test_a_queryable_call_in_doubt_is_looked_up() -> None:
    assert step(after(begun(), names=("ask",))) == RunTools(1, [LookUpCall(call(0, "ask"), 2)])


def test_a_person_who_says_run_it_again_makes_it_run_again_and_once() -> None:
    state = after(begun(), asks(reason="outcome_unknown"), ENDED)
    feed(state, *decides(0))
    assert step(state, now=6.0) == RunTools(1, [StartCall(call(0, "buy"), 2)])
    feed(state, begun(attempt=2))
    assert step(state, now=6.0) == RunTools(1, [AskPerson(call(0, "buy"), "outcome_unknown")])


def test_a_person_who_does_not_know_either_makes_it_unknown_to_the_model() -> None:
    state = after(begun(), asks(reason="outcome_unknown"), ENDED)
    feed(state, *decides(0, approve=False))
    found = step(state, now=6.0)
    assert isinstance(found, RunTools)
    assert isinstance(found.actions[0], CloseCall)
    assert found.actions[0].outcome == "outcome_unknown"


# -- timers --


def test_a_timer_closes_its_call_when_it_is_due() -> None:
    state = after(begun(), TimerSet(1, "call_1_0", 0.8, 60.0, "it is time"), names=("look",))
    assert step(state, now=59.0) == Wait(60.0)
    assert step(state, now=60.0) == RunTools(1, [CloseCall(call(0, "look"), "ok", "it is time")])


# -- approvals --


def test_a_call_that_needs_approval_is_asked_for_and_the_others_run() -> None:
    found = step(after(names=("buy", "look")), need_approval={"buy"})
    expected = [AskPerson(call(0, "buy"), "required"), StartCall(call(1, "look"), 1)]
    assert found == RunTools(1, expected)


def test_when_only_a_person_s_word_is_missing_the_response_ends_and_the_call_stays_open() -> None:
    state = after(asks(), begun(1), done(1), names=("buy", "look"))
    assert step(state, need_approval={"buy"}) == Finish("completed")
    feed(state, ENDED)
    assert list(state.waiting) == ["call_1_0"]
    assert [each.call_id for each in state.history if isinstance(each, ToolResult)] == ["call_1_1"]


def test_an_approved_call_runs_in_the_response_that_brought_the_decision() -> None:
    state = feed(after(asks(), ENDED), *decides(0))
    assert step(state, now=6.0, need_approval={"buy"}) == RunTools(
        1, [StartCall(call(0, "buy"), 1)]
    )
    feed(state, begun(), done())
    assert step(state, now=6.0) == CallModel(2, 1)
    assert state.waiting == {}


def test_a_denied_call_is_told_to_the_model_with_the_person_s_reason() -> None:
    state = feed(after(asks(), ENDED), *decides(0, approve=False))
    found = step(state, now=6.0)
    assert isinstance(found, RunTools)
    (closed,) = found.actions
    assert isinstance(closed, CloseCall)
    assert json.loads(closed.output)["human"] == "refused by a person: too dear"


def test_the_prompt_has_the_result_before_what_else_came_with_the_decision() -> None:
    state = feed(after(asks(), ENDED), *decides(0, say="and hurry"), begun(), done(output="bought"))
    prompt = Prompt(b"", {}, reply_tool=False)
    prompt.extend(state.history)
    messages = json.loads(b"[" + prompt.messages + b"]")
    assert [each["role"] for each in messages] == ["user", "assistant", "tool", "user"]
    assert messages[2]["content"] == "bought"
    assert messages[3]["content"] == "and hurry"


def test_with_one_of_two_decided_the_model_waits_for_the_other() -> None:
    state = after(asks(0), asks(1), ENDED, names=("buy", "buy"))
    feed(state, *decides(0), begun(0), done(0))
    assert step(state, now=6.0) == Finish("completed")
    feed(state, ResponseFinished("r2", 6.0, "completed"))
    feed(state, *decides(1))
    assert step(state, now=7.0) == RunTools(1, [StartCall(call(1, "buy"), 1)])


def test_what_was_said_with_the_last_of_several_decisions_reaches_the_model() -> None:
    state = after(asks(0), asks(1), asks(2), ENDED, names=("buy", "buy", "buy"))
    feed(state, *decides(0), begun(0), done(0), ResponseFinished("r2", 6.0, "completed"))
    first, *rest = decides(1, 2, say="and hurry")
    assert isinstance(first, ResponseAccepted)
    feed(state, msgspec.structs.replace(first, response_id="r3"), *rest)
    feed(state, begun(1), done(1), begun(2), done(2))
    prompt = Prompt(b"", {}, reply_tool=False)
    prompt.extend(state.history)
    messages = json.loads(b"[" + prompt.messages + b"]")
    assert [each["role"] for each in messages] == ["user", "assistant", *["tool"] * 3, "user"]
    assert messages[-1]["content"] == "and hurry"


def test_a_decision_on_what_does_not_wait_changes_nothing() -> None:
    state = feed(after(asks(), ENDED), *decides(0), begun(), done())
    before = len(state.history)
    feed(state, ApprovalDecided("mcpr_0", "call_1_0", 6.0, True))
    assert len(state.history) == before
    assert step(state, now=6.0) == CallModel(2, 1)


def test_a_cancelled_response_closes_what_waited_in_it() -> None:
    state = feed(after(asks()), ResponseFinished("r1", 1.0, "cancelled"))
    assert state.waiting == {}
    assert isinstance(state.history[-1], ToolResult)
    assert state.history[-1].outcome == "refused"


def test_folding_in_two_parts_is_folding_at_once_with_approvals_too() -> None:
    turn = ModelResult(1, 1, 0.6, calls=[call(0, "buy"), call(1, "buy")])
    log = [
        *BEGUN,
        ModelIntent(1, 1, 0.5),
        turn,
        asks(0),
        asks(1),
        ENDED,
        *decides(0, 1, say="x"),
        begun(1),
        done(1),
        begun(0),
        done(0),
    ]
    recorded = [Recorded(seq, event) for seq, event in enumerate(log, 1)]
    whole = fold_all(recorded)
    for cut in range(len(log)):
        assert fold_all(recorded[cut:], fold_all(recorded[:cut])) == whole


# -- forks --


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["call_3_0"], 4),
        (["call_3_0", "call_12_1_2"], 13),
        (["call_x", "call_9", "abc", f"call_{'9' * 30}_0"], 5),
    ],
)
def test_a_fork_s_calls_get_other_ids_than_those_that_it_began_with(
    ids: list[str], expected: int
) -> None:
    items = [
        {"type": "function_call", "call_id": each, "name": "look", "arguments": "{}"}
        for each in ids
    ]
    started, accepted = BEGUN
    state = feed(State(), started, HistoryImported("c", "r", items), accepted)
    assert step(state) == CallModel(expected, 1)


# -- calls that begin while their turn is written --


def test_a_turn_that_dies_after_a_call_of_it_began_is_closed_with_that_call() -> None:
    log = [*BEGUN, ModelIntent(1, 1, 0.5), OutputDelta(1, 1, "text", "let me ")]
    log += [CallReady(1, 1, call(0, "count")), begun(0)]
    state = fold_all(Recorded(seq, event) for seq, event in enumerate(log, 1))
    assert step(state) == CloseTurn(1, 1)
    assert state.run is not None
    assert state.run.streamed_text == ["let me "]
    feed(state, ModelResult(1, 1, 0.9, text="let me ", calls=[call(0, "count")]))
    assert step(state) == RunTools(1, [StartCall(call(0, "count"), 2)])


def test_a_result_that_came_before_its_turn_was_whole_counts_when_it_is() -> None:
    log = [*BEGUN, ModelIntent(1, 1, 0.5), CallReady(1, 1, call(0, "look")), begun(0), done(0)]
    state = fold_all(Recorded(seq, event) for seq, event in enumerate(log, 1))
    feed(state, ModelResult(1, 1, 0.9, calls=[call(0, "look")]))
    assert step(state) == CallModel(2, 1)
    assert [type(each) for each in state.history] == [ResponseAccepted, ModelResult, ToolResult]


def test_a_tool_s_cost_counts_in_the_budget() -> None:
    state = after(begun(), ToolResult(1, "call_1_0", 0.8, "out", cost_usd=0.5))
    assert state.run is not None
    assert state.run.spent.cost_usd == 0.5
    assert state.total.cost_usd == 0.5, "in the conversation's, too"
