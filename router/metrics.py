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

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _EngineStates(Collector):
    def __init__(self, snapshot: Callable[[], tuple[Engine, ...]]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "warmloop_engines", "Engines by model and state", labels=("model", "state")
        )
        for (model, state), count in Tally((e.model, e.state) for e in self._snapshot()).items():
            family.add_metric((model, state), count)
        yield family


class _Children:
    """The metrics of one (model, status), looked up once: `labels()` takes a lock each time."""

    __slots__ = ("cached", "first_byte", "output", "prompt", "requests")

    def __init__(self, metrics: Metrics, model: str, status: int) -> None:
        self.requests = metrics._requests.labels(model, str(status))
        self.first_byte = metrics._first_byte.labels(model)
        self.prompt = metrics._tokens.labels(model, "prompt")
        self.cached = metrics._tokens.labels(model, "cached")
        self.output = metrics._tokens.labels(model, "output")


class Metrics:
    """Counters of turns. `model` is empty for requests that never got as far as one."""

    def __init__(
        self, snapshot: Callable[[], tuple[Engine, ...]], inflight: Callable[[], float]
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineStates(snapshot))
        gauge = Gauge(
            "warmloop_inflight", "Requests on their way to engines", registry=self.registry
        )
        gauge.set_function(inflight)
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
            "Tokens as engines report them; cached is a part of prompt",
            ("model", "kind"),
            registry=self.registry,
        )
        self._ejections = Counter(
            "warmloop_ejections", "Replicas ejected", ("model", "cause"), registry=self.registry
        )
        self._retries = Counter(
            "warmloop_retries", "Turns tried again", ("model", "cause"), registry=self.registry
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

    def ejected(self, model: str, cause: str) -> None:
        self._ejections.labels(model, cause).inc()

    def retried(self, model: str, cause: str) -> None:
        self._retries.labels(model, cause).inc()

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
