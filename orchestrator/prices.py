"""What a model's tokens cost. An adapter is computed on its model's engines, at its prices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from serving.config.model import Prices
from serving.config.stack import StackConfig


class PriceList(Mapping[str, Prices]):
    """Prices by the name that a turn was asked under; adapters may come and go."""

    def __init__(self, config: StackConfig, parent: Callable[[str], str | None]) -> None:
        self._models = {name: model.prices for name, model in config.models.items()}
        self._parent = parent

    def __getitem__(self, name: str) -> Prices:
        found = self._models.get(name)
        return self._models[self._parent(name) or name] if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
