"""Which turns find their session's prefix? A cache that drops the least recently used. Pure.

A prefix that nobody has used for T seconds is gone, T being the time after which the cache is full
(Che, Tung and Wang, 2002: "Hierarchical web caching systems"). So a turn is warm if its session
was back within T, and what is held of A live agents at any moment is

    turns/s  x  ( own x the seconds of a turn  +  kept x min(pause, T)  +  left x T / turns )

tokens, each a mean over turns: while a turn runs, while its session pauses, and after its end. That
is set equal to what the cache has beyond the shared heads, and gives T. While a turn waits it holds
nothing, since the router lets those wait whose prefix is gone, and the others go first.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

from benchmarks.capacity_demand import Demand

_LONGEST_S = 1e7
_BLUR, _PLACES = 0.05, 97
"""Pauses are taken to vary by so much, evenly: where many were cut to one length, they would all be
warm or all be cold, and no load would lie in between."""


@dataclass(frozen=True, slots=True)
class Means:
    """Over all turns, where pauses up to some length are warm and others are not."""

    warm: float
    """Share of turns."""
    hit_rate: float
    """Of prompt tokens."""
    prefill_s: float
    prefill_s2: float
    """Mean of the squares."""


class Residency:
    """One demand's turns, ordered by their pauses: any T is looked up, not summed."""

    def __init__(self, demand: Demand, seconds: Callable[[int, int], float]) -> None:
        """`seconds` of prefill for (prompt, fresh) tokens."""
        self._n = len(demand.asks)
        blurred = [
            (ask.think_s * (1 + _BLUR * (2 * (i % _PLACES) / (_PLACES - 1) - 1)), i)
            for i, ask in enumerate(demand.asks)
        ]
        blurred.sort()
        self._pauses = [pause_s for pause_s, _ in blurred]
        self._asks = [demand.asks[i] for _, i in blurred]
        self._left = demand.left / demand.turns
        self.warm_s = [seconds(ask.prompt, ask.fresh) for ask in self._asks]
        self.cold_s = [seconds(ask.prompt, ask.cold) for ask in self._asks]
        self._prompts = sum(ask.prompt for ask in self._asks)
        self._warm_sums = [_sums(s**n for s in self.warm_s) for n in (1, 2)]
        self._cold_sums = [_sums(s**n for s in self.cold_s) for n in (1, 2)]
        self._found = _sums(ask.prompt - ask.fresh for ask in self._asks)
        self._heads = _sums(ask.prompt - ask.cold for ask in self._asks)
        self._kept = _sums(ask.kept for ask in self._asks)
        spans = zip(self._asks, self._pauses, strict=True)
        self._kept_s = _sums(ask.kept * pause_s for ask, pause_s in spans)
        owns = zip(self._asks, self.warm_s, strict=True)
        self._own_prefill = sum(ask.own * s for ask, s in owns) / self._n
        self._own_answer = sum(ask.own * ask.output for ask in self._asks) / self._n

    def held(self, turns_per_s: float, token_s: float, t: float) -> float:
        """Tokens in the cache where what is older than `t` is gone, and a token takes `token_s`."""
        at = bisect_right(self._pauses, t)
        running = self._own_prefill + self._own_answer * token_s
        paused = self._kept_s[at] + (self._kept[-1] - self._kept[at]) * t
        return turns_per_s * (running + paused / self._n + self._left * t)

    def lasts_s(self, room_tokens: float, turns_per_s: float, token_s: float) -> float:
        """T. 0 where not even what runs has room; without end where all has."""
        if self.held(turns_per_s, token_s, _LONGEST_S) <= room_tokens:
            return math.inf
        low, high = 0.0, _LONGEST_S
        for _ in range(50):
            middle = (low + high) / 2 if low else high / 16
            fits = self.held(turns_per_s, token_s, middle) <= room_tokens
            low, high = (middle, high) if fits else (low, middle)
        return low

    def means(self, t: float, broken: float = 0.0) -> Means:
        """Where prefixes last `t` seconds; a share `broken` of turns finds none all the same."""
        at = bisect_right(self._pauses, t)

        def mixed(warm: list[float], cold: list[float]) -> float:
            intact = warm[at] + cold[-1] - cold[at]
            return (1 - broken) * intact + broken * cold[-1]

        return Means(
            (1 - broken) * at / self._n,
            mixed(self._found, self._heads) / self._prompts,
            mixed(self._warm_sums[0], self._cold_sums[0]) / self._n,
            mixed(self._warm_sums[1], self._cold_sums[1]) / self._n,
        )

    def share(self, over: Callable[[float], float], t: float, broken: float = 0.0) -> float:
        """The mean of `over(prefill seconds)` over all turns."""
        at = bisect_right(self._pauses, t)
        warm = sum(map(over, self.warm_s[:at]))
        colds = [over(s) for s in (self.cold_s if broken else self.cold_s[at:])]
        whole = warm + sum(colds[-(self._n - at) :] if at < self._n else ())
        return ((1 - broken) * whole + broken * sum(colds)) / self._n


def _sums(values: Iterable[float]) -> list[float]:
    return list(accumulate(values, initial=0.0))
