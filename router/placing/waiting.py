"""Who goes next? Turns that wait in the router, where they can still be ordered and moved.

among tenants   the one that has had the least, in tokens over its weight (start-time fair
                queueing: Goyal, Vin and Cheng, 1996, with a bounded reserve for those who ask
                for little); it matters only when several wait
among turns     the least `order_s`: arrival, plus a multiple of the turn's own prefill time,
                plus a constant for batch. Short turns overtake long ones and interactive ones
                batch, but nothing is overtaken by what arrived that much later: it ages by
                standing still.
"""

from __future__ import annotations

import itertools
import math
from bisect import insort
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

_KNOWN_TENANTS = 10_000


class Fair:
    """Virtual time of tenants on one model.

    Who asks for less than its share has some of it in reserve, up to `credit` tokens over weight:
    its turns come in bursts, and the second of two must not wait behind a tenant that floods.
    """

    def __init__(self, credit: float = 0.0) -> None:
        self.waiting = 0
        """Turns in all lines: mostly none, and then whoever ends has nobody to let go."""
        self._credit = credit
        self._now = 0.0
        self._finished: dict[str, float] = {}

    def next_start(self, tenant: str) -> float:
        least = self._now - self._credit
        return max(least, self._finished.get(tenant, least))

    def is_spent(self, tenant: str) -> bool:
        """It has no reserve left, and there are others."""
        return len(self._finished) > 1 and self._finished.get(tenant, -math.inf) > self._now

    def serve(self, tenant: str, cost: float) -> None:
        """A turn of it goes now; `cost` is tokens over weight."""
        start = self.next_start(tenant)
        self._now = max(self._now, start)
        self._finished[tenant] = start + cost
        if len(self._finished) > _KNOWN_TENANTS:
            least = self._now - self._credit
            self._finished = {t: end for t, end in self._finished.items() if end > least}

    def owe(self, tenant: str, cost: float) -> None:
        """More was used than was known when the turn went."""
        self._finished[tenant] = self.next_start(tenant) + cost


class Waiting:
    """What a line needs to know of a turn. `tokens`: what it would have computed."""

    __slots__ = ("order_s", "serial", "tenant", "tokens")
    _serials = itertools.count()

    def __init__(self, order_s: float, tenant: str, tokens: int) -> None:
        self.order_s = order_s
        self.tenant = tenant
        self.tokens = tokens
        self.serial = next(self._serials)

    def __lt__(self, other: Waiting) -> bool:
        return (self.order_s, self.serial) < (other.order_s, other.serial)


W = TypeVar("W", bound=Waiting)


class Line(Generic[W]):
    """Turns that wait for one replica, or for any."""

    def __init__(self, fair: Fair) -> None:
        self._fair = fair
        self._by_tenant: dict[str, list[W]] = {}
        self.tokens = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, turn: W) -> None:
        insort(self._by_tenant.setdefault(turn.tenant, []), turn)
        self.tokens += turn.tokens
        self._count += 1
        self._fair.waiting += 1

    def remove(self, turn: W) -> None:
        """ValueError when it is not here."""
        turns = self._by_tenant[turn.tenant]
        turns.remove(turn)
        if not turns:
            del self._by_tenant[turn.tenant]
        self.tokens -= turn.tokens
        self._count -= 1
        self._fair.waiting -= 1

    def __iter__(self) -> Iterator[W]:
        """In the order in which they would go. The line must not change meanwhile."""
        if len(self._by_tenant) > 1:
            tenants = sorted(self._by_tenant, key=self._fair.next_start)
            heads = [self._by_tenant[tenant] for tenant in tenants]
            for rank in range(max(map(len, heads))):
                yield from (turns[rank] for turns in heads if rank < len(turns))
        else:
            for turns in self._by_tenant.values():
                yield from turns

    def first(self, fits: Callable[[W], bool], look: int) -> W | None:
        """The next that fits, among the first few."""
        return next((turn for turn in itertools.islice(self, look) if fits(turn)), None)

    def before(self, tenant: str, order_s: float = math.inf) -> int:
        """Tokens of the turns that would go before a new one of this tenant, with this order: its
        own, and those of tenants that have had less. Others' come in between, one at a time."""
        if order_s == math.inf and len(self._by_tenant) <= (tenant in self._by_tenant):
            return self.tokens
        start = self._fair.next_start(tenant)
        return sum(
            sum(turn.tokens for turn in turns if name != tenant or turn.order_s <= order_s)
            for name, turns in self._by_tenant.items()
            if name == tenant or self._fair.next_start(name) < start
        )
