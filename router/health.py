"""Who is out? Passive ejection: a replica that failed a turn gets none for a while.

A replica is ejected at once by what a turn saw (connection refused, silence, a stream cut short),
not by the next health check. It returns after `eject_s`, or as soon as it answers a turn. When all
replicas are ejected, the one ejected longest ago is tried: with one replica, ejection must never
turn a restart of two seconds into an outage of five.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from serving.table import Engine

Clock = Callable[[], float]


class Health:
    """Ejected replicas. Bounded by the fleet: replicas that left the table are forgotten."""

    def __init__(self, eject_s: float, clock: Clock) -> None:
        self._eject_s = eject_s
        self._clock = clock
        self._until: dict[str, float] = {}

    def eject(self, replica: str) -> None:
        """This replica failed a turn just now."""
        self._until[replica] = self._clock() + self._eject_s

    def restore(self, replica: str) -> None:
        """This replica answered a turn."""
        self._until.pop(replica, None)

    def ejected(self, replica: str) -> bool:
        until = self._until.get(replica)
        return until is not None and until > self._clock()

    def usable(self, engines: Sequence[Engine]) -> Sequence[Engine]:
        """Those that may get a turn; if all are ejected, the one ejected longest ago."""
        if not self._until or not engines:
            return engines
        now = self._clock()
        up = [e for e in engines if self._until.get(e.replica, 0.0) <= now]
        return up or [min(engines, key=lambda e: self._until[e.replica])]

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget those that left the table; a replica's name never comes back."""
        for gone in [r for r in self._until if r not in replicas]:
            del self._until[gone]
