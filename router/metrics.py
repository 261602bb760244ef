"""What an operator watches: Prometheus metrics of this front door.

A registry of our own, so that two front doors can live in one test process. Engine states are read
from the table when somebody looks, not copied whenever they change.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.logs import TurnRecord
from serving.table import Engine

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, of no use here

Snapshot = Callable[[], tuple[Engine, ...]]

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _EngineStates(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "warmloop_engines", "Engines by model and state", labels=("model", "state")
        )
        for (model, state), count in Tally((e.model, e.state) for e in self._snapshot()).items():
            family.add_metric((model, state), count)
        yield family


class _Breakers(Collector):
    """Replicas by the condition of their breaker. None of them by name: replicas come and go."""

    def __init__(self, snapshot: Snapshot, condition: Callable[[str], str]) -> None:
        self._snapshot = snapshot
        self._condition = condition

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "warmloop_breakers",
            "Replicas by model and breaker: closed, open, half_open or slow",
            labels=("model", "condition"),
        )
        found = Tally((e.model, self._condition(e.replica)) for e in self._snapshot())
        for (model, condition), count in found.items():
            family.add_metric((model, condition), count)
        yield family


class _Children:
    """The metrics of one (model, status), looked up once: `labels()` takes a lock each time."""

    __slots__ = (
        "cached", "first_byte", "output", "predicted", "prompt", "requests", "waited",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, model: str, status: int) -> None:
        self.requests = metrics._requests.labels(model, str(status))
        self.first_byte = metrics._first_byte.labels(model)
        self.prompt = metrics._tokens.labels(model, "prompt")
        self.cached = metrics._tokens.labels(model, "cached")
        self.output = metrics._tokens.labels(model, "output")
        self.predicted = metrics._tokens.labels(model, "predicted")
        self.waited = metrics._waited.labels(model)


class Metrics:
    """Counters of turns. `model` is empty for requests that never got as far as one."""

    def __init__(
        self,
        snapshot: Snapshot,
        inflight: Callable[[], float],
        condition: Callable[[str], str] = lambda _: "closed",
        queued: Callable[[], float] = lambda: 0,
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineStates(snapshot))
        self.registry.register(_Breakers(snapshot, condition))
        gauge = Gauge(
            "warmloop_inflight", "Requests on their way to engines", registry=self.registry
        )
        gauge.set_function(inflight)
        waiting = Gauge(
            "warmloop_queued", "Turns that wait in the router for a replica", registry=self.registry
        )
        waiting.set_function(queued)
        self._waited = Histogram(
            "warmloop_queue_seconds",
            "Time that answered turns waited in the router",
            ("model",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._requests = Counter(
            "warmloop_requests", "Requests", ("model", "status"), registry=self.registry
        )
        self._first_byte = Histogram(
            "warmloop_first_byte_seconds",
            "From the request's arrival to the first byte of its answer",
            ("model",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._tokens = Counter(
            "warmloop_tokens",
            "Tokens as engines report them; cached is a part of prompt; predicted: what of it the "
            "router thought would be cached",
            ("model", "kind"),
            registry=self.registry,
        )
        self._ejections = Counter(
            "warmloop_ejections", "Replicas ejected", ("model", "cause"), registry=self.registry
        )
        self._retries = Counter(
            "warmloop_retries", "Turns tried again", ("model", "cause"), registry=self.registry
        )
        self._continuations = Counter(
            "warmloop_continuations",
            "Streams that were cut: continued elsewhere, or not, because of the request or its "
            "answer so far, for want of a replica, or since the other one failed too",
            ("model", "outcome"),
            registry=self.registry,
        )
        self._unspent = Counter(
            "warmloop_retries_refused",
            "Turns that were not tried again because the budget for retries was spent",
            ("model", "cause"),
            registry=self.registry,
        )
        self._children: dict[tuple[str, int], _Children] = {}

    def observe(self, record: TurnRecord) -> None:
        """Count a request that has ended."""
        key = (record.model, record.status)
        children = self._children.get(key)
        if children is None:  # bounded: models are the configured ones, statuses are few
            children = self._children[key] = _Children(self, *key)
        children.requests.inc()
        if record.first_byte_s is not None:
            children.first_byte.observe(record.first_byte_s)
        if record.prompt_tokens is not None:
            children.prompt.inc(record.prompt_tokens)
            children.cached.inc(record.cached_tokens or 0)
            children.output.inc(record.output_tokens or 0)
            children.predicted.inc(record.predicted_cached_tokens or 0)
        if record.waited_s is not None:
            children.waited.observe(record.waited_s)

    def ejected(self, model: str, cause: str) -> None:
        self._ejections.labels(model, cause).inc()

    def retried(self, model: str, cause: str) -> None:
        self._retries.labels(model, cause).inc()

    def retry_refused(self, model: str, cause: str) -> None:
        self._unspent.labels(model, cause).inc()

    def continued(self, model: str, outcome: str) -> None:
        self._continuations.labels(model, outcome).inc()

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
