"""What the loop says of its turns to whoever chose the model."""

from __future__ import annotations

import pytest

from orchestrator.loop.events import (
    AnyEvent,
    Call,
    ConversationStarted,
    LimitReached,
    ModelIntent,
    ModelResult,
    Notice,
    ResponseAccepted,
    ToolIntent,
    ToolResult,
)
from orchestrator.loop.machine import fold
from orchestrator.loop.state import State
from orchestrator.worker.turn_outcomes import TurnOutcomes


def told(*events: AnyEvent) -> list[tuple[str, str, bool]]:
    """What is reported of a run with these events."""
    reports: list[tuple[str, str, bool]] = []
    outcomes = TurnOutcomes(lambda *said: reports.append(said))
    state = State()
    for event in (*BEGUN, *events):
        fold(state, event)
        outcomes.take(event, state)
    return reports


BEGUN: tuple[AnyEvent, ...] = (
    ConversationStarted("desk@1", 0.0, "acme"),
    ResponseAccepted("resp_1", 0.0, [], tenant="acme"),
)


def turn(step: int, *call_ids: str, attempt: int = 1) -> tuple[AnyEvent, ...]:
    """A turn that makes these calls, and that they are about to run."""
    calls = [Call(each, "look_up", "{}") for each in call_ids]
    return (
        ModelIntent(step, attempt, 1.0),
        ModelResult(step, attempt, 2.0, calls=calls, finish_reason="tool_calls"),
        *(ToolIntent(step, each, f"key-{each}", 3.0) for each in call_ids),
    )


def gave(step: int, call_id: str, outcome: str = "ok", code: str = "") -> ToolResult:
    return ToolResult(step, call_id, 4.0, "text", outcome, code=code)  # type: ignore[arg-type]


def test_a_turn_is_good_when_every_call_has_a_result() -> None:
    assert told(*turn(1, "a", "b"), gave(1, "a")) == []
    assert told(*turn(1, "a", "b"), gave(1, "b"), gave(1, "a")) == [("acme", "resp_1-1-1", True)]
    assert told(*turn(4, "a", attempt=2), gave(4, "a")) == [("acme", "resp_1-4-2", True)]


def test_a_refused_call_makes_its_turn_bad_once() -> None:
    said = told(*turn(1, "a", "b", "c"), gave(1, "b", "refused"), gave(1, "a"), gave(1, "c"))
    assert said == [("acme", "resp_1-1-1", False)]


def test_a_call_whose_arguments_its_tool_finds_wrong_makes_its_turn_bad() -> None:
    wrong = gave(1, "a", "error", "invalid_arguments")
    assert told(*turn(1, "a", "b"), gave(1, "b"), wrong) == [("acme", "resp_1-1-1", False)]
    intent, result, *begun = turn(1, "a", "b")
    assert told(intent, *begun, wrong, result) == [("acme", "resp_1-1-1", False)]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("error", "tool_failed"),
        ("error", "bank_busy"),
        ("error", "tool_unavailable"),
        ("timeout", "timeout"),
        ("outcome_unknown", ""),
        ("refused", "at_limit"),
    ],
)
def test_a_tool_that_fails_and_a_limit_say_nothing_of_the_model(outcome: str, code: str) -> None:
    assert told(*turn(1, "a", "b"), gave(1, "a", outcome, code), gave(1, "b")) == []


def test_a_loop_makes_its_last_turn_bad_though_its_calls_were_taken() -> None:
    loop = LimitReached("same_call", 3, 3, 5.0)
    assert told(*turn(1, "a"), gave(1, "a"), loop) == [
        ("acme", "resp_1-1-1", True),
        ("acme", "resp_1-1-1", False),
    ]
    told_so = Notice(2, "same_state", "you go in circles", 5.0)
    assert told(*turn(1, "a"), gave(1, "a"), told_so)[-1] == ("acme", "resp_1-1-1", False)
    assert told(*turn(1, "a"), LimitReached("turns", 3, 3, 5.0)) == []


def test_calls_that_ran_while_the_model_still_spoke_count_too() -> None:
    intent, result, *begun = turn(1, "a", "b")
    assert told(intent, *begun, gave(1, "a"), gave(1, "b"), result) == [
        ("acme", "resp_1-1-1", True)
    ]
    assert told(intent, begun[0], gave(1, "b", "refused"), result, gave(1, "a")) == [
        ("acme", "resp_1-1-1", False)
    ]


def test_a_turn_of_an_earlier_run_is_not_looked_at() -> None:
    """Its call waited for a person, who said no."""
    assert told(gave(1, "a", "refused")) == []


def test_an_answer_in_words_is_not_ours_to_judge() -> None:
    assert told(*turn(1)) == []
