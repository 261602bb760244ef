"""Where a stack's engines come from, as one EngineTable.

    engine: external      → StaticTable   URLs that somebody else runs
    all other engines     → RayTable      the Ray cluster that we run, or $WARMLOOP_RAY_ADDRESS
    both in one stack     → JoinedTable

A stack of external engines only never starts, or imports, Ray.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving.cluster.front_queues import Queues
from serving.config.stack import StackConfig
from serving.tables.base import Engine, EngineTable
from serving.tables.ray_table import FRONT_VARIABLE, RayTable, given_address
from serving.tables.static_table import StaticTable

__all__ = [
    "JoinedTable",
    "RayTable",
    "StaticTable",
    "fronts",
    "needs_ray",
    "other_fronts",
    "report_queues",
    "table_for",
]


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

    def report_queues(self, queues: Callable[[], Queues]) -> None:
        for table in self._tables:
            report_queues(table, queues)

    async def start(self) -> None:
        for table in self._tables:
            await table.start()

    async def stop(self) -> None:
        for table in self._tables:
            await table.stop()


def fronts(table: EngineTable) -> tuple[str, ...]:
    """The front doors that this table knows of, by URL; ours may be among them."""
    return table.fronts if isinstance(table, RayTable | JoinedTable) else ()


def other_fronts(table: EngineTable, environ: Mapping[str, str] = os.environ) -> set[str]:
    """Without ours."""
    return {*fronts(table)} - {environ.get(FRONT_VARIABLE, "")}


def report_queues(table: EngineTable, queues: Callable[[], Queues]) -> None:
    """Let those who decide how many replicas there are know what waits here."""
    if isinstance(table, RayTable):
        table.queues = queues
    elif isinstance(table, JoinedTable):
        table.report_queues(queues)


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
