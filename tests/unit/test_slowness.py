"""Which replicas are much slower than their peers."""

from __future__ import annotations

from router.placing.slowness import Slowness


def test_a_replica_is_slow_only_after_some_samples_and_far_below_its_peers() -> None:
    slowness = Slowness(5, 3)
    assert [slowness.sample("a", 100, [1000, 900, 20]) for _ in range(3)] == [0, 0, 9]
    assert [slowness.sample("b", 300, [1000]) for _ in range(9)] == [0] * 9


def test_it_is_well_again_when_half_of_that_is_made_up() -> None:
    slowness = Slowness(5, 1)
    assert slowness.sample("a", 100, [1000]) == 10
    assert slowness.sample("a", 300, [1000]) > 3, "below the factor, and still slow"
    assert slowness.sample("a", 400, [1000]) == 0
    assert slowness.sample("a", 300, [1000]) == 0


def test_without_peers_nobody_is_slow() -> None:
    slowness = Slowness(5, 1)
    assert slowness.sample("a", 1, []) == 0
    slowness.sample("a", 1, [1000])
    assert slowness.sample("a", 1, []) == 0


def test_who_left_is_forgotten() -> None:
    slowness = Slowness(5, 2)
    slowness.sample("a", 1, [1000])
    slowness.keep_only({"b"})
    assert slowness.sample("a", 1, [1000]) == 0
    assert slowness.sample("a", 1, [1000]) == 1000
