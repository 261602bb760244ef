"""What to change: plain rules over the figures, each with the figure that it goes by.

A rule sees what was measured and says nothing where its figure is missing. Its limits stand at the
head of its module, where they can be argued with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks import report_cost_rules as cost
from benchmarks import report_time_rules as time
from benchmarks.report_evidence import KINDS_IN_ORDER, Advice, Evidence

RULES: tuple[Callable[[Evidence], Iterator[Advice]], ...] = (
    cost.hit_rate,
    cost.quality,
    cost.frontier_share,
    cost.steps,
    time.waiting,
    time.stack_share,
    cost.what_is_left,
    cost.own_or_hosted,
    time.a_warm_turn,
    time.going_cold,
    time.knee,
    time.capacity,
    time.failing_kinds,
    cost.assumed,
)
"""Of two that weigh the same the first one is said first."""


def advice(evidence: Evidence) -> list[Advice]:
    """All that the rules say, what costs most first."""
    found = [each for rule in RULES for each in rule(evidence)]
    return sorted(found, key=lambda each: KINDS_IN_ORDER.index(each.kind))
