"""Who is out after a failure, and for how long."""

from __future__ import annotations

from router.health import Health
from tests.unit.fakes import FakeClock, engine

A, B = engine("a"), engine("b")


def test_an_ejected_replica_gets_no_turns_until_its_time_is_over() -> None:
    clock = FakeClock()
    health = Health(5, clock)
    health.eject("a")
    assert health.ejected("a")
    assert list(health.usable([A, B])) == [B]
    clock.advance(4.9)
    assert list(health.usable([A, B])) == [B]
    clock.advance(0.2)
    assert not health.ejected("a")
    assert list(health.usable([A, B])) == [A, B]


def test_a_replica_that_answers_is_back_at_once() -> None:
    health = Health(5, FakeClock())
    health.eject("a")
    health.restore("a")
    assert list(health.usable([A, B])) == [A, B]


def test_when_all_are_ejected_the_one_ejected_longest_ago_is_tried() -> None:
    clock = FakeClock()
    health = Health(5, clock)
    health.eject("b")
    clock.advance(1)
    health.eject("a")
    assert list(health.usable([A, B])) == [B]
    clock.advance(1)
    health.eject("b")
    assert list(health.usable([A, B])) == [A]
    assert list(health.usable([B])) == [B]


def test_nobody_is_usable_where_nobody_is() -> None:
    health = Health(5, FakeClock())
    health.eject("a")
    assert list(health.usable([])) == []


def test_a_replica_that_left_the_table_is_forgotten() -> None:
    health = Health(5, FakeClock())
    health.eject("a")
    health.eject("b")
    health.keep_only({"b"})
    assert not health.ejected("a")
    assert health.ejected("b")
