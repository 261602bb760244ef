"""Load benchmark, when sessions arrive: seconds from the beginning, in order. Pure.

An open loop: nobody waits for anybody else's answer, so that a slow server does not get less to do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

POISSON = "poisson"
EVEN = "even"
TRACE = "trace"


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """A Poisson process of which the count is known: so many, each at any moment alike.

    Runs of one rate then bring the same number of sessions, and differ only in when.
    """
    chance = random.Random(seed)
    return sorted(chance.uniform(0, seconds) for _ in range(_count(rate, seconds)))


def even(rate: float, seconds: float) -> list[float]:
    """All gaps alike."""
    count = _count(rate, seconds)
    return [seconds * i / count for i in range(count)]


def as_recorded(starts_s: Sequence[float], rate: float | None, seconds: float) -> list[float]:
    """A trace's own times; with a rate, drawn out or pressed together to it.

    Shorter traces are repeated. Raises ValueError where nothing was recorded.
    """
    if not starts_s:
        raise ValueError("it recorded no times: its sessions can arrive as poisson or even")
    first, span_s = starts_s[0], starts_s[-1] - starts_s[0]
    count = len(starts_s)
    # One more gap of the mean length, before it begins again.
    round_s = span_s * count / (count - 1) if span_s else float(count)
    factor = 1.0 if rate is None else count / round_s / rate
    times: list[float] = []
    again = 0
    while True:
        for each in starts_s:
            at = (again * round_s + each - first) * factor
            if at >= seconds:
                return times
            times.append(at)
        again += 1


def _count(rate: float, seconds: float) -> int:
    return max(1, round(rate * seconds))
