"""What every turn counts in: plain numbers, put into Prometheus' form when somebody looks.

The client library's own counters take a lock for each step, and a turn takes a dozen steps; for
what is rare they are right. These here belong to one event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


class Counts(Collector):
    """A counter: `counts.by[labels] += n`. Labels are from short lists: nothing goes."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._about = name, about, tuple(labels)
        self.by: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        self.by[labels] = self.by.get(labels, 0) + amount

    def collect(self) -> Iterator[Metric]:
        name, about, labels = self._about
        family = CounterMetricFamily(name, about, labels=labels)
        for values, count in [*self.by.items()]:
            family.add_metric(values, count)
        yield family


class Spread:
    """How often each size came: how many up to each limit, and their sum."""

    __slots__ = ("counts", "limits", "sum")

    def __init__(self, limits: Sequence[float]) -> None:
        self.limits = limits
        self.counts = [0] * (len(limits) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.limits, value)] += 1
        self.sum += value


class Spreads(Collector):
    """A histogram: one `Spread` for each set of labels."""

    def __init__(
        self, name: str, about: str, labels: Sequence[str], limits: Sequence[float]
    ) -> None:
        self._about = name, about, tuple(labels)
        self._limits = tuple(limits)
        self._by: dict[Labels, Spread] = {}

    def of(self, labels: Labels) -> Spread:
        found = self._by.get(labels)
        if found is None:
            found = self._by[labels] = Spread(self._limits)
        return found

    def collect(self) -> Iterator[Metric]:
        name, about, labels = self._about
        family = HistogramMetricFamily(name, about, labels=labels)
        edges = [*map(floatToGoString, self._limits), "+Inf"]
        for values, spread in [*self._by.items()]:
            buckets: list[tuple[str, float]] = []
            so_far = 0
            for edge, count in zip(edges, spread.counts, strict=True):
                so_far += count
                buckets.append((edge, so_far))
            family.add_metric(values, buckets, spread.sum)
        yield family
