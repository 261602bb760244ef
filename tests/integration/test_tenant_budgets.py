"""Tenants' budgets while agents run: told, wound down, cut; shared, kept, and free again in time.

Every turn costs one dollar. Over every store that a stack can have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.agents import Agents, resolve
from orchestrator.clock import FakeClock
from orchestrator.journal.base import Account, Journal, JournalFull, Lease
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.budgets import explain
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    LimitReached,
    ModelResult,
    Notice,
    ResponseAccepted,
    ResponseFinished,
)
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import ToolOutput
from orchestrator.tools.children import agent_tools
from orchestrator.tools.functions import from_function
from orchestrator.worker.guard_metrics import GuardMetrics
from orchestrator.worker.ledger import LOOK_S
from orchestrator.worker.worker import Worker
from router.tenancy.budgets import Budgets, TenantBudgetUsed
from serving.config.agent import AgentConfig
from serving.config.model import Prices
from serving.config.tenancy import TenantConfig
from serving.spending import Spending
from tests.stores import KINDS, opened

HOUR_S = 3600.0
PRICES = {"scripted": Prices(output=5e4)}
GOES_ON = {"max_turns": 100, "max_tool_calls": 100, "same_call": 99, "remind_every": 0}


def stubborn(turn: ModelTurn) -> list[Scripted]:
    """Calls on and on, until it has no tools."""
    said = json.loads(turn.body)
    if said.get("tool_choice") == "none":
        return says("what I know", tokens=20)
    return calls(("look", {"n": len(said["messages"])}))


async def look(n: int) -> str:
    """Look."""
    return f"seen {n}"


async def rent(n: int) -> ToolOutput:
    """Costs half a dollar."""
    return ToolOutput(f"rented {n}", 0.5)


class Desk:
    """One process: a worker and what it knows of budgets."""

    def __init__(
        self,
        journal: Journal,
        clock: FakeClock,
        budget: dict[str, Any],
        script: Callable[[ModelTurn], list[Scripted]],
        limits: dict[str, Any],
    ) -> None:
        self.journal, self.clock = journal, clock
        self.model = ScriptedModel(script)
        self.registry = CollectorRegistry()
        tenants = {
            "acme": TenantConfig.model_validate({"budget": {"window": "1h", **budget}}),
            "bolt": TenantConfig(),
        }
        self.budgets = Budgets(tenants, clock.now)
        agent = {"reply_tool": False, "limits": {**GOES_ON, **limits}}
        config = AgentConfig.model_validate(agent)
        boss = AgentConfig.model_validate({**agent, "tools": ["agent:desk"]})
        tools = [from_function(look), from_function(rent)]
        asking = agent_tools("boss", boss, {"desk": config, "boss": boss})
        agents = [resolve("desk", config, tools), resolve("boss", boss, asking)]
        self.worker = Worker(
            journal=journal,
            agents=Agents(agents),
            models=self.model,
            prices=PRICES,
            clock=clock,
            guard=GuardMetrics(self.registry),
            budgets=self.budgets,
        )

    async def ask(self, name: str = "c", tenant: str = "acme", agent: str = "desk") -> str:
        """One response of a new conversation, to its end: `status code`."""
        at = self.clock.now()
        items = [{"role": "user", "content": "go"}]
        accepted = ResponseAccepted(f"r_{name}", at, items, tenant=tenant)
        start = ConversationStarted(f"{agent}@1", at, tenant)
        await self.worker.accept(name, accepted, start=start)
        await self.worker.run(name)
        ended = (await self.log(name))[-1]
        assert isinstance(ended, ResponseFinished)
        return f"{ended.status} {ended.code}".strip()

    async def log(self, name: str = "c") -> list[AnyEvent]:
        return [each.event for each in await self.journal.read(name)]

    async def told(self, name: str = "c") -> list[tuple[str, str, float, bool]]:
        found = [each for each in await self.log(name) if isinstance(each, Notice)]
        return [(each.scope, each.kind, each.value, each.last) for each in found]

    @property
    def used(self) -> Spending:
        return self.budgets.by_tenant["acme"].used(self.clock.now())

    def counted(self, kind: str, action: str) -> float:
        labels = {"kind": kind, "action": action}
        return self.registry.get_sample_value("warmloop_guard_total", labels) or 0.0

    async def until_used(self, cost_usd: float) -> None:
        """It looks at what others have spent, by and by."""
        async with asyncio.timeout(30):
            while self.used.cost_usd != cost_usd:
                self.clock.advance(LOOK_S)
                await asyncio.sleep(0.005)


class FullAtTimes(MemoryJournal):
    """Cannot store a turn's result the first time that it is asked to."""

    refused = 0

    async def append(
        self,
        lease: Lease,
        events: Sequence[AnyEvent],
        *,
        durable: bool = True,
        account: Account | None = None,
    ) -> int:
        results = sum(isinstance(each, ModelResult) for each in events)
        if results and self.refused < len(await self.read("c")):
            self.refused = len(await self.read("c"))
            raise JournalFull("no space left")
        return await super().append(lease, events, durable=durable, account=account)


class House:
    """A journal, and processes that come and go."""

    def __init__(self, journal: Journal, clock: FakeClock) -> None:
        self.journal, self.clock = journal, clock

    @asynccontextmanager
    async def desk(
        self,
        script: Callable[[ModelTurn], list[Scripted]] = stubborn,
        limits: dict[str, Any] | None = None,
        **budget: Any,
    ) -> AsyncIterator[Desk]:
        desk = Desk(self.journal, self.clock, budget, script, limits or {})
        async with desk.worker:
            yield desk


@pytest.fixture(params=KINDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    clock = FakeClock()
    async with opened(request.param, request, tmp_path, clock) as journal:
        yield House(journal, clock)


async def test_a_run_is_told_at_four_fifths_and_answers_once_more_before_the_limit(
    house: House,
) -> None:
    async with house.desk(max_cost_usd=10) as desk:
        assert await desk.ask() == "completed"
        assert await desk.told() == [
            ("tenant", "cost", 8.0, False),
            ("tenant", "cost", 9.0, True),
        ]
        assert desk.used == Spending(10, 9, 1_200, 0.0, 10.0)
        (limit,) = [each for each in await desk.log() if isinstance(each, LimitReached)]
        assert (limit.scope, limit.answered) == ("tenant", True)
        assert desk.counted("tenant_cost", "told") == 1
        assert desk.counted("tenant_cost", "wound_down") == 1
        with pytest.raises(TenantBudgetUsed):
            desk.budgets.enter("acme")
        desk.budgets.enter("bolt")


async def test_without_a_last_answer_the_limit_cuts_and_says_whose_it_is(house: House) -> None:
    async with house.desk(limits={"last_answer": False}, max_turns=3) as desk:
        assert await desk.ask() == "incomplete tenant_max_turns"
        (limit,) = [each for each in await desk.log() if isinstance(each, LimitReached)]
        assert explain(limit)[1] == (
            "the limit of 3 model turns is reached (of all that the tenant does)"
        )
        assert desk.counted("tenant_turns", "cut") == 1
        assert desk.used.turns == 3


async def test_every_limit_of_a_budget_ends_a_run(house: House) -> None:
    for number, (budget, code) in enumerate(
        (
            ({"max_tool_calls": 2}, "tenant_max_tool_calls"),
            ({"max_tokens": 300}, "tenant_max_tokens"),
            ({"max_cost_usd": 2.5}, "tenant_max_cost_usd"),
        )
    ):
        house.clock.advance(2 * HOUR_S)
        async with house.desk(limits={"last_answer": False}, **budget) as desk:
            assert await desk.ask(f"c{number}") == f"incomplete {code}"


async def test_what_was_spent_before_a_restart_is_still_spent_after_it(house: House) -> None:
    async with house.desk(max_turns=10, limits={"max_turns": 6}) as desk:
        await desk.ask("c1")
    async with house.desk(max_turns=10) as desk:
        assert desk.used.turns == 6
        assert await desk.ask("c2") == "completed"
        assert desk.used.turns == 10
        assert [last for *_, last in await desk.told("c2")] == [False, True]


async def test_processes_on_one_journal_share_a_budget(house: House) -> None:
    budget: dict[str, Any] = {"window": "30d", "max_cost_usd": 10}  # time runs fast in this test
    async with house.desk(**budget) as one, house.desk(**budget) as other:
        await one.ask("c1", tenant="bolt")
        assert one.used == other.used == Spending()
        await one.ask("c2")
        await other.until_used(10.0)
        assert await other.ask("c3") == "incomplete tenant_max_cost_usd"
        assert other.used.turns == 10
        with pytest.raises(TenantBudgetUsed):
            other.budgets.enter("acme")


async def test_the_window_moves_on(house: House) -> None:
    async with house.desk(max_cost_usd=10, limits={"max_turns": 3}) as desk:
        await desk.ask("c1")
        house.clock.advance(HOUR_S / 2)
        await desk.ask("c2")
        assert desk.used.turns == 6
        house.clock.advance(HOUR_S / 2 + 60)
        assert desk.used.turns == 3
    async with house.desk(max_cost_usd=10) as desk:
        assert desk.used.turns == 3
        house.clock.advance(HOUR_S)
        assert desk.used == Spending()
        assert await desk.ask("c3") == "completed"


async def test_what_has_been_spent_on_a_deleted_conversation_stays_spent(house: House) -> None:
    async with house.desk(max_turns=10, limits={"max_turns": 5}) as desk:
        await desk.ask()
        await desk.worker.purge_conversation("c")
        assert desk.used.turns == 5
    async with house.desk(max_turns=10) as desk:
        assert desk.used.turns == 5


async def test_forwarded_requests_spend_from_the_same_budget(house: House) -> None:
    budget: dict[str, Any] = {"window": "30d", "max_cost_usd": 10}
    async with house.desk(**budget) as desk, house.desk(**budget) as other:
        acme = desk.budgets.by_tenant["acme"]
        acme.spend_unsaved(Spending(1, 0, 10, 1.0, 9.5), house.clock.now())
        await other.until_used(9.5)
        assert desk.used.cost_usd == 9.5
        acme.spend_unsaved(Spending(1, 0, 10, 1.0, 0.25), house.clock.now())
    async with house.desk(**budget) as desk:
        assert desk.used.cost_usd == 9.75, "what was left is written down at the end"


async def test_an_agent_s_work_for_another_agent_is_paid_once(house: House) -> None:
    def script(turn: ModelTurn) -> list[Scripted]:
        said = turn.body.decode()
        if "agent desk" in said and '"role":"tool"' not in said:
            return calls(("desk", {"task": "look"}))
        return says("done", tokens=20)

    async with house.desk(script, max_cost_usd=100) as desk:
        assert await desk.ask(agent="boss") == "completed"
        assert desk.used == Spending(3, 1, 360, 0.0, 3.0)


async def test_what_tools_cost_counts(house: House) -> None:
    def script(turn: ModelTurn) -> list[Scripted]:
        if '"role":"tool"' in turn.body.decode():
            return says("done", tokens=20)
        return calls(("rent", {"n": 1}))

    async with house.desk(script, max_cost_usd=100) as desk:
        assert await desk.ask() == "completed"
        assert desk.used.cost_usd == 2.5


async def test_each_of_several_runs_has_room_for_its_last_answer(house: House) -> None:
    names = [f"c{number}" for number in range(5)]
    begun = asyncio.Barrier(len(names))

    def script(turn: ModelTurn) -> list[Scripted]:
        said = stubborn(turn)
        return said if '"role":"tool"' in turn.body.decode() else [begun.wait(), *said]

    async with house.desk(script, max_turns=40) as desk:
        ended = await asyncio.gather(*map(desk.ask, names))
        assert set(ended) == {"completed"}
        assert desk.used.turns <= 40
        for name in names:
            answers = [each for each in await desk.log(name) if isinstance(each, ModelResult)]
            assert answers[-1].text == "what I know"
        assert desk.used.turns > 30, "what is left over is little"


async def test_what_is_stored_at_the_second_try_is_counted_once() -> None:
    clock = FakeClock()
    journal = FullAtTimes(clock=clock)
    async with House(journal, clock).desk(max_turns=100, limits={"max_turns": 4}) as desk:
        asking = asyncio.create_task(desk.ask())
        async with asyncio.timeout(30):
            while not asking.done():
                await asyncio.sleep(0)
                clock.advance(1)
        assert await asking == "completed"
        (spent,) = await journal.spent(0.0, but_by="")
        assert spent.spending == desk.used
        assert desk.used.turns == 4
        assert journal.refused > 0
    await journal.close()


async def test_tenants_without_a_budget_are_not_counted(house: House) -> None:
    async with house.desk(max_turns=1, limits={"max_turns": 4}) as desk:
        assert await desk.ask(tenant="bolt") == "completed"
        assert await house.journal.spent(0.0, but_by="") == []
