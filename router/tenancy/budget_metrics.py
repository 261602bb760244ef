"""What an operator sees of tenants' budgets: how much of each is used, and who was refused for it.

    warmloop_tenant_budget_used{tenant, limit}            share of a limit, 1 = used up
    warmloop_tenant_budget_refused_total{tenant, limit}   requests refused by this front door

Only configured tenants that have a budget, and its set limits: the labels are a short list. What is
used is that of all front doors, each of which says the same within a second.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.tenancy.budgets import Budgets

_LABELS = ("tenant", "limit")


class BudgetMetrics(Collector):
    """Read when somebody looks."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    def collect(self) -> Iterator[Metric]:
        used = GaugeMetricFamily(
            "warmloop_tenant_budget_used",
            "Share of a tenant's budget that is used in its window, by all front doors",
            labels=_LABELS,
        )
        refused = CounterMetricFamily(
            "warmloop_tenant_budget_refused",
            "Requests refused because a tenant's budget was used up",
            labels=_LABELS,
        )
        now = self._budgets.clock()
        for tenant, budget in self._budgets.by_tenant.items():
            for each in budget.standings(now):
                labels = (tenant, f"max_{each.name}")
                used.add_metric(labels, each.used / each.limit)
                refused.add_metric(labels, budget.refused[each.name])
        yield from (used, refused)
