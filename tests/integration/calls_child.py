"""A front door in small, to be killed in the middle of calls that are more than run-and-done.

    python calls_child.py FOLDER SCENARIO [STOP]

Points are announced as lines on stdout; at the first that begins with STOP it says `stopped ...`
and waits for SIGKILL. What tools do goes to FOLDER/ledger, fsynced. Without a crash it ends with
`finished STATUS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.agents import Agents, resolve
from orchestrator.api.approvals import waiting_calls
from orchestrator.journal.base import Journal
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.loop.machine import fold_all
from orchestrator.model import ArgumentsDelta, CallStart, ModelTurn
from orchestrator.model_scripted import ROUTED, Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import NOT_DONE, UNKNOWN, ToolContext, ToolError, tool
from orchestrator.tools.builtin import built_in
from orchestrator.tools.children import agent_tools
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from tests.integration.killed import LEASE_S, Points, accept, journal_in, record

folder = Path(sys.argv[1])
scenario = sys.argv[2]
point = Points(sys.argv[3] if len(sys.argv) > 3 else "")


def note(key: str) -> None:
    record(folder / "ledger", key=key, at=time.time())


def recorded(key: str) -> int:
    file = folder / "ledger"
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(json.loads(line)["key"] == key for line in lines)


async def act(key: str) -> str:
    await point("tool started")
    note(key)
    await point("tool ran")
    return "acted"


async def look_up(key: str) -> Any:
    if (folder / "unsure").exists():
        return UNKNOWN
    return "acted" if recorded(key) else NOT_DONE


@tool(kind="queryable", lookup=look_up)
async def pay(context: ToolContext) -> str:
    """Pay; whoever asks later is told."""
    return await act(context.key)


@tool(kind="idempotent")
async def flaky(context: ToolContext) -> str:
    """Work the third time."""
    note(context.key)
    if context.attempt < 3:
        raise ToolError("busy", retry_after_ms=200, transient=True)
    return "acted"


@tool(kind="unsafe", requires_approval=True)
async def sell(context: ToolContext) -> str:
    """Sell, when a person says so."""
    return await act(context.key)


@tool(kind="idempotent")
async def count(context: ToolContext) -> str:
    """Count, once for each key."""
    return await act(context.key)


FIRST: dict[str, list[Scripted]] = {
    "queryable": calls(("pay", {})),
    "retry": calls(("flaky", {})),
    "timer": calls(("sleep", {"seconds": 0.5})),
    "approval": calls(("sell", {})),
    "children": calls(("helper", {"task": "count"})),
    "helper": calls(("count", {})),
}


def play(turn: ModelTurn) -> Iterable[Scripted]:
    if b'"tool_calls"' in turn.body:
        return says("done")
    if scenario == "ahead":
        # The call is whole, and the turn never ends.
        never = asyncio.get_running_loop().create_future()
        return [ROUTED, CallStart("count"), ArgumentsDelta("{}"), never]
    return FIRST["helper" if turn.agent == "helper" else scenario]


async def ended(journal: Journal) -> None:
    """A run that only waits is parked: then the worker has nothing in hand, and it goes on."""
    while (state := fold_all(await journal.read("conv_1"))).run is not None:
        await journal.wait("conv_1", state.seq, 5)


async def decide(journal: Journal, worker: Worker) -> None:
    """A person says yes to whatever waits."""
    while waiting := waiting_calls(fold_all(await journal.read("conv_1"))):
        items = [
            {"type": "mcp_approval_response", "approval_request_id": each, "approve": True}
            for each in waiting.values()
        ]
        decided = ResponseAccepted(f"resp_{next(iter(waiting.values()))}", time.time(), items)
        await accept(worker, "conv_1", decided)
        await ended(journal)


async def main() -> None:
    configs = {
        "main": AgentConfig(reply_tool=False, tools=("agent:helper",)),
        "helper": AgentConfig(reply_tool=False),
    }
    functions = [from_function(each) for each in (pay, flaky, sell, count)]
    own = [*functions, built_in("builtin:sleep", "tools")]
    own += agent_tools("main", configs["main"], configs)
    agents = Agents(
        [resolve("main", configs["main"], own), resolve("helper", configs["helper"], functions)]
    )
    journal = await journal_in(folder, point)
    async with Worker(
        journal=journal,
        agents=agents,
        models=ScriptedModel(play),
        delta_batch_s=0.001,
        park_s=0.1,
        lease_s=LEASE_S,
    ) as worker:
        items = [{"role": "user", "content": "Go."}]
        asked = ResponseAccepted("resp_1", time.time(), items, idempotency_key="the-key")
        start = ConversationStarted("main@1", asked.at)
        await accept(worker, "conv_1", asked, start=start)
        await ended(journal)
        await decide(journal, worker)
    state = fold_all(await journal.read("conv_1"))
    await journal.close()
    print("finished", state.last_status, flush=True)


asyncio.run(main())
