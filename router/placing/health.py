"""Who is out, and on which terms does it come back? A circuit breaker for each replica.

              a turn fails                     its pause is over
    closed ─────────────────► open ─────────────────────────────► half-open: one trial turn
       ▲                        ▲          the trial fails:            │    at a time
       │                        └──── the next pause is twice as long ─┤
       └────────────────────────────── the trial is answered ──────────┘

    closed ◄────────────────► slow: one turn at a time, while it is much slower than its peers

A replica is ejected at once by what a turn saw (connection refused, silence, a stream cut short),
not by the next health check. Turns that fail together count as one failure: they saw the same
death. Pauses grow up to a cap and are stretched by chance, so that several front doors do not
knock at the same moment. A replica that has been well for as long as the cap starts afresh.

Last resort: when nobody else is left, a slow replica takes turns as any other, and of the open
ones the one that is due soonest is tried. With one replica, ejection must never turn a restart of
two seconds into an outage.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serving.tables.base import Engine

Clock = Callable[[], float]
Condition = Literal["closed", "open", "half_open", "slow"]


class Trial:
    """One turn at a gated replica. Leave it when the turn is over; once more does no harm."""

    __slots__ = ("_among",)

    def __init__(self, among: set[Trial]) -> None:
        self._among = among
        among.add(self)

    def leave(self) -> None:
        self._among.discard(self)


@dataclass(slots=True)
class _Breaker:
    open: bool = False
    """Also while half-open: then it is past `due_s`."""
    due_s: float = 0.0
    """When the pause is over."""
    failures: int = 0
    """Those in a row that count; the exponent of the next pause."""
    well_since_s: float = 0.0
    cause: str = ""
    times_slower: float = 0.0
    """... than its peers, where that is too much; else 0."""
    trials: set[Trial] = field(default_factory=set)
    """Turns that are there now, of those that came since it was last gated."""

    @property
    def gated(self) -> bool:
        return self.open or self.times_slower > 0


class Health:
    """The breakers of one front door. Bounded by the fleet: who left the table is forgotten."""

    def __init__(
        self,
        eject_s: float,
        clock: Clock,
        *,
        max_eject_s: float = 60.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """The first pause and the longest; `chance` is uniform in [0, 1)."""
        self._eject_s = eject_s
        self._max_eject_s = max(eject_s, max_eject_s)
        self._clock = clock
        self._chance = chance
        self._breakers: dict[str, _Breaker] = {}
        self._gated: dict[str, _Breaker] = {}
        """Those of them that are not closed: mostly none, so that most turns ask nothing."""

    # What turns saw

    def eject(self, replica: str, cause: str = "") -> bool:
        """This replica failed a turn just now. True when that closed it to others: it was not
        open yet, or the trial failed."""
        now = self._clock()
        breaker = self._breakers.setdefault(replica, _Breaker())
        if breaker.open and now < breaker.due_s:
            return False
        if not breaker.open and now - breaker.well_since_s > self._max_eject_s:
            breaker.failures = 0
        pause_s = min(self._max_eject_s, self._eject_s * 2.0 ** min(breaker.failures, 60))
        breaker.failures += 1
        breaker.open = True
        breaker.due_s = now + pause_s * (1 + self._chance() / 2)
        breaker.cause = cause
        breaker.trials = set()
        self._gated[replica] = breaker
        return True

    def restore(self, replica: str) -> None:
        """This replica answered a turn."""
        breaker = self._gated.get(replica)
        if breaker is not None and breaker.open:
            breaker.open = False
            breaker.well_since_s = self._clock()
            self._settle(replica, breaker)

    def slow(self, replica: str, times: float) -> None:
        """It is now so many times slower than its peers, which is too much; 0 = it is not."""
        breaker = self._breakers.get(replica)
        if breaker is None:
            if not times:
                return
            breaker = self._breakers[replica] = _Breaker()
        breaker.times_slower = times
        self._settle(replica, breaker)

    def enter(self, replica: str) -> Trial | None:
        """A turn goes there now; None where it is a turn like any other."""
        breaker = self._gated.get(replica)
        return None if breaker is None else Trial(breaker.trials)

    # What placement asks

    def usable(self, engines: Sequence[Engine]) -> Sequence[Engine]:
        """Those that may get a turn now; never none of some (see the story's last resort)."""
        if not self._gated or not engines:
            return engines
        now = self._clock()
        up = [e for e in engines if self._takes(e.replica, now)]
        if up:
            return up
        slow = [e for e in engines if not self._gated[e.replica].open]
        return slow or [min(engines, key=lambda e: self._gated[e.replica].due_s)]

    def _takes(self, replica: str, now: float) -> bool:
        breaker = self._gated.get(replica)
        if breaker is None:
            return True
        return not breaker.trials and not (breaker.open and now < breaker.due_s)

    # What an operator sees

    def ejected(self, replica: str) -> bool:
        """Open: it gets nothing, unless it is the last resort."""
        return self.condition(replica) == "open"

    def condition(self, replica: str) -> Condition:
        breaker = self._gated.get(replica)
        if breaker is None:
            return "closed"
        if breaker.open:
            return "open" if self._clock() < breaker.due_s else "half_open"
        return "slow"

    def why(self, replica: str) -> str:
        """The condition's reason, in a clause; empty for a closed one."""
        breaker = self._gated.get(replica)
        if breaker is None:
            return ""
        if not breaker.open:
            return f"{breaker.times_slower:.1f} times slower than its peers: one turn at a time"
        failed = f"{breaker.failures} in a row" if breaker.failures > 1 else "once"
        said = f"failed {failed}" + (f", at last: {breaker.cause}" if breaker.cause else "")
        left_s = breaker.due_s - self._clock()
        return f"{said}; " + (
            f"tried again in {left_s:.1f} s" if left_s > 0 else "one trial turn at a time"
        )

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget those that left the table; a replica's name never comes back."""
        for gone in [r for r in self._breakers if r not in replicas]:
            del self._breakers[gone]
            self._gated.pop(gone, None)

    def _settle(self, replica: str, breaker: _Breaker) -> None:
        if breaker.gated:
            self._gated[replica] = breaker
        elif self._gated.pop(replica, None):
            breaker.trials = set()
