"""The cost ledger adds up: bills, savings step by step, and the point where a machine pays."""

from __future__ import annotations

import pytest

from benchmarks.cost_ledger import WAYS, Account, Step, Way, break_even, capacity_tasks
from benchmarks.cost_prices import Machine, PriceList, Rates, Speed
from serving.tables.base import Tier

PRICES = PriceList(
    name="hosted",
    date=None,
    source="here",
    frontier="large",
    small="little",
    usd_per_million={
        "large": Rates(fresh=10, cached=1, written=12, output=40),
        "little": Rates(fresh=1, cached=0.1, output=4),
    },
)
SPEED = Speed(fresh=1000, cached=100_000, output=100)
SHARE: dict[Tier, float] = {"frontier": 0.5, "small": 0.5}
MACHINE = Machine("ours", 1.0, SHARE, {"frontier": SPEED, "small": SPEED}, measured=True)


def step(
    tier: Tier, *, fresh: int, cached: int = 0, task: int = 0, right: bool | None = True
) -> Step:
    return Step(task, "0", tier, fresh, cached, 100, 10.0, right)


def way(name: str, *steps: Step) -> Way:
    return Way(name, steps)


NAIVE = way(WAYS[0], step("frontier", fresh=10_000))
CACHED = way(WAYS[1], step("frontier", fresh=1_000, cached=9_000))
ROUTED = way(
    WAYS[2],
    step("small", fresh=1_000, cached=9_000, right=None),  # unsure: nobody saw it
    step("frontier", fresh=1_000, cached=9_000, right=False),
)


def test_who_uses_no_cache_pays_for_no_writing_to_it() -> None:
    assert NAIVE.bill(PRICES).fresh == pytest.approx(0.1)
    bill = CACHED.bill(PRICES)
    assert bill.fresh == pytest.approx(0.012)
    assert bill.cached == pytest.approx(0.009)
    assert bill.output == pytest.approx(0.004)
    assert bill.usd == pytest.approx(0.025)


def test_a_bill_is_of_one_task_however_many_ran() -> None:
    twice = way(WAYS[1], *CACHED.steps, step("frontier", fresh=1_000, cached=9_000, task=1))
    assert twice.bill(PRICES).usd == pytest.approx(CACHED.bill(PRICES).usd)
    assert twice.per_task("fresh") == 1_000


def test_an_answer_that_nobody_saw_is_paid_for_and_not_counted() -> None:
    assert ROUTED.checked == 1
    assert ROUTED.right == 0
    assert ROUTED.small_share() == 0
    assert ROUTED.bill(PRICES).usd > CACHED.bill(PRICES).usd


def test_savings_of_all_steps_are_the_whole_saving_and_a_dearer_step_is_below_zero() -> None:
    account = Account(PRICES, (NAIVE, CACHED, ROUTED))
    bills = account.bills()
    drops = account.drops()
    assert [drop.name for drop in drops] == [*WAYS[1:3]]
    assert sum(drop.saved for drop in drops) == pytest.approx(bills[0].usd - bills[-1].usd)
    assert drops[0].share == pytest.approx(1 - 0.025 / 0.104)
    assert drops[1].saved < 0
    assert account.factor == pytest.approx(bills[0].usd / bills[-1].usd)


def test_lost_answers_are_those_that_the_frontier_had_right() -> None:
    account = Account(PRICES, (NAIVE, CACHED, ROUTED))
    assert account.lost == 1
    assert account.quality == 0
    assert Account(PRICES, (NAIVE, CACHED)).lost == 0


def test_at_the_break_even_both_bills_are_the_same() -> None:
    found = break_even(PRICES, CACHED, CACHED, MACHINE)
    assert found.tasks * CACHED.bill(PRICES).usd == pytest.approx(MACHINE.usd_per_month)
    assert found.tokens == pytest.approx(found.tasks * 10_100)
    # 730 hours of ten seconds a task.
    assert capacity_tasks(CACHED, MACHINE) == pytest.approx(262_800)
    assert found.share == pytest.approx(found.tasks / 262_800)
    assert found.pays


def test_a_machine_never_pays_where_it_is_full_before_the_hosted_bill_is_as_high() -> None:
    slow = way(WAYS[1], Step(0, "0", "frontier", 1_000, 9_000, 100, 1_000.0, right=True))
    found = break_even(PRICES, CACHED, slow, MACHINE)
    assert found.share > 1
    assert not found.pays


def test_the_busier_engine_is_what_fills_a_machine() -> None:
    both = way(WAYS[4], *CACHED.steps, Step(0, "1", "small", 1_000, 0, 10, 40.0, right=True))
    assert capacity_tasks(both, MACHINE) == pytest.approx(730 * 3600 / 40)
