"""Figures from samples. Pure: the same samples give the same figures, intervals included.

Machines drift; what is compared is therefore measured in pairs, side by side in time and by turns
(`by_turns`), and said as the median of the pairs' ratios with an interval (`paired`).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

DRAWS = 2000
SEED = 7


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which a share of all values lies: one of them; NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and between what it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(
    values: Sequence[float], figure: Callable[[Sequence[float]], float] = statistics.median
) -> Interval:
    """A figure of the values with its 95 % bootstrap interval (percentile method).

    Raises ValueError where there are no values.
    """
    if not values:
        raise ValueError("no values: there is nothing to say an interval of")
    chance = random.Random(SEED)
    drawn = sorted(figure(chance.choices(values, k=len(values))) for _ in range(DRAWS))
    return Interval(figure(values), drawn[int(0.025 * DRAWS)], drawn[int(0.975 * DRAWS)])


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The median of ours ÷ theirs, pair by pair. Raises ValueError where they are no pairs."""
    return interval([a / b for a, b in zip(ours, theirs, strict=True)])


def by_turns(rounds: int, arms: Sequence[T]) -> Iterator[tuple[int, T]]:
    """(round, arm), in every second round backwards: what drifts hits all of them alike."""
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else arms[::-1]:
            yield number, arm


def wilson(successes: float, tries: int) -> Interval:
    """A share, with its 95 % interval by Wilson's score: it stays within 0 and 1, and says
    something of few tries and of none that failed. Raises ValueError where nothing was tried."""
    if tries < 1:
        raise ValueError("no tries: there is nothing to say a share of")
    share, z2 = successes / tries, 1.96**2
    middle = (share + z2 / (2 * tries)) / (1 + z2 / tries)
    half = math.sqrt(z2 * (share * (1 - share) / tries + z2 / (4 * tries**2))) / (1 + z2 / tries)
    return Interval(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def sign_test(better: int, worse: int) -> float:
    """How likely is it that pairs of which nothing changed differ so one-sidedly, or more?

    Exact and two-sided; pairs that do not differ say nothing. 1 where none does.
    """
    pairs = better + worse
    tail = sum(math.comb(pairs, each) for each in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << pairs))
