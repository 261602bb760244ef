"""What the report advises: each rule by figures that it must and must not speak up for."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.report_advice import advice
from benchmarks.report_evidence import Evidence
from benchmarks.report_figures import Agents, Capacity, Cost, Latency
from tests.unit.report_runs import case, cost_figures, latency_figures, way


def said(*, cost: Any = None, latency: Any = None) -> dict[str, str]:
    """What is advised → its kind."""
    evidence = Evidence(
        Cost.model_validate(cost) if cost else None,
        Latency.model_validate(latency) if latency else None,
        None,
        None,
    )
    return {f"{each.found} {each.do}": each.kind for each in advice(evidence)}


def kind_of(found: dict[str, str], part: str) -> str:
    [kind] = [kind for text, kind in found.items() if part in text]
    return kind


def test_a_low_hit_rate_is_to_be_changed_and_a_high_one_kept() -> None:
    figures = cost_figures()
    assert kind_of(said(cost=figures), "90% of the prompt tokens are found") == "keep"
    figures["accounts"][0]["ways"][-1] = way("+ routing", 0.002, cached=400.0)
    assert kind_of(said(cost=figures), "`kv_cache_gib`") == "change"


def test_lost_answers_a_large_models_share_and_a_dearer_step_are_to_be_changed() -> None:
    figures = cost_figures()
    figures["accounts"][0]["ways"][-1] = {**way("+ routing", 0.006, right=20), "small_share": 0.1}
    found = said(cost=figures)
    assert kind_of(found, "`tiers.quality_floor`") == "change"
    assert kind_of(found, "The large model gives 90% of the answers") == "change"
    assert kind_of(found, "Routing makes a task 20% dearer") == "change"
    assert [*found.values()] == sorted(
        found.values(), key=["change", "look", "again", "keep"].index
    )


def test_a_step_that_changes_no_token_is_not_called_dearer_for_a_machines_noise() -> None:
    figures = cost_figures()
    for account in figures["accounts"]:
        same = account["ways"][1]["usd"]
        account["ways"][2] = way("+ routing", same)
    figures["accounts"][0]["ways"][2]["usd"] *= 1.05
    found = said(cost=figures)
    assert kind_of(found, "Routing changes nothing here") == "look"
    assert not [text for text in found if "dearer" in text]


def test_what_binds_first_is_said_with_what_moves_it() -> None:
    one = {"replicas": 1, "agents": 8, "binds": "prefill", "tasks_a_day": 744.6, "usd_a_task": 0.1}
    found = advice(Evidence(None, None, None, None, Capacity.model_validate({"clusters": [one]})))
    assert [each.found for each in found] == [
        "Replicas: 1. They serve 8 agents at once, 745 tasks a day; prefill binds first."
    ]


def test_a_machine_that_never_pays_is_no_machine_to_own() -> None:
    figures = cost_figures()
    assert kind_of(said(cost=figures), "From 4 billion tokens a month") == "look"
    figures["break_even"][0]["share"] = 1.4
    assert kind_of(said(cost=figures), "a card never pays") == "change"


def test_waiting_asks_for_replicas_and_a_long_answer_for_a_shorter_one() -> None:
    figures = latency_figures()
    assert kind_of(said(latency=figures), "75% of a warm turn is writing the answer") == "look"
    assert kind_of(said(latency=figures), "A cold turn takes 3 times as long") == "keep"
    figures["cases"].append(case("stack", "warm", 4.0, sessions=32, queue=0.4))
    assert (
        kind_of(said(latency=figures), "With 32 at once 40% of a warm turn is waiting") == "change"
    )


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0.0, 0.02, "keep"), (0.0, 0.3, "again"), (-0.4, -0.1, "again"), (0.06, 0.09, "change")],
)
def test_what_the_stack_adds_is_judged_by_its_interval(low: float, high: float, kind: str) -> None:
    figures = latency_figures()
    figures["compared"][0]["share"] = {"value": (low + high) / 2, "low": low, "high": high}
    assert kind_of(said(latency=figures), "The stack adds") == kind


def test_where_the_best_model_fails_and_which_one_is_the_cheapest_is_said() -> None:
    def model(name: str, solved: float, usd: float) -> dict[str, Any]:
        some = {"value": 1.0, "low": 1.0, "high": 1.0}
        fields = ("turns", "tool_errors", "fresh", "cached", "output", "cost_usd", "seconds")
        return {
            **dict.fromkeys(fields, some),
            "model": name,
            "tasks": 20,
            "solved": {"value": solved, "low": 0.1, "high": 0.9},
            "usd_a_solved_task": usd,
            "by_kind": {"look_up": [9, 10], "several": [3, 10]},
        }

    models = [model("small", 0.3, 0.0002), model("large", 0.6, 0.002)]
    agents = Agents.model_validate({"models": models})
    first, second = advice(Evidence(None, None, None, agents))
    assert (first.kind, second.kind) == ("change", "look")
    assert first.found == (
        "large solves the most: 60% of 20 tasks, but fewer than half of the kinds several."
    )
    assert "small has the cheapest solved task" in second.found
