"""What an operator sees of the choice between small and frontier."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from router.tallies import Counts
from serving.tables.base import Tier


class TierMetrics:
    """Counters in the front door's registry. All labels are from short, fixed lists."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counts(
            "warmloop_tier_decisions",
            "Turns of model auto by turn type, tier, and why where it is not the type alone",
            ("type", "tier", "why"),
        )
        self._escalations = Counter(
            "warmloop_tier_escalations",
            "Answers of the small model that were asked again of the frontier",
            ("cause",),
            registry=registry,
        )
        self._changes = Counter(
            "warmloop_tier_changes",
            "Sessions whose main chain changed its model",
            ("change", "why"),
            registry=registry,
        )
        self._usd = Counts(
            "warmloop_tier_usd",
            "US dollars by model and tier, of turns of model auto, unused answers included",
            ("model", "tier"),
        )
        self._outcomes = Counter(
            "warmloop_tier_outcomes",
            "Outcomes that were reported",
            ("tier", "success"),
            registry=registry,
        )
        registry.register(self._decisions)
        registry.register(self._usd)

    def decided(self, turn_type: str, tier: Tier, why: str) -> None:
        self._decisions.add((turn_type, tier, why))

    def escalated(self, cause: str) -> None:
        self._escalations.labels(cause).inc()

    def changed(self, change: str, why: str) -> None:
        self._changes.labels(change, why).inc()

    def spent(self, model: str, tier: Tier, usd: float) -> None:
        self._usd.add((model, tier), usd)

    def reported(self, tier: Tier, *, success: bool) -> None:
        self._outcomes.labels(tier, str(success).lower()).inc()
