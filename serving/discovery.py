"""Where a stack's engines come from, as one EngineTable.

    engine: external      → StaticTable   URLs that somebody else runs
    all other engines     → RayTable      the Ray cluster that we run
    both in one stack     → JoinedTable

A stack of external engines only never starts, or imports, Ray.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

from serving.config import StackConfig
from serving.ray_table import RayTable
from serving.static_table import StaticTable
from serving.table import Engine, EngineTable

__all__ = ["JoinedTable", "RayTable", "StaticTable", "needs_ray", "table_for"]


class JoinedTable:
    """Several tables as one, in their order."""

    def __init__(self, tables: Sequence[EngineTable]) -> None:
        self._tables = tuple(tables)
        self._parts: tuple[tuple[Engine, ...], ...] = ()
        self._joined: tuple[Engine, ...] = ()

    def snapshot(self) -> tuple[Engine, ...]:
        """The same object as long as no part is new: the router looks at it for every turn."""
        parts = tuple(table.snapshot() for table in self._tables)
        if len(parts) != len(self._parts) or any(map(operator.is_not, parts, self._parts)):
            self._parts = parts
            self._joined = tuple(engine for part in parts for engine in part)
        return self._joined

    async def start(self) -> None:
        for table in self._tables:
            await table.start()

    async def stop(self) -> None:
        for table in self._tables:
            await table.stop()


def needs_ray(config: StackConfig) -> bool:
    """True when the stack has engines that we start ourselves."""
    return any(model.engine != "external" for model in config.models.values())


def table_for(config: StackConfig, run_dir: Path | None = None) -> EngineTable:
    """The table of a stack; `run_dir` is where its run file is (default: the stack's folder)."""
    tables: list[EngineTable] = []
    if any(model.engine == "external" for model in config.models.values()):
        tables.append(StaticTable(config))
    if needs_ray(config):
        tables.append(RayTable(run_dir or config.folder))
    return tables[0] if len(tables) == 1 else JoinedTable(tables)
