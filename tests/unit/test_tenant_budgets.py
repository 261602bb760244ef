"""Budgets of tenants: windows that move on, and what is refused in them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from router.tenancy.budgets import STRETCHES, Budget, Budgets, TenantBudgetUsed
from router.tenancy.limits import BYTES_PER_TOKEN, Hold, Limits
from router.tenancy.tenants import Tenant
from serving.config.tenancy import AdmissionConfig, BudgetConfig, TenantConfig
from serving.errors import UpstreamError
from serving.protocol import Usage
from serving.spending import Spending
from tests.unit.fakes import FakeClock

ACME = Tenant("acme")
HOUR_S = 3600.0
NOW = 1_000 * HOUR_S


def budget(**config: Any) -> Budget:
    return Budget("acme", BudgetConfig.model_validate({"window": "1h", **config}))


def used(of: Budget, now: float) -> float:
    return of.used(now).cost_usd


def usd(amount: float) -> Spending:
    return Spending(1, cost_usd=amount)


def test_what_is_spent_counts_until_it_is_older_than_the_window() -> None:
    one = budget(max_cost_usd=10)
    one.spend(usd(1), NOW)
    one.spend(usd(2), NOW + 600)
    assert used(one, NOW + 600) == 3
    assert used(one, NOW + HOUR_S) == 3, "never before it is older"
    assert used(one, NOW + HOUR_S + 60) == 2, "a stretch later"
    assert used(one, NOW + 2 * HOUR_S) == 0


def test_no_window_ever_holds_more_than_the_budget_and_one_turn() -> None:
    one = budget(max_cost_usd=10)
    times: list[float] = []
    for minute in range(0, 4 * 60, 7):
        at = NOW + 60 * minute + 3
        try:
            one.check(at)
        except TenantBudgetUsed:
            continue
        one.spend(usd(3), at)
        times.append(at)
    assert len(times) > 8
    for end in times:
        assert 3 * sum(end - HOUR_S < at <= end for at in times) < 10 + 3


def test_what_others_spend_counts_and_replaces_what_was_known_of_them() -> None:
    one = budget(max_cost_usd=10)
    one.spend(usd(1), NOW)
    one.learn(one.ends_at(NOW), usd(2))
    assert used(one, NOW) == 3
    one.learn(one.ends_at(NOW), usd(5))
    one.learn(one.ends_at(NOW - 600), usd(1))
    assert used(one, NOW) == 7
    assert used(one, NOW + HOUR_S - 600 + 60) == 6


def test_a_budget_that_is_used_up_says_which_one_and_when_some_is_free_again() -> None:
    one = budget(max_cost_usd=5, max_tokens=1_000)
    one.spend(Spending(1, 0, 10, 1.0, 2.0), NOW)
    one.check(NOW)
    one.spend(Spending(1, 0, 10, 1.0, 3.0), NOW + 600)
    with pytest.raises(TenantBudgetUsed) as found:
        one.check(NOW + 900)
    refused = found.value
    assert refused.status == 429
    said = refused.body()["error"]
    assert (said["type"], said["code"]) == ("insufficient_quota", "tenant_budget_used")
    assert said["message"] == (
        "the budget of 5 US dollars in 1h is used up (tenants.acme.budget.max_cost_usd): 5 are "
        "used; some is free again in 46m0s"
    )
    assert refused.headers() == {"retry-after": "2760"}
    assert one.refused == {"tokens": 0, "cost_usd": 1}
    with pytest.raises(TenantBudgetUsed):
        one.check(NOW + 900 + 2759)
    one.check(NOW + 900 + 2760)


def test_of_two_limits_that_are_used_up_the_one_that_lasts_is_told() -> None:
    one = budget(max_turns=2, max_tokens=100)
    one.spend(Spending(1, 0, 20), NOW)
    one.spend(Spending(1, 0, 100), NOW + 1200)
    with pytest.raises(TenantBudgetUsed, match=r"budget\.max_tokens.* in 1h0m") as found:
        one.check(NOW + 1260)
    assert found.value.retry_after_s == pytest.approx(HOUR_S)


def test_what_is_remembered_is_bounded() -> None:
    one = budget(max_cost_usd=10)
    for minute in range(1_000):
        at = NOW + 60 * minute
        one.spend_unsaved(usd(0.001), at)
        one.learn(one.ends_at(at), usd(0.001))
        one.used(at)
    for book in (one._own, one._others, one._unsaved):
        assert len(book) <= STRETCHES + 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"window": "1 day", "max_turns": 1}, "write e.g. 30m, 12h or 7d"),
        ({"window": "1d"}, "set one of max_turns"),
        ({"max_cost_usd": 0}, "greater than 0"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused_with_the_fix(
    config: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        BudgetConfig.model_validate(config)


class Gate:
    """Limits of one tenant with a budget, under two clocks that move together."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        budget = {"window": "1h", **config}
        tenants = {"acme": TenantConfig.model_validate({"budget": budget}), "bolt": TenantConfig()}
        budgets = Budgets(tenants, lambda: NOW + self.clock())
        self.limits = Limits(tenants, AdmissionConfig(), self.clock, budgets)

    def enter(self, who: str = "acme", tokens: int = 0, *, charge: bool = True) -> Hold:
        return self.limits.enter(Tenant(who), b"s", tokens * BYTES_PER_TOKEN, charge=charge)

    @property
    def used(self) -> Spending:
        return self.limits.budgets.by_tenant["acme"].used(NOW + self.clock())


def test_a_forwarded_turn_is_paid_when_it_ends() -> None:
    gate = Gate(max_tokens=100)
    with gate.enter(tokens=40) as hold:
        assert hold.counts_tokens
        hold.used(Usage(50, 20, 10), 0.25)
        gate.clock.advance(2)
        assert gate.used == Spending()
    assert gate.used == Spending(1, 0, 60, 2.0, 0.25)
    with gate.enter(tokens=40) as hold:
        hold.used(Usage(50, 20, 10), 0.25)
    with pytest.raises(TenantBudgetUsed):
        gate.enter()


def test_a_stream_without_usage_is_paid_by_its_events_and_by_the_engine_s_count_if_it_comes() -> (
    None
):
    gate = Gate(max_tokens=100_000)
    with gate.enter(tokens=40) as hold:
        hold.streamed(7, 0.5)
    assert gate.used == Spending(1, 0, 47, 0.0, 0.5)
    with gate.enter(tokens=40) as hold:
        hold.streamed(7, 0.5)
        hold.used(Usage(90, 0, 10), 2.0)
    assert gate.used == Spending(2, 0, 147, 0.0, 2.5)


def test_a_turn_that_came_to_nothing_costs_nothing() -> None:
    gate = Gate(max_turns=1)
    with pytest.raises(UpstreamError), gate.enter():
        raise UpstreamError("gone")
    assert gate.used == Spending()


def test_an_agent_s_response_is_refused_as_well_and_its_turns_are_never() -> None:
    gate = Gate(max_turns=1)
    with gate.enter() as hold:
        hold.used(Usage(1, 0, 1))
    with pytest.raises(TenantBudgetUsed):
        gate.enter(charge=False)
    with gate.limits.inner(ACME) as hold:
        hold.used(Usage(1, 0, 1))
    assert gate.used.turns == 1, "the journal counts what agents spend"


def test_who_has_no_budget_is_neither_counted_nor_refused() -> None:
    gate = Gate(max_turns=1)
    with gate.enter("bolt") as hold:
        assert not hold.counts_tokens
        hold.used(Usage(1, 0, 1))
    assert gate.used == Spending()
    assert list(gate.limits.budgets.by_tenant) == ["acme"]
