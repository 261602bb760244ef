"""Limits of a response."""

from __future__ import annotations

from typing import Any

from orchestrator.loop import budgets
from orchestrator.loop.budgets import Bounds, Spent, Totals
from orchestrator.loop.events import Call, LimitReached, ModelResult
from serving.config.agent import AgentLimits
from serving.config.tenancy import BudgetConfig


def limits(**values: object) -> AgentLimits:
    return AgentLimits.model_validate(values)


def call(arguments: str, name: str = "search") -> Call:
    return Call("id", name, arguments)


def bounds(spent: Spent, now: float = 1, **values: object) -> Bounds:
    chosen = limits(**values)
    return Bounds(chosen, budgets.of_response(spent, chosen, now), now)


def cut(spent: Spent, now: float = 1, **values: object) -> LimitReached | None:
    return bounds(spent, now, **values).cut(asking=True)


def test_within_all_limits_nothing_is_reached() -> None:
    spent = Spent(since=0)
    assert cut(spent) is None
    assert bounds(spent).nearly() is None
    assert bounds(spent).warnings() == []
    assert bounds(spent).before_tools(spent, 1, 1) is None


def test_seconds_count_from_the_acceptance_whatever_happened_in_between() -> None:
    reached = cut(Spent(since=100), 160, max_seconds=60)
    assert reached is not None
    assert (reached.kind, reached.value, reached.limit) == ("seconds", 60, 60)
    assert budgets.deadline(Spent(since=100), limits(max_seconds=60)) == 160


def test_tokens_are_prompt_and_output_together() -> None:
    spent = Spent(since=0, prompt_tokens=90, output_tokens=10)
    assert cut(spent, max_tokens=101) is None
    reached = cut(spent, max_tokens=100)
    assert reached is not None
    assert reached.kind == "tokens"


def test_cost_is_limited_only_where_a_limit_is_set() -> None:
    spent = Spent(since=0, cost_usd=0.5)
    assert cut(spent) is None
    reached = cut(spent, max_cost_usd=0.5)
    assert reached is not None
    assert reached.kind == "cost"


def test_a_turn_over_the_limit_is_not_begun() -> None:
    assert cut(Spent(since=0, turns=2), max_turns=3) is None
    spent = Spent(since=0, turns=3)
    reached = cut(spent, max_turns=3)
    assert reached is not None
    assert reached.kind == "turns"
    assert bounds(spent, max_turns=3).cut(asking=False) is None, "its calls may run"


def test_a_turn_that_may_go_over_a_limit_had_better_be_the_last() -> None:
    spent = Spent(since=0)
    spent.begin_turn(10)
    spent.add(ModelResult(1, 1, 15, prompt_tokens=90, output_tokens=10, cost_usd=0.2))
    for values, kind in (
        ({"max_turns": 2}, "turns"),
        ({"max_tokens": 200}, "tokens"),
        ({"max_cost_usd": 0.4}, "cost"),
        ({"max_seconds": 40}, "seconds"),  # 20 have passed, and 10 of them in this turn
    ):
        near = bounds(spent, 30, **values).nearly()
        assert near is not None, values
        assert near.kind == kind
    for values in ({"max_turns": 3}, {"max_tokens": 201}, {"max_cost_usd": 0.5}):
        assert bounds(spent, 30, **values).nearly() is None, values


def test_four_fifths_of_a_limit_are_worth_a_warning() -> None:
    assert bounds(Spent(since=0, turns=7), max_turns=10).warnings() == []
    (found,) = bounds(Spent(since=0, turns=8), max_turns=10).warnings()
    assert found.name == "response.turns"
    assert bounds(Spent(since=0, turns=9), max_turns=10, warn_at=1).warnings() == []


def test_a_conversation_s_limits_count_all_its_responses() -> None:
    total = Totals(turns=7, tokens=500, cost_usd=1.0, seconds=60)
    chosen = limits(conversation={"max_turns": 7, "max_cost_usd": 2.0})
    caps = budgets.of_conversation(total, Spent(since=0), chosen)
    assert [(cap.name, cap.used) for cap in caps] == [
        ("conversation.turns", 7),
        ("conversation.cost", 1.0),
    ]
    reached = Bounds(chosen, caps, 1).cut(asking=True)
    assert reached is not None
    assert budgets.explain(reached) == (
        "conversation_max_turns",
        "the limit of 7 model turns is reached (of the whole conversation)",
    )


def test_seconds_of_model_turns_are_not_those_of_the_tools_between_them() -> None:
    spent, total = Spent(since=0), Totals()
    answer = ModelResult(1, 1, 15, seconds=5)
    spent.begin_turn(10)
    spent.add(answer)
    total.add(answer)
    spent.begin_turn(1210)  # its calls took twenty minutes
    for most, is_near in ((600, False), (11, False), (10, True)):
        tenant = BudgetConfig(max_seconds=most)
        own = limits(conversation={"max_seconds": most}, max_seconds=9999)
        for caps in (
            budgets.of_tenant(total, tenant, spent, expected=1),
            budgets.of_conversation(total, spent, own),
        ):
            assert (Bounds(own, list(caps), 1211).nearly() is not None) == is_near


def test_parallel_calls_that_would_go_over_the_limit_do_not_run_at_all() -> None:
    spent = Spent(since=0, tool_calls=3)
    assert before_tools(spent, 1, max_tool_calls=4) is None
    reached = before_tools(spent, 2, max_tool_calls=4)
    assert reached is not None
    assert (reached.kind, reached.value) == ("tool_calls", 5)


def before_tools(spent: Spent, waiting: int, now: float = 1, **values: object) -> Any:
    return bounds(spent, now, **values).before_tools(spent, waiting, waiting)


def test_many_calls_in_a_turn_or_in_a_minute_are_a_storm() -> None:
    assert before_tools(Spent(since=0), 5, max_calls_a_turn=5) is None
    assert before_tools(Spent(since=0), 6, max_calls_a_turn=5).kind == "storm"
    spent = Spent(since=0)
    for at in (1.0, 2.0, 50.0):
        spent.count_call(at)
    assert before_tools(spent, 1, 59, max_calls_a_minute=3).kind == "storm"
    assert before_tools(spent, 1, 61.5, max_calls_a_minute=3) is None
    spent.count_call(500.0)
    assert spent.call_times == [500.0], "only the last minute is kept"


def test_the_same_call_three_turns_in_a_row_trips_the_breaker() -> None:
    spent = Spent(since=0)
    for _ in range(2):
        spent.count_calls([call("{}")])
        assert before_tools(spent, 1) is None
    spent.count_calls([call("{}")])
    reached = before_tools(spent, 1)
    assert reached is not None
    assert (reached.kind, reached.value) == ("same_call", 3)


def test_another_call_in_between_starts_the_count_again() -> None:
    spent = Spent(since=0)
    for arguments in ("{}", "{}", '{"a":1}', "{}", "{}"):
        spent.count_calls([call(arguments)])
        assert before_tools(spent, 1) is None


def test_equal_calls_within_one_turn_count_each() -> None:
    spent = Spent(since=0)
    spent.count_calls([call("{}"), call("{}"), call("{}")])
    assert before_tools(spent, 3) is not None


def test_a_set_of_parallel_calls_that_repeats_counts_as_one_repetition_a_turn() -> None:
    spent = Spent(since=0)
    for _ in range(3):
        spent.count_calls([call("1"), call("2")])
    assert spent.repeats == 3


def test_every_limit_is_explained_with_its_numbers() -> None:
    reached = cut(Spent(since=0, turns=3), max_turns=3)
    assert reached is not None
    assert budgets.explain(reached) == ("max_turns", "the limit of 3 model turns is reached")
