"""The fold, and what follows from it: the crash table as values."""

from __future__ import annotations

from typing import Any

from orchestrator.journal.base import Recorded
from orchestrator.loop.events import (
    AnyEvent,
    Call,
    CancelRequested,
    ConversationStarted,
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    OutputDelta,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
    decode,
    encode,
)
from orchestrator.loop.machine import fold, fold_all, next_step
from orchestrator.loop.state import (
    AskPerson,
    CallModel,
    Finish,
    Idle,
    LookUpCall,
    RunTools,
    StartCall,
    State,
    Step,
    Wait,
)
from orchestrator.loop.turn_rules import backoff_s
from serving.config.agent import AgentLimits

KINDS: dict[str, Any] = {"look": "pure", "count": "idempotent", "ask": "queryable", "buy": "unsafe"}
LIMITS = AgentLimits()
BEGUN: list[AnyEvent] = [
    ConversationStarted("desk@1", 0.0),
    ResponseAccepted("r", 0.0, [{"role": "user", "content": "go"}]),
]


def after(*events: AnyEvent) -> State:
    return fold_all(Recorded(seq, event) for seq, event in enumerate([*BEGUN, *events], 1))


def step(state: State, now: float = 1.0, limits: AgentLimits = LIMITS) -> Step:
    return next_step(state, limits, KINDS, now)


def asks(*names: str, at: int = 1) -> list[AnyEvent]:
    """A turn whose answer is these calls."""
    calls = [Call(f"call_{at}_{index}", name, "{}") for index, name in enumerate(names)]
    return [ModelIntent(at, 1, 0.5), ModelResult(at, 1, 0.6, calls=calls)]


def begun(index: int, at: int = 1, attempt: int = 1) -> ToolIntent:
    return ToolIntent(at, f"call_{at}_{index}", f"c:{at}:call_{at}_{index}", 0.7, attempt)


def done(index: int, at: int = 1) -> ToolResult:
    return ToolResult(at, f"call_{at}_{index}", 0.8, "out")


def started(found: Step) -> list[tuple[str, int]]:
    assert isinstance(found, RunTools)
    starts = [each for each in found.actions if isinstance(each, StartCall)]
    return [(each.call.call_id, each.attempt) for each in starts]


def asked(found: Step) -> list[tuple[str, str]]:
    assert isinstance(found, RunTools)
    return [(each.call.name, each.reason) for each in found.actions if isinstance(each, AskPerson)]


def test_an_empty_log_is_idle() -> None:
    assert step(State()) == Idle()


def test_a_request_begins_with_a_model_turn() -> None:
    assert step(after()) == CallModel(1, 1)


def test_a_model_intent_without_a_result_is_asked_again_and_superseded() -> None:
    state = after(ModelIntent(1, 1, 0.5), OutputDelta(1, 1, "text", "abcd"))
    assert step(state) == CallModel(1, 2, supersedes=1)
    assert state.run is not None
    assert state.run.streamed_chars == 4


def test_a_turn_with_calls_leads_to_their_tools() -> None:
    found = step(after(*asks("look", "buy")))
    assert isinstance(found, RunTools)
    assert started(found) == [("call_1_0", 1), ("call_1_1", 1)]
    assert asked(found) == []


def test_an_intent_without_a_result_runs_again_only_where_that_is_safe() -> None:
    state = after(*asks("look", "count", "ask", "buy"), *(begun(index) for index in range(4)))
    found = step(state)
    assert isinstance(found, RunTools)
    assert started(found) == [("call_1_0", 2), ("call_1_1", 2)]
    assert asked(found) == [("buy", "outcome_unknown")]
    assert LookUpCall(Call("call_1_2", "ask", "{}"), 2) in found.actions


def test_a_tool_that_is_no_longer_there_counts_as_unsafe() -> None:
    found = step(after(*asks("gone"), begun(0)))
    assert isinstance(found, RunTools)
    assert asked(found) == [("gone", "outcome_unknown")]


def test_with_one_of_three_parallel_calls_done_only_the_others_run() -> None:
    found = step(after(*asks("look", "look", "count"), begun(0), begun(1), done(1)))
    assert isinstance(found, RunTools)
    assert started(found) == [("call_1_0", 2), ("call_1_2", 1)]


def test_with_all_results_the_next_turn_comes() -> None:
    assert step(after(*asks("look"), begun(0), done(0))) == CallModel(2, 1)


def test_results_of_parallel_calls_are_shown_in_the_order_of_the_calls() -> None:
    slow_last = after(*asks("look", "look"), begun(0), begun(1), done(1), done(0))
    fast_last = after(*asks("look", "look"), begun(0), begun(1), done(0), done(1))
    assert slow_last.history == fast_last.history


def test_a_second_result_of_a_call_changes_nothing() -> None:
    state = after(*asks("look"), begun(0), done(0), ToolResult(1, "call_1_0", 0.9, "other"))
    assert state.history[-1] == done(0)


def test_text_without_calls_completes_the_response() -> None:
    state = after(ModelIntent(1, 1, 0.5), ModelResult(1, 1, 0.6, text="hello"))
    assert step(state) == Finish("completed")
    fold(state, ResponseFinished("r", 0.7, "completed"))
    assert step(state) == Idle()
    assert state.last_status == "completed"


def test_a_reply_completes_the_response_and_calls_beside_it_do_not_run() -> None:
    calls = [Call("a", "reply", '{"text":"hi"}'), Call("b", "buy", "{}")]
    state = after(ModelIntent(1, 1, 0.5), ModelResult(1, 1, 0.6, text="hi", calls=calls))
    assert step(state) == Finish("completed")


def test_a_reply_without_usable_text_is_a_call_that_gets_an_answer() -> None:
    calls = [Call("a", "reply", '{"texts":"hi"}')]
    state = after(ModelIntent(1, 1, 0.5), ModelResult(1, 1, 0.6, calls=calls))
    assert isinstance(step(state), RunTools)


def test_a_truncated_answer_is_incomplete() -> None:
    state = after(ModelIntent(1, 1, 0.5), ModelResult(1, 1, 0.6, finish_reason="length"))
    found = step(state)
    assert isinstance(found, Finish)
    assert (found.status, found.code) == ("incomplete", "max_output_tokens")


def failed(attempt: int, *, retry: bool = True, at: float = 1.0) -> list[AnyEvent]:
    return [
        ModelIntent(1, attempt, at),
        ModelFailed(1, attempt, at, "engine gone", "engine_failed", retry),
    ]


def test_a_failed_attempt_waits_then_tries_again_by_the_journal_s_time() -> None:
    state = after(*failed(1, at=1.0))
    assert step(state, now=1.0) == Wait(1.0 + backoff_s(1))
    assert step(state, now=1.25) == CallModel(1, 2)
    assert [backoff_s(n) for n in (1, 2, 3, 9)] == [0.25, 0.5, 1.0, 5.0]


def test_attempts_are_bounded_and_restarts_do_not_count_as_failures() -> None:
    superseded = ModelFailed(1, 2, 2.0, "died", "superseded", superseded=True)
    state = after(*failed(1), ModelIntent(1, 2, 2.0), superseded)
    assert step(state, now=9.0) == CallModel(1, 3)
    for attempt in (3, 4):
        for event in failed(attempt, at=9.0):
            fold(state, event)
    assert step(state, now=99.0) == Finish("failed", "engine_failed", "engine gone")


def test_an_error_that_cannot_be_helped_by_asking_again_fails_at_once() -> None:
    assert step(after(*failed(1, retry=False)), now=99.0) == Finish(
        "failed", "engine_failed", "engine gone"
    )


def test_cancelling_wins_over_everything_that_is_open() -> None:
    state = after(*asks("buy"), begun(0), CancelRequested("r", 0.9))
    assert step(state) == Finish("cancelled")
    fold(state, ResponseFinished("r", 1.0, "cancelled"))
    # The next prompt needs an answer to every call.
    assert isinstance(state.history[-1], ToolResult)
    assert state.history[-1].outcome == "refused"


def test_a_cancel_of_another_response_is_ignored() -> None:
    assert step(after(CancelRequested("other", 0.9))) == CallModel(1, 1)


def test_a_limit_ends_the_response_as_incomplete_and_survives_a_restart() -> None:
    limits = AgentLimits(max_seconds=10)
    found = step(after(), now=10.0, limits=limits)
    assert isinstance(found, Finish)
    assert (found.status, found.code) == ("incomplete", "max_seconds")
    assert found.limit is not None
    again = step(after(LimitReached("seconds", 10, 10, 10.0)), now=0.5)
    assert isinstance(again, Finish)
    assert again.code == "max_seconds"


def test_an_answer_that_is_there_beats_a_limit() -> None:
    state = after(ModelIntent(1, 1, 0.5), ModelResult(1, 1, 0.6, text="hello"))
    assert step(state, now=1e9) == Finish("completed")


def test_budgets_add_up_over_turns() -> None:
    first = ModelResult(1, 1, 0.6, calls=[Call("call_1_0", "look", "{}")], prompt_tokens=7)
    state = after(ModelIntent(1, 1, 0.5), first, begun(0), done(0), ModelIntent(2, 1, 0.9))
    fold(state, ModelResult(2, 1, 1.0, text="x", prompt_tokens=5, cost_usd=0.1))
    assert state.run is not None
    spent = state.run.spent
    assert (spent.turns, spent.tool_calls, spent.prompt_tokens) == (2, 1, 12)


def test_calls_of_client_tools_end_the_response_and_stay_open() -> None:
    request = {"tools": [{"type": "function", "name": "weather"}]}
    state = fold_all([Recorded(1, ResponseAccepted("r", 0.0, [], request))])
    for event in asks("weather", "look"):
        fold(state, event)
    found = step(state)
    assert isinstance(found, RunTools)
    assert started(found) == [("call_1_1", 1)]
    fold(state, begun(1))
    fold(state, done(1))
    assert step(state) == Finish("completed")
    fold(state, ResponseFinished("r", 1.0, "completed"))
    assert [each.call_id for each in state.history if isinstance(each, ToolResult)] == ["call_1_1"]


def test_steps_count_through_the_whole_conversation() -> None:
    state = after(ModelIntent(1, 1, 0.5), ModelResult(1, 1, 0.6, text="a"))
    fold(state, ResponseFinished("r", 0.7, "completed"))
    fold(state, ResponseAccepted("r2", 5.0, []))
    assert step(state, now=6.0) == CallModel(2, 1)


def test_folding_in_two_parts_is_folding_at_once() -> None:
    log = [*BEGUN, *asks("look", "count"), begun(0), done(0), begun(1), done(1)]
    recorded = [Recorded(seq, event) for seq, event in enumerate(log, 1)]
    for cut in range(len(log)):
        assert fold_all(recorded[cut:], fold_all(recorded[:cut])) == fold_all(recorded)


def test_events_survive_the_journal_s_encoding() -> None:
    log = [*BEGUN, *asks("look"), begun(0), done(0), *failed(1)]
    assert [decode(encode(event)) for event in log] == log


def test_a_turn_that_finds_no_engine_waits_for_one_without_using_up_its_attempts() -> None:
    state = State()
    limits = AgentLimits(model_attempts=2, engine_wait_s=60)
    fold(state, ConversationStarted("a@1", 0.0))
    fold(state, ResponseAccepted("resp_1", 0.0, []))
    for attempt in range(1, 8):
        at = attempt * 5.0
        fold(state, ModelIntent(1, attempt, at))
        fold(state, ModelFailed(1, attempt, at, "no engine", "no_engine_ready", retry=True))
        step = next_step(state, limits, {}, at + 100)
        assert step == CallModel(1, attempt + 1)
    fold(state, ModelIntent(1, 8, 70.0))
    fold(state, ModelFailed(1, 8, 70.0, "no engine", "no_engine_ready", retry=True))
    assert next_step(state, limits, {}, 70.0) == Finish("failed", "no_engine_ready", "no engine")
