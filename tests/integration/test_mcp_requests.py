"""A request with tools of an MCP server, torn off at every event of its log and gone on with: the
events that clients saw stay as they were, and no call runs twice."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.agents import Agents, resolve
from orchestrator.api.projection import Projection
from orchestrator.clock import SystemClock
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
    ToolsOffered,
)
from orchestrator.mcp.servers import McpServers
from orchestrator.mcp.tools import McpTools
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.config.mcp import McpConfig

WORLD = Path(__file__).parents[1] / "mcp_world.py"
WANTED = {"tools": [{"type": "mcp", "server_label": "world", "require_approval": "never"}]}


def script(turn: ModelTurn) -> Iterable[Scripted]:
    last = json.loads(turn.body)["messages"][-1]
    return says("done") if last["role"] == "tool" else calls(("note", {"text": "x"}))


def renamed(log: Sequence[AnyEvent], response_id: str) -> list[AnyEvent]:
    """The same log of another response."""
    return [
        msgspec.structs.replace(each, response_id=response_id)
        if isinstance(each, ResponseAccepted | ResponseFinished)
        else each
        for each in log
    ]


def shown(log: Sequence[AnyEvent], response_id: str) -> list[dict[str, Any]]:
    projection = Projection(response_id, "conv")
    return [emitted for each in log for emitted in projection.feed(each)]


def same(body: bytes) -> bytes:
    """A turn that was sampled again is another answer, whose calls have other ids."""
    return re.sub(rb"(call_\d+_\d+)_\d+", rb"\1", body)


def written(folder: Path) -> int:
    ledger = folder / "ledger"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


async def test_torn_off_anywhere_its_events_go_on_and_no_call_runs_twice(tmp_path: Path) -> None:
    command = [sys.executable, str(WORLD), str(tmp_path)]
    world = {"command": command, "in_requests": True}
    config = McpConfig.model_validate({"servers": {"world": world}, "first_list_wait_s": 20})
    servers = McpServers(config, tmp_path / "stack")
    journal = MemoryJournal(clock=SystemClock())
    agents = Agents([resolve("desk", AgentConfig(reply_tool=False))])
    model = ScriptedModel(script)
    offers = McpTools(servers, SystemClock())
    servers.start()
    try:
        async with (
            asyncio.timeout(60),
            Worker(journal=journal, agents=agents, models=model, offers=offers) as worker,
        ):
            items = [{"role": "user", "content": "go"}]
            accepted = ResponseAccepted("r", time.time(), items, WANTED)  # type: ignore[arg-type]
            await worker.accept("c", accepted, start=ConversationStarted("desk@1", 1.0))
            await worker.run("c")
            whole = [each.event for each in await journal.read("c")]
            prompts = {same(turn.body) for turn in model.turns}
            first = next(at for at, each in enumerate(whole) if isinstance(each, ToolsOffered))
            for cut in range(first + 1, len(whole)):
                before = renamed(whole[:cut], f"r{cut}")
                lease = await journal.lease(f"c{cut}", "one that dies", 60.0)
                assert lease is not None
                await journal.append(lease, before)
                await journal.release(lease)
                ran, asked = written(tmp_path), len(model.turns)
                await worker.run(f"c{cut}")
                after = [each.event for each in await journal.read(f"c{cut}")]
                events = shown(after, f"r{cut}")
                assert events[: len(shown(before, f"r{cut}"))] == shown(before, f"r{cut}")
                assert [e["sequence_number"] for e in events] == list(range(len(events)))
                begun = any(isinstance(each, ToolIntent) for each in before)
                done = any(isinstance(each, ToolResult) for each in before)
                assert written(tmp_path) - ran == (0 if begun else 1)
                items_then = [item["type"] for item in events[-1]["response"]["output"]]
                in_doubt = begun and not done
                ending = "mcp_approval_request" if in_doubt else "message"
                assert items_then == ["mcp_list_tools", "mcp_call", ending]
                assert {same(turn.body) for turn in model.turns[asked:]} <= prompts
    finally:
        await servers.stop()
