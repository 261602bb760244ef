"""Who is out after a failure, for how long, and on which terms it comes back."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from router.placing.health import Health
from tests.unit.fakes import FakeClock, engine

A, B = engine("a"), engine("b")


def breakers(clock: FakeClock, chance: float = 0.0, max_eject_s: float = 60) -> Health:
    return Health(5, clock, max_eject_s=max_eject_s, chance=lambda: chance)


def pause_s(health: Health, clock: FakeClock, replica: str) -> float:
    """Let the replica's pause pass; returns how long it was, to an eighth of a second."""
    passed = 0.0
    while health.ejected(replica):
        clock.advance(0.125)
        passed += 0.125
    return passed


def test_an_ejected_replica_gets_no_turns_until_its_pause_is_over() -> None:
    clock = FakeClock()
    health = breakers(clock)
    health.eject("a")
    assert health.ejected("a")
    assert list(health.usable([A, B])) == [B]
    clock.advance(4.9)
    assert list(health.usable([A, B])) == [B]
    clock.advance(0.2)
    assert health.condition("a") == "half_open"
    assert list(health.usable([A, B])) == [A, B]


def test_one_trial_turn_at_a_time_goes_to_a_replica_whose_pause_is_over() -> None:
    clock = FakeClock()
    health = breakers(clock)
    health.eject("a")
    clock.advance(5)
    trial = health.enter("a")
    assert trial is not None
    assert list(health.usable([A, B])) == [B]
    trial.leave()  # the client hung up before there was a verdict
    trial.leave()
    assert list(health.usable([A, B])) == [A, B]
    assert health.enter("b") is None


def test_a_trial_that_is_answered_opens_the_replica_to_all_even_while_it_streams() -> None:
    clock = FakeClock()
    health = breakers(clock)
    health.eject("a")
    clock.advance(5)
    trial = health.enter("a")
    health.restore("a")
    assert health.condition("a") == "closed"
    assert list(health.usable([A, B])) == [A, B]
    health.eject("a")
    clock.advance(100)
    assert list(health.usable([A, B])) == [A, B], "a turn of before is no trial of now"
    assert trial is not None
    trial.leave()
    assert health.enter("a") is not None


def test_each_trial_that_fails_doubles_the_pause_up_to_the_cap() -> None:
    clock = FakeClock()
    health = breakers(clock, max_eject_s=30)
    pauses = []
    for _ in range(5):
        assert health.eject("a")
        pauses.append(pause_s(health, clock, "a"))
        health.enter("a")
    assert pauses == [5, 10, 20, 30, 30]


def test_a_replica_that_fails_soon_after_each_return_waits_longer_each_time() -> None:
    clock = FakeClock()
    health = breakers(clock)
    pauses = []
    for _ in range(3):
        health.eject("a")
        pauses.append(pause_s(health, clock, "a"))
        health.restore("a")
        clock.advance(1)
    assert pauses == [5, 10, 20]


def test_a_replica_that_was_well_for_long_starts_afresh() -> None:
    clock = FakeClock()
    health = breakers(clock)
    for _ in range(2):
        health.eject("a")
        pause_s(health, clock, "a")
        health.restore("a")
        clock.advance(61)
    health.eject("a")
    assert pause_s(health, clock, "a") == 5


def test_a_hundred_streams_cut_by_one_death_are_one_failure() -> None:
    clock = FakeClock()
    health = breakers(clock)
    assert health.eject("a", "cut")
    assert not any(health.eject("a", "cut") for _ in range(99))
    assert pause_s(health, clock, "a") == 5


def test_chance_stretches_a_pause_by_up_to_a_half() -> None:
    shortest, longest = FakeClock(), FakeClock()
    for clock, chance, expected in ((shortest, 0.0, 5.0), (longest, 0.99, 7.5)):
        health = breakers(clock, chance)
        health.eject("a")
        assert pause_s(health, clock, "a") == expected


def test_a_replica_that_answers_is_back_at_once() -> None:
    health = breakers(FakeClock())
    health.eject("a")
    health.restore("a")
    assert list(health.usable([A, B])) == [A, B]


def test_when_all_are_ejected_the_one_that_is_due_soonest_is_tried() -> None:
    clock = FakeClock()
    health = breakers(clock)
    health.eject("b")
    clock.advance(1)
    health.eject("a")
    assert list(health.usable([A, B])) == [B]
    assert list(health.usable([A])) == [A]
    clock.advance(4)
    health.eject("b")  # the trial failed
    assert list(health.usable([A, B])) == [A]
    assert list(health.usable([B])) == [B]


def test_the_only_replica_takes_every_turn_whatever_it_did() -> None:
    clock = FakeClock()
    health = breakers(clock)
    for _ in range(3):
        health.eject("a")
        assert list(health.usable([A])) == [A]
        clock.advance(20)
        health.enter("a")
        assert list(health.usable([A])) == [A], "a second turn does not wait for the first's trial"


def test_a_slow_replica_gets_one_turn_at_a_time_and_all_when_it_is_well_again() -> None:
    health = breakers(FakeClock())
    health.slow("a", 4.2)
    assert health.condition("a") == "slow"
    assert "4.2 times slower" in health.why("a")
    trial = health.enter("a")
    assert list(health.usable([A, B])) == [B]
    assert trial is not None
    trial.leave()
    assert list(health.usable([A, B])) == [A, B]
    health.enter("a")
    health.slow("a", 0)
    assert list(health.usable([A, B])) == [A, B]
    assert health.why("a") == ""


def test_a_slow_replica_is_a_better_last_resort_than_a_dead_one() -> None:
    health = breakers(FakeClock())
    health.slow("a", 4)
    health.eject("b")
    health.enter("a")
    assert list(health.usable([A, B])) == [A]


def test_a_slow_replica_that_dies_and_returns_is_still_slow() -> None:
    clock = FakeClock()
    health = breakers(clock)
    health.slow("a", 4)
    health.eject("a")
    assert health.condition("a") == "open"
    clock.advance(5)
    health.restore("a")
    assert health.condition("a") == "slow"


def test_why_says_the_cause_and_when_it_is_tried_again() -> None:
    clock = FakeClock()
    health = breakers(clock)
    health.eject("a", "connect")
    assert health.why("a") == "failed once, at last: connect; tried again in 5.0 s"
    clock.advance(5)
    assert health.why("a") == "failed once, at last: connect; one trial turn at a time"
    assert health.why("b") == ""


def test_nobody_is_usable_where_nobody_is() -> None:
    health = breakers(FakeClock())
    health.eject("a")
    assert list(health.usable([])) == []


def test_a_replica_that_left_the_table_is_forgotten() -> None:
    health = breakers(FakeClock())
    health.eject("a")
    health.eject("b")
    health.keep_only({"b"})
    assert not health.ejected("a")
    assert health.ejected("b")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["eject", "restore", "slow", "well", "enter", "leave", "wait"]),
        st.sampled_from("abc"),
        st.floats(0, 0.999),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_somebody_is_usable_and_a_closed_one_always_is(
    steps: Iterable[tuple[str, str, float]],
) -> None:
    clock = FakeClock()
    numbers = iter([x for _, _, x in steps] * 2)
    health = Health(5, clock, chance=lambda: next(numbers, 0.5))
    fleet = [engine(name) for name in "abc"]
    inside = []
    for what, replica, number in steps:
        if what == "eject":
            health.eject(replica)
        elif what == "restore":
            health.restore(replica)
        elif what == "slow":
            health.slow(replica, 3 + number)
        elif what == "well":
            health.slow(replica, 0)
        elif what == "enter":
            inside.append(health.enter(replica))
        elif what == "leave" and inside:
            if (trial := inside.pop()) is not None:
                trial.leave()
        else:
            clock.advance(number * 20)
        usable = {e.replica for e in health.usable(fleet)}
        closed = {e.replica for e in fleet if health.condition(e.replica) == "closed"}
        assert usable
        assert closed <= usable
        if closed:
            assert not any(health.ejected(replica) for replica in usable)
