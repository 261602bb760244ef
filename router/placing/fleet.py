"""What can be reached under a name: the engine table's snapshot, grouped once for each change.

A name is a model of the configuration, or an adapter that some engine has loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from serving.tables.base import Engine


class Fleet:
    """One snapshot, indexed. Frozen: a new snapshot makes a new Fleet."""

    def __init__(
        self, engines: tuple[Engine, ...] = (), owners: Mapping[str, str] | None = None
    ) -> None:
        """`owners` are the names that we gave out, with their models; others take what is left."""
        self.engines = engines
        self.owners: Mapping[str, str] = {} if owners is None else owners
        self.replicas = frozenset(e.replica for e in engines)
        self.parents = _parents(engines, self.owners)
        """Adapters that some engine has: name → model."""
        ready: defaultdict[str, list[Engine]] = defaultdict(list)
        for engine in engines:
            if engine.state == "ready":
                ready[engine.model].append(engine)
                for name in engine.adapters:
                    if self.parents.get(name) == engine.model:
                        ready[name].append(engine)
        self._ready = {name: tuple(found) for name, found in ready.items()}

    def ready(self, name: str) -> tuple[Engine, ...]:
        """Engines that take turns for this model or adapter, in the table's order."""
        return self._ready.get(name, ())

    @property
    def ready_names(self) -> Collection[str]:
        return self._ready.keys()

    def why_not(self, model: str) -> str:
        """In a clause, why this model has no ready engine."""
        known = [e for e in self.engines if e.model == model]
        if not known:
            return "no engine has been found yet"
        return "; ".join(
            f"{e.replica} is {e.state}" + (f" ({e.reason})" if e.reason else "") for e in known[:5]
        )


def _parents(engines: tuple[Engine, ...], owners: Mapping[str, str]) -> dict[str, str]:
    """An engine that others run may list any name: ours come first, then the first one's."""
    models = {engine.model for engine in engines}
    parents: dict[str, str] = {}
    for engine in engines:
        for name in engine.adapters:
            if name not in models and owners.get(name, engine.model) == engine.model:
                parents.setdefault(name, engine.model)
    return parents


def wire_name(engine: Engine, name: str) -> str:
    """What this engine must be asked for: its own name of the model, or the adapter's."""
    if name == engine.model:
        return engine.served_name
    # SGLang lets its base model answer for every name that it does not know, adapters' included.
    return f"{engine.served_name}:{name}" if engine.speaks == "sglang" else name
