"""Small real stand-ins for the router's collaborators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from serving.config.stack import StackConfig
from serving.tables.base import Engine, EngineLoad


class FakeTable:
    """An EngineTable whose snapshot a test sets by hand."""

    def __init__(self, *engines: Engine) -> None:
        self._engines = engines

    def snapshot(self) -> tuple[Engine, ...]:
        return self._engines

    def set(self, *engines: Engine) -> None:
        self._engines = engines

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class FakeClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def engine(replica: str, model: str = "big", *, waiting: int = 0, **changes: Any) -> Engine:
    """A ready engine; nothing listens at its URL."""
    base = Engine(
        replica=replica,
        model=model,
        url=f"http://127.0.0.1:9/{replica}",
        served_name=model,
        load=EngineLoad(waiting=waiting),
    )
    return replace(base, **changes)


def stack(**sections: Any) -> StackConfig:
    """Two external models, `big` (frontier) and `tiny` (small), and whatever a test adds."""
    models = {
        "big": {"engine": "external", "tier": "frontier", "urls": ["http://127.0.0.1:9"]},
        "tiny": {"engine": "external", "tier": "small", "urls": ["http://127.0.0.1:9"]},
    }
    # Which sessions explore depends on their ids, which are new in every run.
    sections = {"router": {"tiers": {"explore": 0.0}}, **sections}
    return StackConfig.model_validate({"models": models, **sections})
