"""What an operator sees of the journal: how long it takes from an append to its being stored.

warmloop_journal_append_seconds{durable="true"}    fsynced; what effects and clients wait for
                               {durable="false"}   streamed output, in the order of the rest
warmloop_journal_failures_total                    appends of which nothing was stored
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from router.tallies import Counts, Spreads

_BUCKETS_S = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10
)  # fmt: skip


class JournalMetrics:
    """Watches a journal (`journal.watch`); `registry` is the front door's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        spreads = Spreads(
            "warmloop_journal_append_seconds",
            "From an append to its being stored",
            ("durable",),
            _BUCKETS_S,
        )
        self._failures = Counts(
            "warmloop_journal_failures", "Appends of which nothing was stored", ()
        )
        self._failures.add((), 0)  # there from the start, so that the first one is an increase
        self._durable, self._soft = spreads.of(("true",)), spreads.of(("false",))
        registry.register(spreads)
        registry.register(self._failures)

    def stored(self, seconds: float, *, durable: bool) -> None:
        (self._durable if durable else self._soft).observe(seconds)

    def failed(self) -> None:
        self._failures.add(())
