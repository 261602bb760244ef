"""A front door in small, to be killed: an agent whose tenant may take eight model turns an hour.

    python budget_child.py FOLDER [STOP]

Two conversations after each other, the first of which may take five turns. Without a crash it ends
with `finished USED STATUS STATUS`; every prompt goes to FOLDER/prompts. See `killed.py`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from orchestrator.agents import Agents, resolve
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.loop.machine import fold_all
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from router.tenancy.budgets import Budgets
from serving.config.agent import AgentConfig, AgentLimits
from serving.config.tenancy import BudgetConfig, TenantConfig
from tests.integration.killed import LEASE_S, Points, accept, journal_in, record

folder = Path(sys.argv[1])
point = Points(sys.argv[2] if len(sys.argv) > 2 else "")


@tool(kind="pure")
async def look(n: int) -> str:
    """Look."""
    return f"seen {n}"


def script(turn: ModelTurn) -> list[Scripted]:
    said = json.loads(turn.body)
    at = sum("tool_calls" in message for message in said["messages"])
    record(folder / "prompts", turn=f"{turn.conversation} {at}", body=turn.body.decode())
    last = said.get("tool_choice") == "none"
    asked = point(f"asked {turn.conversation} {at}{' for the last time' if last else ''}")
    return [asked, *(says("enough") if last else calls(("look", {"n": at})))]


async def main() -> None:
    config = AgentConfig(reply_tool=False, limits=AgentLimits(max_turns=5, remind_every=0))
    budgets = Budgets({"acme": TenantConfig(budget=BudgetConfig(window="1h", max_turns=8))})
    journal = await journal_in(folder, point)
    statuses = []
    async with Worker(
        journal=journal,
        agents=Agents([resolve("looker", config, [from_function(look)])]),
        models=ScriptedModel(script),
        lease_s=LEASE_S,
        budgets=budgets,
    ) as worker:
        for name in ("conv_1", "conv_2"):
            now, items = time.time(), [{"role": "user", "content": "Look around."}]
            asked = ResponseAccepted(
                f"resp_{name}", now, items, idempotency_key=name, tenant="acme"
            )
            await accept(worker, name, asked, start=ConversationStarted("looker@1", now, "acme"))
            await worker.run(name)
            statuses.append(fold_all(await journal.read(name)).last_status)
        used = budgets.by_tenant["acme"].used(time.time()).turns
    await journal.close()
    print("finished", used, *statuses, flush=True)


asyncio.run(main())
