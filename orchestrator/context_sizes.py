"""How long a prompt and its answer may be. An adapter has its model's context."""

from __future__ import annotations

from collections.abc import Callable

from serving.config.stack import StackConfig


class ContextSizes:
    """By the name that a turn is asked under; adapters may come and go."""

    def __init__(self, config: StackConfig, parent: Callable[[str], str | None]) -> None:
        self._parent = parent
        # What an engine of others can hold is known only where somebody wrote it down.
        self._models = {
            name: model.context_tokens
            for name, model in config.models.items()
            if model.engine != "external" or "context_tokens" in model.model_fields_set
        }
        self._all = len(self._models) == len(config.models)

    def of(self, name: str) -> int:
        """Tokens; 0 where it is not known. `auto` has what its longest model has."""
        if name == "auto":
            return max(self._models.values()) if self._all else 0
        return self._models.get(name) or self._models.get(self._parent(name) or "", 0)
