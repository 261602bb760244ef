"""How many retries there may be."""

from __future__ import annotations

from router.placing.retry_budget import RetryBudget
from tests.unit.fakes import FakeClock


def spent(budget: RetryBudget) -> int:
    """Retries until there are none left."""
    count = 0
    while budget.spend():
        count += 1
    return count


def test_a_fleet_that_always_fails_sees_the_floor_and_a_share_more() -> None:
    budget = RetryBudget(0.2, 10, 60, FakeClock())
    for _ in range(1000):
        budget.request()
    assert spent(budget) == 210


def test_a_quiet_front_door_may_retry_as_often_as_the_floor_says() -> None:
    budget = RetryBudget(0.2, 3, 60, FakeClock())
    assert spent(budget) == 3


def test_what_was_spent_comes_back_when_the_window_has_passed() -> None:
    clock = FakeClock()
    budget = RetryBudget(0.0, 2, 60, clock)
    assert spent(budget) == 2
    clock.advance(59)
    assert spent(budget) == 0
    clock.advance(1)
    assert spent(budget) == 2


def test_requests_of_long_ago_buy_nothing() -> None:
    clock = FakeClock()
    budget = RetryBudget(0.5, 0, 60, clock)
    for _ in range(100):
        budget.request()
    clock.advance(60)
    assert spent(budget) == 0


def test_a_death_lets_each_of_its_turns_move_once() -> None:
    clock = FakeClock()
    budget = RetryBudget(0.0, 0, 60, clock)
    budget.grant(160)
    assert spent(budget) == 160
    clock.advance(60)
    assert spent(budget) == 0


def test_the_window_holds_a_few_numbers_however_many_requests_pass() -> None:
    clock = FakeClock()
    budget = RetryBudget(0.2, 0, 60, clock)
    for _ in range(10_000):
        budget.request()
        clock.advance(0.5)
    assert len(budget._parts) <= 13
    assert 21 <= spent(budget) <= 24
