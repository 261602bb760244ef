"""Where a stack's engines come from, as one EngineTable.

    engine: external      → StaticTable   URLs that somebody else runs
    all other engines     → RayTable      the Ray cluster that we run, or $WARMLOOP_RAY_ADDRESS
    both in one stack     → JoinedTable

A stack of external engines only never starts, or imports, Ray.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path

from serving.config import StackConfig
from serving.ray_table import FRONT_VARIABLE, RayTable, given_address
from serving.static_table import StaticTable
from serving.table import Engine, EngineTable

__all__ = ["JoinedTable", "RayTable", "StaticTable", "fronts", "needs_ray", "table_for"]


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

    @property
    def fronts(self) -> tuple[str, ...]:
        return tuple(url for table in self._tables for url in fronts(table))

    async def start(self) -> None:
        for table in self._tables:
            await table.start()

    async def stop(self) -> None:
        for table in self._tables:
            await table.stop()


def fronts(table: EngineTable) -> tuple[str, ...]:
    """The front doors that this table knows of, by URL; ours may be among them."""
    return table.fronts if isinstance(table, RayTable | JoinedTable) else ()


def needs_ray(config: StackConfig) -> bool:
    """True when the stack has engines that we start ourselves."""
    return any(model.engine != "external" for model in config.models.values())


def table_for(config: StackConfig, run_dir: Path | None = None) -> EngineTable:
    """The table of a stack; `run_dir` is where its run file is (default: the stack's folder).

    Raises ConfigError where $WARMLOOP_RAY_ADDRESS is no address.
    """
    tables: list[EngineTable] = []
    if any(model.engine == "external" for model in config.models.values()):
        tables.append(StaticTable(config))
    if needs_ray(config):
        tables.append(
            RayTable(
                run_dir or config.folder,
                address=given_address(),
                front=os.environ.get(FRONT_VARIABLE, ""),
            )
        )
    return tables[0] if len(tables) == 1 else JoinedTable(tables)
