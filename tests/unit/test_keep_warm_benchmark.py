"""What the benchmark of pauses makes of its samples."""

from __future__ import annotations

import pytest

from benchmarks.keep_warm import ARMS, KEEP, Sample, bars, figures


def sample(pause: str, *, keeps: bool, first_token_s: float) -> Sample:
    cached = 950 if keeps else 50
    return Sample(
        pause, keeps, first_token_s, 1000, cached, int(keeps), 0, 2.0 if keeps else 1.0, 1.0
    )


def test_a_pause_that_was_kept_warm_is_held_against_the_cold_one_of_its_round() -> None:
    samples = [
        sample(pause, keeps=keeps, first_token_s=(1.0 if keeps else 4.0) * (1 + number))
        for number in range(3)
        for pause, keeps in ARMS
    ]
    found = figures(samples)
    assert [each.pause for each in found] == list(KEEP)
    for each in found:
        assert each.first_token.value == pytest.approx(0.25)
        assert each.cost.value == pytest.approx(2.0)
        assert (each.cold_cached.value, each.kept_cached.value) == (0.05, 0.95)
        assert each.touches == 1
    assert not any(bar.missed for bar in bars(found))


def test_what_saves_nothing_misses_its_bar() -> None:
    samples = [sample(pause, keeps=keeps, first_token_s=1.0) for pause, keeps in ARMS]
    assert all(bar.missed for bar in bars(figures(samples)))
