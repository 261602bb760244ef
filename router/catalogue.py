"""What can be asked for, and what stands behind each name: models, adapters, agents.

The engine table's snapshot, with the names that we gave out; where a name leads nowhere, why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from router.adapters.adapter_set import KnownAdapters
from router.placing.fleet import Fleet
from router.tenancy.access import visible
from router.tenancy.tenants import Tenant
from router.tiers import turn_types as tiers
from serving.config.sections import nearest
from serving.config.stack import StackConfig
from serving.errors import NotFound, Unavailable
from serving.tables.base import EngineTable

NOT_READY_RETRY_S = 5.0


class Catalogue:
    """Names and engines, as they are now."""

    def __init__(
        self,
        config: StackConfig,
        table: EngineTable,
        known: KnownAdapters,
        also_models: Callable[[], Sequence[str]],
        on_change: Callable[[Collection[str]], None],
    ) -> None:
        """`on_change` gets the names of all replicas, whenever any engine changed."""
        self.config = config
        self.table = table
        self.known = known
        self.also_models = also_models
        self._on_change = on_change
        self._fleet = Fleet()

    def fleet(self) -> Fleet:
        """The table's newest snapshot, indexed; rebuilt only when the table has a new one."""
        snapshot = self.table.snapshot()
        owners = self.known.owners
        # Cheap: engines that did not change are identical.
        if snapshot != self._fleet.engines or owners is not self._fleet.owners:
            self._fleet = Fleet(snapshot, owners)
            self._on_change(self._fleet.replicas)
        return self._fleet

    def parent(self, name: str) -> str | None:
        """The model of an adapter that can be asked for; None for any other name."""
        if name in self.known.leaving:
            return None
        return self.known.parents.get(name) or self.fleet().parents.get(name)

    def adapters(self) -> list[str]:
        """All adapters that can be asked for."""
        names = {*self.known.parents, *self.fleet().parents} - self.known.leaving
        return sorted(names)

    def names(self) -> list[str]:
        """All that can be asked for: models, `auto`, agents, adapters."""
        others = (tiers.AUTO, *self.also_models(), *self.adapters())
        return list(dict.fromkeys([*self.config.models, *others]))

    def why_not(self, name: str) -> str:
        """In a clause, why this model or adapter has no ready engine."""
        fleet, parent = self.fleet(), self.parent(name)
        if parent is None or not fleet.ready(parent):
            return fleet.why_not(parent or name)
        return f"{parent} is ready, but does not have the adapter: " + self.known.problems.get(
            name, "it is about to be loaded"
        )

    def require_ready(self, model: str) -> None:
        """Raises Unavailable when no engine could take a turn for `model` (or `auto`) now."""
        fleet = self.fleet()
        models = self.config.models if model == tiers.AUTO else (model,)
        if not any(fleet.ready(name) for name in models):
            why = "; ".join(f"{name}: {self.why_not(name)}" for name in models)
            raise not_ready(model, why)

    def unknown(self, model: str, tenant: Tenant) -> NotFound:
        if model.partition("@")[0] in visible(tenant, self.also_models(), self.parent):
            return NotFound(
                f"model: {model[:80]!r} is an agent; "
                "send it to /v1/responses or /v1/chat/completions",
                param="model",
                code="model_not_found",
            )
        names = visible(tenant, self.names(), self.parent)
        return NotFound(
            f"model: {model[:80]!r} is not known; {nearest(model, names)}"
            " (GET /v1/models lists all)",
            param="model",
            code="model_not_found",
        )


def not_ready(model: str, why: str) -> Unavailable:
    return Unavailable(
        f"model {model!r} has no engine ready: {why}", retry_after_s=NOT_READY_RETRY_S
    )
