"""A front door in small, to be killed: worker, journal, scripted model, counting tools.

    python crash_child.py FOLDER TURNS [STOP]

Every point that it passes is announced as a line on stdout. At the STOP-th point (or at the first
whose line begins with STOP) it says `stopped ...` and waits for SIGKILL. Without a crash it ends
with `finished STATUS`. What tools do goes to FOLDER/ledger, fsynced, outside of the journal; every
prompt goes to FOLDER/prompts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.agents import Agents, resolve
from orchestrator.api.approvals import waiting_calls
from orchestrator.journal.base import Journal
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    OutputDelta,
    ResponseAccepted,
    ToolResult,
)
from orchestrator.loop.machine import fold_all
from orchestrator.model import ModelTurn, TextDelta
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig, AgentLimits
from tests.integration.killed import LEASE_S, Points, accept, journal_in, record

folder = Path(sys.argv[1])
turns = int(sys.argv[2])
point = Points(sys.argv[3] if len(sys.argv) > 3 else "")
CONVERSATION, RESPONSE, KEY = "conv_1", "resp_1", "the-key"

streamed = asyncio.Event()
first_result = asyncio.Event()


def stored(events: Sequence[AnyEvent]) -> None:
    """Tells the script when what it waits for is in the journal."""
    if any(isinstance(event, OutputDelta) for event in events):
        streamed.set()
    if [type(event) for event in events] == [ToolResult]:
        first_result.set()


@tool(kind="idempotent")
async def count_once(n: int, *, idempotency_key: str) -> str:
    """Count, once for each key."""
    await point(f"tool started {n}")
    record(folder / "ledger", tool="count_once", n=n, key=idempotency_key)
    await point(f"tool ran {n}")
    return f"counted {n}"


@tool(kind="unsafe")
async def count_blindly(n: int, *, idempotency_key: str) -> str:
    """Count, as often as it is called."""
    await point(f"tool started {n}")
    record(folder / "ledger", tool="count_blindly", n=n, key=idempotency_key)
    await point(f"tool ran {n}")
    return f"counted {n}"


@tool(kind="unsafe")
async def slow(n: int, *, idempotency_key: str) -> str:
    """Count, and return when the turn's other call has its result in the journal."""
    record(folder / "ledger", tool="slow", n=n, key=idempotency_key)
    await point(f"slow started {n}")
    await first_result.wait()
    first_result.clear()
    await point(f"slow ran {n}")
    return f"counted {n}"


def script(turn: ModelTurn) -> Iterator[Scripted]:
    messages = json.loads(turn.body)["messages"]
    at = sum("tool_calls" in message for message in messages)
    record(folder / "prompts", turn=at, body=turn.body.decode())
    if at == turns:
        return iter(says("done"))
    if at == 0:
        # Streams, and goes on when what it streamed is in the journal.
        first, *rest = calls(("count_once", {"n": at}))
        return iter([first, TextDelta("let me "), streamed.wait(), point("streamed"), *rest])
    if at % 3 == 1:
        return iter(calls(("slow", {"n": at}), ("count_once", {"n": at})))
    return iter(calls((("count_blindly", "count_once")[at % 2], {"n": at})))


async def answer(journal: Journal, worker: Worker) -> None:
    """A person is asked about calls in doubt, and says: do not run them again."""
    while waiting := waiting_calls(fold_all(await journal.read(CONVERSATION))):
        items = [
            {"type": "mcp_approval_response", "approval_request_id": each, "approve": False}
            for each in waiting.values()
        ]
        decided = ResponseAccepted("resp_" + "_".join(waiting), time.time(), items)
        await accept(worker, CONVERSATION, decided)
        await worker.run(CONVERSATION)


async def main() -> None:
    config = AgentConfig(
        instructions="Count.", reply_tool=False, limits=AgentLimits(max_turns=100, same_call=99)
    )
    tools = [from_function(each) for each in (count_once, count_blindly, slow)]
    agents = Agents([resolve("counter", config, tools)])
    journal = await journal_in(folder, point, stored)
    async with Worker(
        journal=journal,
        agents=agents,
        models=ScriptedModel(script),
        delta_batch_s=0.001,
        lease_s=LEASE_S,
    ) as worker:
        # A client that has no answer sends its request again, with the same key.
        items = [{"role": "user", "content": "Count."}]
        asked = ResponseAccepted(RESPONSE, time.time(), items, idempotency_key=KEY)
        start = ConversationStarted("counter@1", asked.at)
        await accept(worker, CONVERSATION, asked, start=start)
        await worker.run(CONVERSATION)
        await answer(journal, worker)
    state = fold_all(await journal.read(CONVERSATION))
    await journal.close()
    print("finished", state.last_status, flush=True)


asyncio.run(main())
