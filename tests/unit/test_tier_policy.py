"""Small or frontier: floors, prices with a cache, margins, budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.tiers import policy
from router.tiers.history import Belief, Kind, Standing
from router.tiers.policy import Candidate, Case, Floor, Row
from router.tiers.prices import Course, Quote
from serving.config.model import Prices
from serving.config.router import TiersConfig
from serving.tables.base import Tier

SMALL = Prices(fresh=0.05, cached=0.005, output=0.20)
FRONTIER = Prices(fresh=0.30, cached=0.03, output=1.20)


KIND = Kind("a", "", "tool-call")
UNKNOWN = Floor()


def proven(worth_usd: float = 0.0) -> Floor:
    """The small model may have the kind."""
    return Floor(frozenset([KIND]), worth_usd)


def belief(mean: float, variance: float = 0.0, outcomes: float = 1000) -> Belief:
    return Belief(mean, variance, outcomes)


def row(
    small: float,
    frontier: float,
    *,
    weight: float = 1,
    usd: float = 1,
    sd: float = 0,
    task: str = "",
) -> Row:
    kind = KIND._replace(task=task)
    return Row(kind, weight, belief(small, sd**2), belief(frontier, sd**2), usd)


def standing(small: float = 0.7, frontier: float = 0.9, **changes: Any) -> Standing:
    base = Standing(KIND, belief(small), belief(frontier), 0.1, False, 1, 0, 0, 0, False)
    return replace(base, **changes)


def case(
    *,
    warm: Tier | None = None,
    prompt: int = 10_000,
    only: Tier | None = None,
    **changes: Any,
) -> Case:
    """A turn of 10,000 tokens; `warm`: the tier whose engine holds all of it."""
    candidates: dict[Tier, Candidate] = {}
    for tier, prices in (("small", SMALL), ("frontier", FRONTIER)):
        if only in (None, tier):
            quote = Quote(prompt, prompt if tier == warm else 0)
            candidates[tier] = Candidate(prices, quote)  # type: ignore[index]
    base = Case(
        side=False,
        standing=standing(),
        candidates=candidates,
        current=None,
        course=Course(4, 100, 200),
        checkable=False,
        floor=UNKNOWN,
        spent_usd=0.0,
    )
    return replace(base, **changes)


def decide(given: Case, **knobs: Any) -> policy.Choice:
    return policy.decide(given, TiersConfig(**knobs))


# How a floor is kept


def small(balance: list[Row], floor: float, caution: float = 0.0) -> list[str]:
    """The tasks that the small model may have."""
    return sorted(kind.task for kind in policy.keep_floor(balance, floor, caution).small)


def test_small_alone_is_enough_where_it_keeps_the_floor() -> None:
    balance = [row(0.90, 0.92), row(0.88, 0.90)]
    assert policy.keep_floor(balance, 0.95, 1.64) == Floor(frozenset(r.kind for r in balance), 0.0)


def test_the_kinds_with_the_most_to_gain_for_their_price_go_first() -> None:
    balance = [
        row(0.3, 0.9, usd=2.0, task="a"),
        row(0.6, 0.9, usd=1.0, task="b"),
        row(0.85, 0.9, usd=1.0, task="c"),
    ]
    # 1.75 of 2.7: the floor of .85 needs one kind, that of .95 one more.
    assert small(balance, 0.85) == ["a", "c"] or small(balance, 0.85) == ["b", "c"]
    assert small(balance, 0.95) == ["c"]
    assert policy.keep_floor(balance, 0.95, 0).worth_usd == pytest.approx(2.0 / 0.6)


def test_a_higher_floor_never_costs_less() -> None:
    balance = [row(s / 10, 0.9, weight=s, usd=1 + s % 3, task=f"{s}") for s in range(1, 9)]
    floors = [policy.keep_floor(balance, floor / 100, 0) for floor in range(50, 101, 5)]
    worths = [floor.worth_usd for floor in floors]
    counts = [len(floor.small) for floor in floors]
    assert worths == sorted(worths)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_what_is_not_known_well_does_not_keep_a_floor() -> None:
    sure, unsure = row(0.9, 0.9, sd=0.001, task="sure"), row(0.9, 0.9, sd=0.2, task="unsure")
    assert small([sure], 0.95, 1.64) == ["sure"]
    assert small([unsure], 0.95, 1.64) == []
    assert small([unsure], 0.95, 0.0) == ["unsure"]


def test_nothing_known_leaves_nothing_to_the_small_model() -> None:
    assert policy.keep_floor([], 0.95, 1.64) == Floor()


# Where a chain begins


def test_a_side_turn_is_small_until_enough_outcomes_say_otherwise() -> None:
    side = case(side=True, standing=standing(small=0.9))
    assert decide(side).tier == "small"
    poor = replace(side, standing=standing(small=0.5))
    assert decide(poor) == replace(decide(poor), tier="frontier", why="history")
    unproven = replace(side, standing=replace(standing(), small=belief(0.5, outcomes=3)))
    assert decide(unproven).tier == "small"


def test_a_main_turn_is_the_frontiers_until_small_is_known_to_be_good_enough() -> None:
    assert decide(case()) == replace(decide(case()), tier="frontier", why="")
    good = case(floor=proven())
    assert (decide(good).tier, decide(good).why) == ("small", "history")


def test_quality_is_bought_up_to_what_it_is_worth() -> None:
    # The frontier costs some $0.004 more over four turns, for 0.8 right answers more.
    assert decide(case(floor=proven(0.0001))).tier == "small"
    assert decide(case(floor=proven(1.0))).tier == "frontier"


def test_chance_tries_the_small_model_only_where_it_can_be_asked_again() -> None:
    tried = decide(case(explores=True, checkable=True))
    assert (tried.tier, tried.why) == ("small", "explore")
    assert decide(case(explores=True, checkable=False)).tier == "frontier"


# A chain that has a model


def test_a_warm_frontier_is_not_left_for_a_cheaper_model_that_must_read_everything() -> None:
    """2,000 tokens are read for what one answer saves, 200,000 are not."""
    for prompt, tier in ((2_000, "small"), (200_000, "frontier")):
        begun = case(
            warm="frontier",
            prompt=prompt,
            current="frontier",
            floor=proven(),
            course=Course(1, 1000, 1000),
        )
        assert decide(begun).tier == tier


def test_a_change_says_what_it_gains_and_needs_more_than_the_margin() -> None:
    begun = case(warm="frontier", prompt=1000, current="frontier", floor=proven())
    moved = decide(begun, margin=0.2)
    assert (moved.tier, moved.why) == ("small", "priced")
    assert moved.gain_usd is not None
    assert moved.gain_usd > 0.2 * moved.prices_usd["frontier"]
    stays = decide(begun, margin=2.0)
    assert (stays.tier, stays.why, stays.gain_usd) == ("frontier", "stays", None)


def test_a_chain_on_small_stays_there_while_too_little_is_known() -> None:
    begun = case(warm="small", current="small")
    assert (decide(begun).tier, decide(begun).why) == ("small", "stays")


def test_a_chain_moves_up_when_better_answers_are_worth_the_price() -> None:
    begun = case(warm="small", prompt=1000, current="small", floor=proven(1.0))
    moved = decide(begun)
    assert (moved.tier, moved.why) == ("frontier", "priced")
    assert moved.gain_usd is not None
    assert decide(replace(begun, trying=True)).tier == "small"


def test_after_an_escalation_the_session_stays_where_it_is_cheaper() -> None:
    both_warm = case(warm="frontier", checkable=True, standing=standing(escalation_rate=0.95))
    stays, gain = policy.stays_after_escalation(both_warm)
    assert stays
    assert gain > 0
    seldom = case(warm="small", checkable=True, standing=standing(escalation_rate=0.01))
    assert not policy.stays_after_escalation(seldom)[0]


# Rules


def test_a_policy_is_obeyed_whatever_is_known() -> None:
    assert decide(case(), policy="small").tier == "small"
    assert decide(case(floor=proven()), policy="frontier").tier == "frontier"


def test_a_session_without_budget_gets_the_small_model_or_a_refusal() -> None:
    spent = case(spent_usd=0.02, current="frontier")
    left = decide(spent, budget_usd=0.02)
    assert (left.tier, left.why, left.refused) == ("small", "budget", False)
    assert left.gain_usd is not None
    assert decide(spent, budget_usd=0.02, when_spent="refuse").refused
    assert decide(spent, budget_usd=0.03).tier == "frontier"
    assert decide(replace(case(only="frontier"), spent_usd=0.02), budget_usd=0.02).refused


def test_the_other_tier_stands_in_and_says_so() -> None:
    assert decide(case(only="small")).why == "frontier-not-ready"
    assert decide(case(only="frontier", side=True)).why == "small-not-ready"
    assert decide(case(only="frontier")).why == ""
