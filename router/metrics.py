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
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.logs import TurnRecord
from router.tallies import Counts, Spreads
from router.turn import NO_TIME
from serving.tables.base import Engine, EngineLoad

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


class _EngineLoads(Collector):
    """What ready engines said of themselves last, by model."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "warmloop_engine_running", "Requests that engines compute, by model", labels=("model",)
        )
        waiting = GaugeMetricFamily(
            "warmloop_engine_waiting", "Requests that wait in engines, by model", labels=("model",)
        )
        kv_usage = GaugeMetricFamily(
            "warmloop_engine_kv_usage",
            "Share of its KV cache that the model's fullest engine has in use",
            labels=("model",),
        )
        loads: dict[str, list[EngineLoad]] = {}
        for engine in self._snapshot():
            if engine.state == "ready":
                loads.setdefault(engine.model, []).append(engine.load)
        for model, each in loads.items():
            running.add_metric((model,), sum(load.running for load in each))
            waiting.add_metric((model,), sum(load.waiting for load in each))
            kv_usage.add_metric((model,), max(load.kv_usage for load in each))
        yield from (running, waiting, kv_usage)


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
        self.registry.register(_EngineLoads(snapshot))
        self.registry.register(_Breakers(snapshot, condition))
        gauge = Gauge(
            "warmloop_inflight", "Requests on their way to engines", registry=self.registry
        )
        gauge.set_function(inflight)
        waiting = Gauge(
            "warmloop_queued", "Turns that wait in the router for a replica", registry=self.registry
        )
        waiting.set_function(queued)
        self._waited = Spreads(
            "warmloop_queue_seconds",
            "Time that answered turns waited in the router",
            ("model",),
            _BUCKETS_S,
        )
        self._requests = Counts("warmloop_requests", "Requests", ("model", "status"))
        self._first_byte = Spreads(
            "warmloop_first_byte_seconds",
            "From the request's arrival to the first byte of its answer",
            ("model",),
            _BUCKETS_S,
        )
        self._first_token = Spreads(
            "warmloop_first_token_seconds",
            "The same of streams alone: to their first token",
            ("model",),
            _BUCKETS_S,
        )
        self._whole = Spreads(
            "warmloop_turn_seconds",
            "From the request's arrival to the end of its answer",
            ("model",),
            _BUCKETS_S,
        )
        self._usd = Counts(
            "warmloop_usd",
            "US dollars of turns by the configuration's prices and the engines' token counts; "
            "uncached: what the same turns would have cost without a cache",
            ("model", "kind"),
        )
        self._tokens = Counts(
            "warmloop_tokens",
            "Tokens as engines report them; cached is a part of prompt; predicted: what of it the "
            "router thought would be cached",
            ("model", "kind"),
        )
        for each in (
            self._waited,
            self._requests,
            self._first_byte,
            self._first_token,
            self._whole,
            self._usd,
            self._tokens,
        ):
            self.registry.register(each)
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

    def observe(self, record: TurnRecord) -> None:
        """Count a request that has ended."""
        if record.spare and record.error == NO_TIME:
            return  # nobody asked for anything, and no engine did anything
        model = record.model  # bounded: models are the configured ones, statuses are few
        self._requests.add((model, str(record.status)))
        if record.first_byte_s is not None and not record.spare:
            self._first_byte.of((model,)).observe(record.first_byte_s)
            if record.stream:
                self._first_token.of((model,)).observe(record.first_byte_s)
            if record.total_s is not None:
                self._whole.of((model,)).observe(record.total_s)
        if record.prompt_tokens is not None:
            add = self._tokens.add
            add((model, "prompt"), record.prompt_tokens)
            add((model, "cached"), record.cached_tokens or 0)
            add((model, "output"), record.output_tokens or 0)
            add((model, "predicted"), record.predicted_cached_tokens or 0)
        if record.cost_usd is not None:
            uncached = record.uncached_cost_usd
            self._usd.add((model, "spent"), record.cost_usd)
            self._usd.add((model, "uncached"), record.cost_usd if uncached is None else uncached)
        if record.waited_s is not None and not record.spare:
            self._waited.of((model,)).observe(record.waited_s)

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
