"""A conversation to be killed while it is told things and its prompt is rewritten.

    python context_child.py FOLDER [STOP]

As `crash_child.py`: every point is announced, and at the first that begins with STOP it waits for
SIGKILL. Seven requests: two turns and a tool call each, a reminder after the first turn, a last
answer in the second, and a summary of old turns before one of the later ones. Prompts go to
FOLDER/prompts, by the turn that they are for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.agents import Agents, resolve
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.model import Done, ModelTurn, TextDelta
from orchestrator.model_scripted import ROUTED, Scripted, ScriptedModel, calls
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.config.model import Prices
from tests.integration.killed import LEASE_S, Points, accept, journal_in, record

folder = Path(sys.argv[1])
point = Points(sys.argv[2] if len(sys.argv) > 2 else "")
REQUESTS = 7
TOKENS = 5000


@tool(kind="pure")
async def look(n: int) -> str:
    """Look."""
    return f"seen {n} " + "x" * 300


def script(turn: ModelTurn) -> Iterator[Scripted]:
    if turn.turn_type == "summarise":
        return iter(
            [ROUTED, point("summary"), TextDelta("it was looked at"), Done("stop", 9, 0, 9)]
        )
    # The request id is RESPONSE-STEP-ATTEMPT.
    asked = turn.request_id.rpartition("-")[0]
    record(folder / "prompts", turn=asked, body=turn.body.decode())
    last = json.loads(turn.body)["messages"][-1]
    if last["role"] == "user" and last["content"].startswith("request"):
        return iter([*calls(("look", {"n": int(last["content"].split()[1])}))[:-1], done()])
    return iter([ROUTED, TextDelta("done " + "y" * 300), done()])


def done() -> Done:
    return Done("stop", TOKENS, TOKENS - 500, 10)


async def main() -> None:
    config = AgentConfig.model_validate(
        {
            "instructions": "Look.",
            "reply_tool": False,
            "limits": {"max_turns": 3, "remind_every": 1, "warn_at": 0.3},
            "context": {"strategy": "summary", "keep_turns": 2, "summary_tokens": 16, "margin": 0},
        }
    )
    agents = Agents([resolve("looker", config, [from_function(look)])])
    journal = await journal_in(folder, point)
    async with Worker(
        journal=journal,
        agents=agents,
        models=ScriptedModel(script),
        prices={"scripted": Prices(fresh=0.5, cached=0.1, output=1.0)},
        lease_s=LEASE_S,
    ) as worker:
        for n in range(REQUESTS):
            await worker.run("conv")
            items = [{"role": "user", "content": f"request {n} " + "z" * 300}]
            asked = ResponseAccepted(f"resp_{n}", time.time(), items, idempotency_key=f"key {n}")
            start = ConversationStarted("looker@1", asked.at)
            await accept(worker, "conv", asked, start=start)
            await worker.run("conv")
    await journal.close()
    print("finished", flush=True)


asyncio.run(main())
