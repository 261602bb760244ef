"""Figures from samples. Pure: the same samples give the same figures, intervals included.

Machines drift; what is compared is therefore measured in pairs, side by side in time and by turns
(`by_turns`), and said as the median of the pairs' ratios with an interval (`paired`).
"""

from __future__ import annotations

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
