"""A server's list that changes under a conversation: when the conversation gets it, and what stays
the same until then. The servers here never run; what they list is known from the last start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.api.projection import Projection
from orchestrator.clock import SystemClock
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    Compacted,
    ConversationStarted,
    ResponseAccepted,
    ToolsListed,
    ToolsOffered,
)
from orchestrator.loop.machine import fold
from orchestrator.loop.state import State
from orchestrator.mcp.listing import ListingFile
from orchestrator.mcp.offer import ListedTool, Listing, version_of
from orchestrator.mcp.servers import McpServers
from orchestrator.mcp.tools import McpTools
from orchestrator.model import ModelError
from orchestrator.model_scripted import Scripted, ScriptedModel, in_order, says
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.config.mcp import McpConfig

TOO_LONG: list[Scripted] = [ModelError("too long", code="context_length_exceeded", retry=False)]
CONFIG = AgentConfig.model_validate(
    {
        "reply_tool": False,
        "tools": ["mcp:docs"],
        "context": {"strategy": "window", "keep_turns": 1},
    }
)


def listing(*names: str) -> Listing:
    tools = [ListedTool(name) for name in names]
    return Listing(version_of(tools), tools)


OLD, NEW, NEWEST = listing("find"), listing("find", "zoo"), listing("zoo")


class Desk:
    """A front door's worker; one over the journal of another goes on where that one ended."""

    def __init__(
        self, folder: Path, listed: Listing, journal: MemoryJournal, *answers: Iterable[Scripted]
    ) -> None:
        ListingFile(folder / "mcp" / "lists" / "docs.json").write(listed)
        config = McpConfig.model_validate(
            {"servers": {"docs": {"command": "never", "in_requests": True}}}
        )
        self.servers = McpServers(config, folder)
        self.journal = journal
        self.model = ScriptedModel(in_order(*answers))
        self.worker = Worker(
            journal=journal,
            agents=Agents([resolve("desk", CONFIG)]),
            models=self.model,
            offers=McpTools(self.servers, SystemClock()),
        )

    async def ask(self, response_id: str, conversation: str = "c", **request: Any) -> None:
        asked = [{"role": "user", "content": f"request {response_id}"}]
        accepted = ResponseAccepted(response_id, time.time(), asked, request)
        start = ConversationStarted("desk@1", 1.0)
        await self.worker.accept(conversation, accepted, start=start)
        await self.worker.run(conversation)

    async def log(self) -> list[AnyEvent]:
        return [each.event for each in await self.journal.read("c")]

    def tools(self) -> list[list[str]]:
        """The names of the tools in each turn's prompt."""
        bodies = (json.loads(turn.body) for turn in self.model.turns)
        return [[each["function"]["name"] for each in body["tools"]] for body in bodies]

    def prompts(self) -> list[tuple[bytes, bytes]]:
        """The messages of each turn's prompt, and what stands around them."""
        found = []
        for turn in self.model.turns:
            before, _, rest = turn.body.partition(b'"messages":[')
            messages, _, after = rest.partition(b'],"model"')
            found.append((messages, before + after))
        return found


async def test_a_changed_list_comes_with_the_rewriting_of_the_prompt_and_not_before(
    tmp_path: Path,
) -> None:
    answers = [says("one"), says("two"), TOO_LONG, says("three"), says("four")]
    desk = Desk(tmp_path, OLD, MemoryJournal(), *answers)
    async with desk.worker:
        await desk.ask("r1")
        desk.servers["docs"].listing = NEW
        for response_id in ("r2", "r3", "r4"):
            await desk.ask(response_id)
    assert desk.tools() == [["find"]] * 3 + [["find", "zoo"]] * 2
    (_, *before, refused), after = desk.prompts()[:3], desk.prompts()[3:]
    assert {around for _, around in (*before, refused)} == {desk.prompts()[0][1]}
    assert refused[0].startswith(before[0][0])
    assert after[0][1] == after[1][1]
    assert after[1][0].startswith(after[0][0])
    marks = [each for each in await desk.log() if isinstance(each, ToolsListed | Compacted)]
    assert [type(each) for each in marks] == [ToolsListed, ToolsListed, Compacted]


async def test_what_a_request_asked_of_the_server_is_found_again_in_the_new_list(
    tmp_path: Path,
) -> None:
    answers = [says("one"), says("two"), TOO_LONG, says("three")]
    desk = Desk(tmp_path, OLD, MemoryJournal(), *answers)
    wanted = {"tools": [{"type": "mcp", "server_label": "docs", "require_approval": "never"}]}
    async with desk.worker:
        await desk.ask("r1")
        await desk.ask("r2", **wanted)
        desk.servers["docs"].listing = NEWEST
        await desk.ask("r3", **wanted)
    assert desk.tools() == [["find"], ["find"], ["find"], ["zoo"]]
    log = await desk.log()
    [rewritten] = [place for place, each in enumerate(log) if isinstance(each, Compacted)]
    before, after = log[rewritten - 1], log[rewritten + 1]
    assert isinstance(before, ToolsListed)
    assert isinstance(after, ToolsOffered)
    assert after.names == {"zoo": "zoo"}
    projection = Projection("r3", "c")
    for each in log:
        projection.feed(each)
    shown = [item for item in projection.items() if item["type"] == "mcp_list_tools"]
    assert [tool["name"] for item in shown for tool in item["tools"]] == ["zoo"]


async def test_names_of_a_schema_stand_in_the_order_that_the_conversation_s_log_has(
    tmp_path: Path,
) -> None:
    def listed(*names: str) -> Listing:
        properties = {name: {"type": "string"} for name in names}
        tools = [ListedTool("find", parameters={"type": "object", "properties": properties})]
        return Listing(version_of(tools), tools)

    orders = {"c": ["why", "answer"], "d": ["answer", "why"]}
    desk = Desk(tmp_path, listed(*orders["c"]), MemoryJournal(), says("one"), says("two"))
    async with desk.worker:
        await desk.ask("r1", "c")
        desk.servers["docs"].listing = listed(*orders["d"])
        await desk.ask("r2", "d")
    for conversation, turn in zip(orders, desk.model.turns, strict=True):
        [tool] = json.loads(turn.body)["tools"]
        assert list(tool["function"]["parameters"]["properties"]) == orders[conversation]


async def test_a_list_that_is_the_same_is_not_stored_again(tmp_path: Path) -> None:
    answers = [says("one"), says("two"), TOO_LONG, says("three")]
    desk = Desk(tmp_path, OLD, MemoryJournal(), *answers)
    async with desk.worker:
        for response_id in ("r1", "r2", "r3"):
            await desk.ask(response_id)
    log = await desk.log()
    assert sum(isinstance(each, Compacted) for each in log) == 1
    assert sum(isinstance(each, ToolsListed) for each in log) == 1


@pytest.mark.parametrize("cut_after", [ToolsListed, Compacted])
async def test_after_a_crash_at_the_rewriting_the_prompts_are_the_same_bytes(
    tmp_path: Path, cut_after: type[AnyEvent]
) -> None:
    answers = [says("one"), says("two"), TOO_LONG, says("three"), says("four")]
    whole = Desk(tmp_path / "whole", OLD, MemoryJournal(), *answers)
    async with whole.worker:
        await whole.ask("r1")
        whole.servers["docs"].listing = NEW
        for response_id in ("r2", "r3", "r4"):
            await whole.ask(response_id)
    log = await whole.log()
    end = max(place for place, each in enumerate(log) if isinstance(each, cut_after))
    torn = MemoryJournal()
    lease = await torn.lease("c", "one that dies", 60.0)
    assert lease is not None
    await torn.append(lease, log[: end + 1])
    await torn.release(lease)
    # Whatever the server lists by now: what the log says is what the prompt is made of.
    again = Desk(tmp_path / "again", NEW, torn, says("three"), says("four"))
    async with again.worker:
        await again.worker.run("c")
        again.servers["docs"].listing = NEWEST
        await again.ask("r4")
    assert again.prompts() == whole.prompts()[3:]
    assert sum(isinstance(each, ToolsListed) for each in await again.log()) == 2


def test_a_second_list_waits_in_the_fold_until_the_prompt_is_rewritten() -> None:
    state = State()
    for each in (ToolsListed("docs", 1.0, OLD), ToolsListed("docs", 2.0, NEW)):
        fold(state, each)
    assert state.offers == {"docs": OLD}
    fold(state, ToolsListed("more", 3.0, OLD))
    assert state.offers == {"docs": OLD, "more": OLD}, "a first list counts at once"
    fold(state, Compacted(1, 4.0, 1, "window", "overflow"))
    assert state.offers == {"docs": NEW, "more": OLD}
    fold(state, Compacted(2, 5.0, 2, "window", "overflow"))
    assert state.offers == {"docs": NEW, "more": OLD}
