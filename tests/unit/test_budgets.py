"""Limits of a response."""

from __future__ import annotations

from orchestrator import budgets
from orchestrator.budgets import Spent
from orchestrator.events import Call
from serving.config import AgentLimits


def limits(**values: object) -> AgentLimits:
    return AgentLimits.model_validate(values)


def call(arguments: str, name: str = "search") -> Call:
    return Call("id", name, arguments)


def test_within_all_limits_nothing_is_reached() -> None:
    spent = Spent(since=0)
    assert budgets.overall(spent, limits(), 1) is None
    assert budgets.before_model(spent, limits(), 1) is None
    assert budgets.before_tools(spent, 1, limits(), 1) is None


def test_seconds_count_from_the_acceptance_whatever_happened_in_between() -> None:
    reached = budgets.overall(Spent(since=100), limits(max_seconds=60), 160)
    assert reached is not None
    assert (reached.kind, reached.value, reached.limit) == ("seconds", 60, 60)
    assert budgets.deadline(Spent(since=100), limits(max_seconds=60)) == 160


def test_tokens_are_prompt_and_output_together() -> None:
    spent = Spent(since=0, prompt_tokens=90, output_tokens=10)
    assert budgets.overall(spent, limits(max_tokens=101), 1) is None
    reached = budgets.overall(spent, limits(max_tokens=100), 1)
    assert reached is not None
    assert reached.kind == "tokens"


def test_cost_is_limited_only_where_a_limit_is_set() -> None:
    spent = Spent(since=0, cost_usd=0.5)
    assert budgets.overall(spent, limits(), 1) is None
    reached = budgets.overall(spent, limits(max_cost_usd=0.5), 1)
    assert reached is not None
    assert reached.kind == "cost"


def test_a_turn_over_the_limit_is_not_begun() -> None:
    assert budgets.before_model(Spent(since=0, turns=2), limits(max_turns=3), 1) is None
    reached = budgets.before_model(Spent(since=0, turns=3), limits(max_turns=3), 1)
    assert reached is not None
    assert reached.kind == "turns"


def test_parallel_calls_that_would_go_over_the_limit_do_not_run_at_all() -> None:
    spent = Spent(since=0, tool_calls=3)
    assert budgets.before_tools(spent, 1, limits(max_tool_calls=4), 1) is None
    reached = budgets.before_tools(spent, 2, limits(max_tool_calls=4), 1)
    assert reached is not None
    assert (reached.kind, reached.value) == ("tool_calls", 5)


def test_the_same_call_three_turns_in_a_row_trips_the_breaker() -> None:
    spent = Spent(since=0)
    for _ in range(2):
        spent.count_calls([call("{}")])
        assert budgets.before_tools(spent, 1, limits(), 1) is None
    spent.count_calls([call("{}")])
    reached = budgets.before_tools(spent, 1, limits(), 1)
    assert reached is not None
    assert (reached.kind, reached.value) == ("same_call", 3)


def test_another_call_in_between_starts_the_count_again() -> None:
    spent = Spent(since=0)
    for arguments in ("{}", "{}", '{"a":1}', "{}", "{}"):
        spent.count_calls([call(arguments)])
        assert budgets.before_tools(spent, 1, limits(), 1) is None


def test_equal_calls_within_one_turn_count_each() -> None:
    spent = Spent(since=0)
    spent.count_calls([call("{}"), call("{}"), call("{}")])
    assert budgets.before_tools(spent, 3, limits(), 1) is not None


def test_a_set_of_parallel_calls_that_repeats_counts_as_one_repetition_a_turn() -> None:
    spent = Spent(since=0)
    for _ in range(3):
        spent.count_calls([call("1"), call("2")])
    assert spent.repeats == 3


def test_every_limit_is_explained_with_its_numbers() -> None:
    reached = budgets.before_model(Spent(since=0, turns=3), limits(max_turns=3), 1)
    assert reached is not None
    assert budgets.explain(reached) == ("max_turns", "the limit of 3 model turns is reached")
