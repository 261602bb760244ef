"""Load benchmark, where the knee is: the rate to try next, from what was tried. Pure.

    double until a rate fails ──► halve the bracket ──► until its ends are close

The knee is the highest rate at which the share of good answers still is what was asked for. If the
first rate fails, the search goes down by halves instead, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CLOSE = 1.1
"""The ends of the bracket, high ÷ low, that are close enough."""
MOST_TRIES = 24


@dataclass(frozen=True, slots=True)
class Try:
    """A rate, and the share of good answers at it."""

    rate: float
    good_share: float


@dataclass(frozen=True, slots=True)
class Bracket:
    """The knee lies between; None where nothing was tried that tells."""

    low: float | None
    high: float | None

    @property
    def found(self) -> bool:
        return self.low is not None and self.high is not None and self.high <= self.low * CLOSE

    def __str__(self) -> str:
        if self.low is None:
            return "not known" if self.high is None else f"below {self.high:.4g}"
        if self.high is None:
            return f"above {self.low:.4g}"
        return f"{self.low:.4g} to {self.high:.4g}"


def bracket(tries: Sequence[Try], share: float) -> Bracket:
    """The lowest rate that failed, and the highest good one below it."""
    # NaN, where nothing was counted, fails.
    high = min((t.rate for t in tries if not t.good_share >= share), default=None)
    good = [t.rate for t in tries if t.good_share >= share and (high is None or t.rate < high)]
    return Bracket(max(good, default=None), high)


def next_rate(tries: Sequence[Try], share: float, first: float) -> float | None:
    """None at the end of the search."""
    if not tries:
        return first
    if len(tries) >= MOST_TRIES:
        return None
    now = bracket(tries, share)
    if now.found:
        return None
    if now.high is None:
        assert now.low is not None
        return now.low * 2
    if now.low is None:
        return now.high / 2
    return float((now.low * now.high) ** 0.5)


def step_s(rate: float, turns: float, *, least_s: float, least_requests: int) -> float:
    """How long a rate is tried: the time given, or more where that brings too few requests."""
    return max(least_s, least_requests / (rate * max(1.0, turns)))
