"""The pauses before an engine is started again."""

from __future__ import annotations

import pytest

from serving.cluster.crash_loop import CrashLoop
from serving.config.model import RestartConfig

KNOBS = RestartConfig(pause_s=0.5, max_pause_s=60, jitter=0.2, steady_after_s=120)


def pauses(*lived_s: float, chance: float = 0.5) -> list[float]:
    loop, found = CrashLoop(), []
    for each in lived_s:
        loop = loop.died(each, KNOBS)
        found.append(loop.pause_s(KNOBS, chance))
    return found


def test_each_failure_in_a_row_doubles_the_pause_up_to_the_limit() -> None:
    assert pauses(*[1.0] * 10) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_engine_that_lived_long_enough_begins_the_count_anew() -> None:
    assert pauses(1, 1, 119, 120, 1) == [0.5, 1, 2, 0.5, 1]


def test_a_start_that_failed_never_counts_as_a_life() -> None:
    knobs = RestartConfig(steady_after_s=0)
    assert CrashLoop(3, 3).died(0, knobs).failures == 4
    assert CrashLoop(3, 3).died(0.1, knobs).failures == 1


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_a_pause_is_off_by_no_more_than_the_jitter(chance: float, share: float) -> None:
    assert pauses(1, 1, chance=chance) == pytest.approx([0.5 * share, 1 * share])


def test_there_is_no_last_attempt() -> None:
    loop = CrashLoop()
    for _ in range(5000):
        loop = loop.died(0, KNOBS)
    assert loop.pause_s(KNOBS, 0.5) == 60
    assert loop.restarts == 5000
