"""Counters of our own say in Prometheus' form what its client library's would."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from router.tallies import Counts, Spreads

disable_created_metrics()  # type: ignore[no-untyped-call]  # as router.metrics does

LIMITS = (0.1, 1, 10)


def test_a_counter_is_rendered_as_the_librarys_own() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("warmloop_things", "Things", ("model", "kind"))
    ours.register(counts)
    library = Counter("warmloop_things", "Things", ("model", "kind"), registry=theirs)
    for labels, amount in ((("a", "x"), 1), (("a", "y"), 2.5), (("a", "x"), 3)):
        counts.add(labels, amount)
        library.labels(*labels).inc(amount)
    assert generate_latest(ours) == generate_latest(theirs)


def test_a_histogram_is_rendered_as_the_librarys_own() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    spreads = Spreads("warmloop_seconds", "Seconds", ("model",), LIMITS)
    ours.register(spreads)
    library = Histogram("warmloop_seconds", "Seconds", ("model",), buckets=LIMITS, registry=theirs)
    for value in (0.05, 0.1, 0.5, 1, 7, 10, 11):  # a limit counts as below itself
        spreads.of(("a",)).observe(value)
        library.labels("a").observe(value)
    assert generate_latest(ours) == generate_latest(theirs)
