"""A thousand agents at once in one process: how late is each turn, and what does it cost?

    python -m benchmarks.orchestrator_agents FOLDER AGENTS TURNS

The model takes 2 s and the tool 1 s, as if engines and services were somewhere else. A turn is
on time when the model is asked again 3 s after it was asked last; what it is later is ours:
journal, loop, other agents' work. Agents begin evenly spread over one such turn (`spread`), as
those of strangers do, or all in the same moment (`burst`), as none do. The garbage collector is set
as the front door sets it. JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.orchestrator_step import agent_of
from benchmarks.rivals import workload
from orchestrator.agents import Agents
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import tool
from orchestrator.worker.worker import Worker
from serving import collector

MODEL_S = 2.0
TOOL_S = 1.0


@tool(kind="pure")
async def look_up(item: str, count: int = 1) -> str:
    """Find an item's price."""
    await asyncio.sleep(TOOL_S)
    return workload.looked_up(item, count)


async def measure(folder: Path, agents: int, turns: int, *, spread_s: float) -> dict[str, Any]:
    asked: dict[str, list[float]] = {}

    def script(turn: ModelTurn) -> Iterator[Scripted]:
        times = asked.setdefault(turn.conversation, [])
        times.append(time.perf_counter())
        if len(times) > turns:
            return iter(says("done"))
        call = calls((workload.TOOL, workload.arguments(len(times))))
        return iter([asyncio.sleep(MODEL_S), *call])

    agent = agent_of([look_up])
    journal = SqliteJournal(folder / "journal.db")
    model = ScriptedModel(script, keep_turns=False)
    async with Worker(journal=journal, agents=Agents([agent]), models=model) as worker:

        async def one(number: int) -> None:
            await asyncio.sleep(spread_s * number / agents)
            name = f"conv_{number}"
            accepted = ResponseAccepted(f"resp_{number}", time.time(), workload.past())
            await worker.accept(name, accepted, start=ConversationStarted(agent.key, time.time()))
            await worker.run(name)

        collector.settle()
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(agents)))
        cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    await journal.close()
    assert len(asked) == agents
    assert all(len(times) == turns + 1 for times in asked.values())
    late = sorted(
        1000 * (after - before - MODEL_S - TOOL_S)
        for times in asked.values()
        for before, after in pairwise(times)
    )
    return {
        "agents": agents,
        "turns": len(late),
        "late_p50_ms": late[len(late) // 2],
        "late_p99_ms": late[len(late) * 99 // 100],
        "late_max_ms": late[-1],
        "cpu_s": cpu_s,
        "cpu_share_of_one_core": cpu_s / wall_s,
        "wall_s": wall_s,
    }


async def main(folder: Path, agents: int, turns: int) -> dict[str, Any]:
    return {
        "spread": await measure(folder / "spread", agents, turns, spread_s=MODEL_S + TOOL_S),
        "burst": await measure(folder / "burst", agents, turns, spread_s=0.0),
    }


if __name__ == "__main__":
    where, how_many, how_long = sys.argv[1:4]
    print(json.dumps(uvloop.run(main(Path(where), int(how_many), int(how_long)))), flush=True)
