"""Agents whose tools are a real MCP server's: calls, crashes, and lists that change."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.clock import SystemClock
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalRequested,
    ConversationStarted,
    ResponseAccepted,
    ResponseFinished,
    ToolFailed,
    ToolIntent,
    ToolProgress,
    ToolResult,
    ToolsListed,
)
from orchestrator.mcp.server import McpServer
from orchestrator.mcp.servers import McpServers
from orchestrator.mcp.tools import McpTools
from orchestrator.model_scripted import ScriptedModel, calls, in_order, says
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.config.mcp import McpConfig
from serving.errors import Unavailable

WORLD = Path(__file__).parents[1] / "mcp_world.py"


def note(text: str) -> str:
    """A function of the agent's own, of a name that the server has too."""
    return f"own {text}"


@dataclass
class Desk:
    """A worker whose agent has the world's tools."""

    worker: Worker
    journal: MemoryJournal
    model: ScriptedModel
    server: McpServer

    async def ask(self, conversation: str, response_id: str = "r1") -> list[AnyEvent]:
        """One response, from its acceptance to its end; its events."""
        asked = [{"role": "user", "content": "go"}]
        accepted = ResponseAccepted(response_id, SystemClock().now(), asked)  # type: ignore[arg-type]
        start = ConversationStarted("desk@1", 0.0)
        before = len(await self.journal.read(conversation))
        await self.worker.accept(conversation, accepted, start=start)
        async with asyncio.timeout(30):
            await self.worker.run(conversation)
        recorded = await self.journal.read(conversation)
        return [each.event for each in recorded[before:]]

    def tools(self, turn: int) -> list[str]:
        """The names that the model was given in that turn."""
        return [
            each["function"]["name"] for each in json.loads(self.model.turns[turn].body)["tools"]
        ]


@asynccontextmanager
async def desk(
    folder: Path,
    *answers: Any,
    tools: tuple[str, ...] = ("mcp:world",),
    flags: tuple[str, ...] = (),
    journal: MemoryJournal | None = None,
    first_list_wait_s: float = 20,
    **server: Any,
) -> AsyncIterator[Desk]:
    command = [sys.executable, str(WORLD), str(folder), *flags]
    parsed = McpConfig.model_validate(
        {
            "servers": {"world": {"command": command, **server}},
            "first_list_wait_s": first_list_wait_s,
        }
    )
    servers = McpServers(parsed, folder / "stack")
    config = AgentConfig.model_validate(
        {"reply_tool": False, "tools": tools, "limits": {"max_seconds": 60}}
    )
    agents = Agents([resolve("desk", config, [from_function(note)])])
    journal = journal or MemoryJournal(clock=SystemClock())
    model = ScriptedModel(in_order(*answers))
    servers.start()
    try:
        async with Worker(
            journal=journal, agents=agents, models=model, offers=McpTools(servers, SystemClock())
        ) as worker:
            yield Desk(worker, journal, model, servers["world"])
    finally:
        await servers.stop()


def only(events: list[AnyEvent], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


async def test_a_call_goes_to_the_server_and_the_log_says_whose_tool_it_was(tmp_path: Path) -> None:
    async with desk(tmp_path, calls(("add", {"a": 1, "b": 2})), says("3")) as it:
        events = await it.ask("c1")
    [listed] = only(events, ToolsListed)
    [intent] = only(events, ToolIntent)
    [result] = only(events, ToolResult)
    assert intent.version == f"world 1.2 {listed.listing.version}"
    assert (result.outcome, result.output) == ("ok", '{"sum":3}')
    assert only(events, ResponseFinished)[0].status == "completed"


async def test_a_tool_whose_name_is_taken_has_its_servers_before_it(tmp_path: Path) -> None:
    answers = [calls(("note", {"text": "x"}), ("world_note", {"text": "y"})), says("done")]
    async with desk(tmp_path, *answers) as it:
        events = await it.ask("c1")
        assert {"note", "world_note", "put"} <= set(it.tools(0))
    assert [result.output for result in only(events, ToolResult)] == ["own x", "noted"]
    assert (tmp_path / "ledger").read_text() == "y\n"


async def test_an_agent_has_only_the_tools_that_it_names(tmp_path: Path) -> None:
    async with desk(tmp_path, says("hi"), tools=("mcp:world/add", "mcp:world/zoo")) as it:
        await it.ask("c1")
        assert it.tools(0) == ["add", "note"]


async def test_arguments_that_do_not_fit_never_reach_the_server(tmp_path: Path) -> None:
    async with desk(tmp_path, calls(("put", {"text": 7})), says("oh")) as it:
        events = await it.ask("c1")
    [result] = only(events, ToolResult)
    assert result.outcome == "refused"
    assert not (tmp_path / "ledger").exists()


async def test_an_unsafe_call_whose_server_dies_is_told_and_not_repeated(tmp_path: Path) -> None:
    async with desk(tmp_path, calls(("die", {"text": "x"})), says("oh")) as it:
        events = await it.ask("c1")
    [result] = only(events, ToolResult)
    assert (result.outcome, result.code) == ("error", "mcp_connection_lost")
    assert "may have taken effect" in result.output
    assert (tmp_path / "ledger").read_text() == "x\n"


async def test_an_idempotent_call_whose_server_dies_runs_again_with_its_key(
    tmp_path: Path,
) -> None:
    (tmp_path / "die-once").touch()
    async with desk(
        tmp_path, calls(("put", {"text": "x"})), says("done"), trust_annotations=True
    ) as it:
        events = await it.ask("c1")
    assert [failed.code for failed in only(events, ToolFailed)] == ["mcp_connection_lost"]
    intents = only(events, ToolIntent)
    assert [intent.attempt for intent in intents] == [1, 2]
    assert intents[0].key == intents[1].key
    assert only(events, ToolResult)[0].output == "put"
    assert (tmp_path / "ledger").read_text() == "try x\nx\ntry x\n"


async def test_the_servers_own_word_on_its_tools_counts_only_where_it_is_trusted(
    tmp_path: Path,
) -> None:
    (tmp_path / "die-once").touch()
    async with desk(tmp_path, calls(("put", {"text": "x"})), says("oh")) as it:
        events = await it.ask("c1")
    assert "may have taken effect" in only(events, ToolResult)[0].output
    assert (tmp_path / "ledger").read_text() == "try x\nx\n"


async def test_a_tools_own_error_and_a_broken_promise_are_told_to_the_model(tmp_path: Path) -> None:
    async with desk(tmp_path, calls(("fail", {}), ("wrong", {})), says("oh")) as it:
        events = await it.ask("c1")
    failed, wrong = (json.loads(result.output) for result in only(events, ToolResult))
    assert failed == {"error_code": "tool_failed", "human": "the printer is on fire"}
    assert wrong["error_code"] == "mcp_declined"


async def test_progress_of_the_server_is_shown_to_whoever_watches(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    async with desk(tmp_path, calls(("wait", {})), says("done")) as it:
        asked = asyncio.create_task(it.ask("c1"))
        async with asyncio.timeout(20):
            seen: list[AnyEvent] = []
            while not only(seen, ToolProgress):
                await asyncio.sleep(0.01)
                seen = [each.event for each in await it.journal.read("c1")]
        (tmp_path / "hold").unlink()
        events = await asked
    assert json.loads(only(events, ToolProgress)[0].value)["message"].startswith("round ")


async def test_a_large_result_is_shown_in_part(tmp_path: Path) -> None:
    async with desk(tmp_path, calls(("large", {"size": 100_000})), says("done")) as it:
        events = await it.ask("c1")
    [result] = only(events, ToolResult)
    assert len(result.output) <= 16_384
    assert "[cut: the result has 100000 bytes" in result.output


async def test_calls_of_a_tool_that_asks_for_approval_wait_for_a_person(tmp_path: Path) -> None:
    answer = calls(("put", {"text": "x"}))
    async with desk(tmp_path, answer, require_approval=["put"]) as it:
        events = await it.ask("c1")
    [asked] = only(events, ApprovalRequested)
    assert (asked.name, asked.reason) == ("put", "required")
    assert not (tmp_path / "ledger").exists()


async def test_a_conversation_keeps_its_tools_when_the_server_gets_others(tmp_path: Path) -> None:
    async with desk(tmp_path, says("a"), says("b"), says("c")) as it:
        await it.ask("old")
        before = await it.server.listed(0)
        extra = [{"name": "zoo", "inputSchema": {"type": "object", "properties": {}}}]
        (tmp_path / "extra.json").write_text(json.dumps(extra))
        await it.server.call("change", {}, timeout_s=20)
        async with asyncio.timeout(20):
            while it.server.listing == before:  # noqa: ASYNC110 the server's doing
                await asyncio.sleep(0.01)
        again = await it.ask("old", "r2")
        await it.ask("new", "r3")
        assert not only(again, ToolsListed)
        assert it.tools(0) == it.tools(1)
        assert "zoo" not in it.tools(1)
        assert "zoo" in it.tools(2)


async def test_a_restart_renders_the_same_tools_though_the_server_is_gone(tmp_path: Path) -> None:
    journal = MemoryJournal(clock=SystemClock())
    async with desk(tmp_path, says("a"), journal=journal) as it:
        await it.ask("c1")
        head = it.model.turns[0].body.partition(b'"tools":')[2]
    hung = {"flags": ("--hang",), "connect_timeout_s": 0.3}
    async with desk(tmp_path, says("b"), journal=journal, **hung) as it:
        await it.ask("c1", "r2")
        assert it.model.turns[0].body.partition(b'"tools":')[2] == head


async def test_where_the_tools_were_never_seen_the_request_is_refused_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    hung = {"flags": ("--hang",), "connect_timeout_s": 0.2, "first_list_wait_s": 0.5}
    async with desk(tmp_path, **hung) as it:
        with pytest.raises(Unavailable, match="'world' are not known yet") as refused:
            await it.ask("c1")
        assert refused.value.code == "mcp_server_unavailable"
        assert await it.journal.read("c1") == []
