"""May a turn be tried once more? A budget for retries, so that a failing fleet is not asked more.

    may spend = floor + share x the requests of the last minute + what deaths granted in it

A retry is load that no client asked for. While few turns fail, each is tried again; when many do,
retries would multiply the load on those that are left, and the budget ends that: the first failure
is the answer then.

One thing is no storm, however many turns it meets: a replica dies, and each turn that it had moves
to another one, once. So a replica that is newly ejected grants its turns one retry each. The
breaker's growing pauses bound how often that happens.

Pure but for the clock. Memory: one window of a few numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_SLOTS = 12
"""Parts of the window; what is counted is forgotten part by part."""


@dataclass(slots=True)
class _Part:
    began_s: float
    requests: int = 0
    granted: int = 0
    spent: int = 0


class RetryBudget:
    """For one front door."""

    def __init__(
        self, share: float, floor: int, window_s: float, clock: Callable[[], float]
    ) -> None:
        self._share = share
        self._floor = floor
        self._window_s = window_s
        self._clock = clock
        self._parts: deque[_Part] = deque()

    def request(self) -> None:
        """A client's request arrived."""
        self._now().requests += 1

    def grant(self, turns: int) -> None:
        """A replica was ejected that had so many turns."""
        self._now().granted += turns

    def spend(self) -> bool:
        """Take one retry; False when there is none left."""
        now = self._now()
        if self.left() < 1:
            return False
        now.spent += 1
        return True

    def left(self) -> float:
        """Retries that may be made now."""
        self._now()
        requests = sum(part.requests for part in self._parts)
        granted = sum(part.granted for part in self._parts)
        spent = sum(part.spent for part in self._parts)
        return self._floor + self._share * requests + granted - spent

    def _now(self) -> _Part:
        now, parts = self._clock(), self._parts
        while parts and now - parts[0].began_s >= self._window_s:
            parts.popleft()
        if not parts or now - parts[-1].began_s >= self._window_s / _SLOTS:
            parts.append(_Part(now))
        return parts[-1]
