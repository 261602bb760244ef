"""What can be reached under a name: the engine table's snapshot, grouped once for each change.

A name is a model of the configuration, or an adapter that some engine has loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from serving.table import Engine


class Fleet:
    """One snapshot, indexed. Frozen: a new snapshot makes a new Fleet."""

    def __init__(self, engines: tuple[Engine, ...] = ()) -> None:
        self.engines = engines
        self.replicas = frozenset(e.replica for e in engines)
        ready: defaultdict[str, list[Engine]] = defaultdict(list)
        for engine in engines:
            if engine.state == "ready":
                for name in {engine.model, *engine.adapters}:
                    ready[name].append(engine)
        self._ready = {name: tuple(found) for name, found in ready.items()}
        self.adapters = frozenset(name for e in engines for name in e.adapters)

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


def wire_name(engine: Engine, name: str) -> str:
    """What this engine must be asked for: its own name of the model, or the adapter's."""
    return engine.served_name if name == engine.model else name
