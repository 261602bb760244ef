"""What is deleted takes the conversations of the agents that it asked along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.api.approvals import waiting_calls
from orchestrator.clock import FakeClock
from orchestrator.journal.base import Journal
from orchestrator.loop.events import ConversationStarted, Item, Purged, ResponseAccepted, ToolResult
from orchestrator.loop.machine import fold_all
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import tool
from orchestrator.tools.children import agent_tools, ids_of
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from tests.stores import KINDS, opened

SECRET = "swordfish"
CHILD = ids_of("c:1:call_1_0").conversation
GRANDCHILD = ids_of(f"{CHILD}:1:call_1_0").conversation
CONFIGS = {
    "boss": AgentConfig(reply_tool=False, tools=("agent:lead",)),
    "lead": AgentConfig(reply_tool=False, tools=("agent:hand",)),
    "hand": AgentConfig(reply_tool=False),
}


@tool(kind="idempotent", requires_approval=True)
async def sell(item: str) -> str:
    """Sell."""
    return f"sold {item}"


class Firm:
    """A boss asks a lead, who asks a hand; the last does what `hand` says, once a turn."""

    def __init__(
        self, journal: Journal, clock: FakeClock, hand: list[list[Scripted]], **options: float
    ) -> None:
        self.journal, self.clock, self.hand = journal, clock, iter(hand)
        self.at_work = asyncio.Event()
        tools = {name: agent_tools(name, config, CONFIGS) for name, config in CONFIGS.items()}
        tools["hand"] = [from_function(sell)]
        agents = Agents([resolve(name, config, tools[name]) for name, config in CONFIGS.items()])
        models = ScriptedModel(self.play)
        self.worker = Worker(
            journal=journal, agents=agents, models=models, clock=clock, park_s=0.0, **options
        )

    def play(self, turn: ModelTurn) -> list[Scripted]:
        if turn.agent == "hand":
            self.at_work.set()
            return next(self.hand)
        if b'"tool"' in turn.body or b"nobody" in turn.body:
            return says("done")
        return calls(("lead" if turn.agent == "boss" else "hand", {"task": SECRET}))

    async def ask(self, response_id: str, *items: Item, store: bool = True) -> None:
        given = list(items) or [{"role": "user", "content": "go"}]
        asked = ResponseAccepted(response_id, self.clock.now(), given, {"store": store})
        start = ConversationStarted("boss@1", self.clock.now())
        await self.worker.accept("c", asked, start=start)

    async def is_gone(self, conversation: str) -> bool:
        log = await self.journal.read(conversation)
        return bool(log) and all(isinstance(each.event, Purged) for each in log)

    async def all_gone(self) -> bool:
        return all([await self.is_gone(each) for each in ("c", CHILD, GRANDCHILD)])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=KINDS)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Journal]:
    async with opened(request.param, request, tmp_path, clock) as journal:
        yield journal


@asynccontextmanager
async def firm(
    journal: Journal, clock: FakeClock, hand: list[list[Scripted]], **options: float
) -> AsyncIterator[Firm]:
    made = Firm(journal, clock, hand, **options)
    async with made.worker:
        yield made


async def test_a_deleted_conversation_takes_its_children_and_theirs_along(
    store: Journal, clock: FakeClock
) -> None:
    async with firm(store, clock, [says(SECRET)]) as running:
        await running.ask("r")
        await running.worker.run("c")
        assert not await running.is_gone(GRANDCHILD)
        await running.worker.purge_conversation("c")
        assert await running.all_gone()


async def test_children_that_still_run_are_cancelled_first(
    store: Journal, clock: FakeClock
) -> None:
    gate = asyncio.get_running_loop().create_future()
    async with firm(store, clock, [[gate]]) as running:
        await running.ask("r")
        async with asyncio.timeout(60):
            await running.at_work.wait()
            await running.worker.purge_conversation("c")
        assert await running.all_gone()
        assert running.worker.active == 0


async def test_a_response_that_is_not_stored_takes_its_children_along(
    store: Journal, clock: FakeClock
) -> None:
    async with firm(store, clock, [says(SECRET)], unstored_s=60) as running:
        await running.ask("r", store=False)
        await running.worker.run("c")
        clock.advance(61)
        await running.worker.sweep()
        assert await running.all_gone()


async def test_what_is_not_kept_any_longer_takes_its_children_along(
    store: Journal, clock: FakeClock
) -> None:
    async with firm(store, clock, [says(SECRET)], retention_s=1000) as running:
        await running.ask("r")
        await running.worker.run("c")
        clock.advance(500)
        # Somebody looked after the child meanwhile: by itself it would stay.
        lease = await store.lease(CHILD, "somebody", 1)
        assert lease is not None
        await store.release(lease)
        clock.advance(600)
        await running.worker.sweep()
        assert await running.all_gone()


async def test_of_a_deleted_response_that_others_stand_on_the_children_go(
    store: Journal, clock: FakeClock
) -> None:
    async with firm(store, clock, [says(SECRET)]) as running:
        await running.ask("r1")
        await running.worker.run("c")
        await running.ask("r2", {"role": "user", "content": "ask nobody"})
        await running.worker.run("c")
        await running.worker.purge_response("r1")
        assert await running.is_gone(CHILD)
        assert await running.is_gone(GRANDCHILD)
        assert await store.find_response("r2") is not None


async def test_a_call_that_still_waits_for_a_person_keeps_its_child(
    store: Journal, clock: FakeClock
) -> None:
    hand = [calls(("sell", {"item": "bell"}), ("sell", {"item": "book"})), says("sold both")]
    async with firm(store, clock, hand) as running:
        await running.ask("r1")
        await running.worker.run("c")
        await running.ask("r2", await decision(store))
        await running.worker.run("c")
        await running.worker.purge_response("r1")
        assert not await running.is_gone(CHILD)
        await running.ask("r3", await decision(store))
        await running.worker.run("c")
        log = [each.event for each in await store.read("c")]
        assert [each.output for each in log if isinstance(each, ToolResult)] == ["done"]


async def decision(journal: Journal) -> Item:
    (asked,) = waiting_calls(fold_all(await journal.read("c"))).values()
    return {"type": "mcp_approval_response", "approval_request_id": asked, "approve": True}
