"""Agents as tools of agents: one child for each call, its answer once, its cost counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.api.approvals import waiting_calls
from orchestrator.api.waiting import waiting_in
from orchestrator.journal.base import JournalFull, Lease, ResponseRef
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    CallReady,
    CancelRequested,
    ConversationStarted,
    HistoryImported,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
    ToolResult,
)
from orchestrator.loop.machine import fold_all
from orchestrator.model import ArgumentsDelta, CallStart, Done, ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import tool
from orchestrator.tools.children import agent_tools, ids_of
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from router.tenancy.tenants import OPEN
from serving.config.agent import AgentConfig
from serving.config.model import Prices
from serving.config.tool import ToolSettings
from serving.errors import ConfigError

CHILD = ids_of("c:1:call_1_0")
ASKS = calls(("helper", {"task": "count the bells"}))


class Office:
    """A boss that asks a helper."""

    def __init__(
        self,
        boss: Callable[[int], list[Scripted]],
        helper: list[list[Scripted]],
        *,
        allow_helper: bool = True,
        fork: bool = False,
    ) -> None:
        self.boss, self.helper = boss, iter(helper)
        self.turns: dict[str, list[ModelTurn]] = {"boss": [], "helper": []}
        self.journal = MemoryJournal()
        self.sold: list[str] = []
        self.helping = asyncio.Event()

        @tool(kind="idempotent", requires_approval=True)
        async def sell(item: str) -> str:
            """Sell."""
            self.sold.append(item)
            return f"sold {item}"

        configs = {
            "boss": AgentConfig(
                reply_tool=False,
                tools=("agent:helper",),
                tool_settings={"helper": ToolSettings(fork=fork)},
            ),
            "helper": AgentConfig(reply_tool=False, description="Counts things."),
        }
        (helping,) = agent_tools("boss", configs["boss"], configs)
        helping = replace(helping, requires_approval=not allow_helper)
        tools = {"boss": [helping], "helper": [from_function(sell)]}
        self.agents = Agents([resolve(n, c, tools[n]) for n, c in configs.items()])
        self.model = ScriptedModel(self.play)

    def play(self, turn: ModelTurn) -> list[Scripted]:
        turns = self.turns[turn.agent]
        turns.append(turn)
        if turn.agent == "helper":
            self.helping.set()
        return self.boss(len(turns)) if turn.agent == "boss" else next(self.helper)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Worker]:
        prices = {"scripted": Prices(fresh=1e6, cached=1e5, output=2e6)}
        async with Worker(
            journal=self.journal, agents=self.agents, models=self.model, prices=prices
        ) as worker:
            yield worker

    async def ask(self, worker: Worker, *items: dict[str, Any], response_id: str = "r") -> None:
        given = list(items) or [{"role": "user", "content": "go"}]
        accepted = ResponseAccepted(response_id, time.time(), given)
        await worker.accept("c", accepted, start=ConversationStarted("boss@1", time.time()))

    async def log(self, conversation: str = "c") -> list[AnyEvent]:
        return [each.event for each in await self.journal.read(conversation)]

    async def results(self) -> list[ToolResult]:
        return [event for event in await self.log() if isinstance(event, ToolResult)]

    async def waiting(self) -> list[str]:
        return list(waiting_calls(fold_all(await self.journal.read("c"))).values())


def asks_once(turn: int) -> list[Scripted]:
    return ASKS if turn == 1 else says("they are two")


def decides(asked: str) -> dict[str, Any]:
    return {"type": "mcp_approval_response", "approval_request_id": asked, "approve": True}


async def test_an_agent_s_answer_is_the_result_of_the_call_and_its_cost_counts() -> None:
    office = Office(asks_once, [says("two")])
    async with office.open() as worker:
        await office.ask(worker)
        await worker.run("c")
    (result,) = await office.results()
    assert result.output == "two"
    assert result.cost_usd == pytest.approx(20 + 8 + 20)
    state = fold_all(await office.journal.read("c"))
    assert state.last_status == "completed"
    child = await office.log(CHILD.conversation)
    assert isinstance(child[0], ConversationStarted)
    assert child[0].agent == "helper@1"
    assert b"count the bells" in office.turns["helper"][0].body


async def test_the_model_is_told_what_the_other_agent_is_good_for() -> None:
    office = Office(asks_once, [])
    (definition,) = office.agents.get("boss").tools.definitions()
    assert definition["function"]["name"] == "helper"
    assert definition["function"]["description"] == "Counts things."


async def test_a_caller_that_is_continued_elsewhere_finds_the_child_it_had_begun() -> None:
    gate = asyncio.get_running_loop().create_future()
    office = Office(asks_once, [[gate], says("two")])
    async with office.open() as worker:
        await office.ask(worker)
        await office.helping.wait()
    assert await office.results() == []
    async with office.open() as worker:
        await worker.run("c")
    (result,) = await office.results()
    assert result.output == "two"
    child = await office.log(CHILD.conversation)
    assert sum(isinstance(event, ResponseAccepted) for event in child) == 1


async def test_a_cancelled_caller_cancels_its_child() -> None:
    gate = asyncio.get_running_loop().create_future()
    office = Office(asks_once, [[gate]])
    async with office.open() as worker:
        await office.ask(worker)
        await office.helping.wait()
        await worker.cancel("r")
        await worker.run(CHILD.conversation)
    child = await office.log(CHILD.conversation)
    assert isinstance(child[-1], ResponseFinished)
    assert child[-1].status == "cancelled"


async def test_a_child_is_cancelled_only_when_the_log_knows_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = asyncio.get_running_loop().create_future()
    office = Office(asks_once, [[gate]])
    known: list[bool] = []
    cancel = Worker.cancel

    async def noted(worker: Worker, response_id: str) -> ResponseRef:
        if response_id != "r":
            known.append(any(isinstance(each, CancelRequested) for each in await office.log()))
        return await cancel(worker, response_id)

    monkeypatch.setattr(Worker, "cancel", noted)
    append = office.journal.append

    async def slow(lease: Lease, events: Sequence[AnyEvent], **how: Any) -> int:
        for _ in range(20):
            await asyncio.sleep(0)
        return await append(lease, events, **how)

    office.journal.append = slow  # type: ignore[method-assign]
    async with office.open() as worker:
        await office.ask(worker)
        await office.helping.wait()
        await worker.cancel("r")
        await worker.run(CHILD.conversation)
    assert known == [True]


async def test_a_child_that_waits_for_a_person_makes_its_caller_ask_and_go_on_after() -> None:
    office = Office(asks_once, [calls(("sell", {"item": "bell"})), says("sold it")])
    async with office.open() as worker:
        await office.ask(worker)
        await worker.run("c")
        (asked,) = await office.waiting()
        assert office.sold == []
        # It is one question, whoever lists what waits.
        assert await office.journal.asking("", 9) == ["c", CHILD.conversation]
        (shown,) = waiting_in("c", await office.journal.read("c"), OPEN)
        assert (shown["id"], shown["name"], shown["agent"]) == (asked, "sell", "boss@1")
        below = await office.journal.read(CHILD.conversation)
        assert waiting_in(CHILD.conversation, below, OPEN) == []
        await office.ask(worker, decides(asked), response_id="r2")
        await worker.run("c")
    assert office.sold == ["bell"]
    (result,) = await office.results()
    assert result.output == "sold it"


async def test_a_caller_that_waits_for_a_person_cancels_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office(asks_once, [calls(("sell", {"item": "bell"})), says("sold it")])
    cancelled: list[str] = []

    async def noted(worker: Worker, response_id: str) -> ResponseRef:
        cancelled.append(response_id)
        return ResponseRef(response_id, "", 1)

    monkeypatch.setattr(Worker, "cancel", noted)
    async with office.open() as worker:
        await office.ask(worker)
        await worker.run("c")
        assert await office.waiting()
    assert cancelled == []


async def test_who_allows_a_child_to_begin_has_not_allowed_what_it_asks_for() -> None:
    office = Office(
        asks_once, [calls(("sell", {"item": "bell"})), says("sold it")], allow_helper=False
    )
    async with office.open() as worker:
        await office.ask(worker)
        await worker.run("c")
        (asked,) = await office.waiting()
        assert office.turns["helper"] == []
        await office.ask(worker, decides(asked), response_id="r2")
        await worker.run("c")
        assert office.sold == []
        (asked,) = await office.waiting()
        await office.ask(worker, decides(asked), response_id="r3")
        await worker.run("c")
    assert office.sold == ["bell"]
    (result,) = await office.results()
    assert result.output == "sold it"


async def test_all_that_a_child_waits_for_is_passed_up_one_after_the_other() -> None:
    both = calls(("sell", {"item": "bell"}), ("sell", {"item": "book"}))
    office = Office(asks_once, [both, says("sold both")])
    async with office.open() as worker:
        await office.ask(worker)
        await worker.run("c")
        (asked,) = await office.waiting()
        await office.ask(worker, decides(asked), response_id="r2")
        await worker.run("c")
        assert office.sold == ["bell"]
        (asked,) = await office.waiting()
        await office.ask(worker, decides(asked), response_id="r3")
        await worker.run("c")
    assert office.sold == ["bell", "book"]
    (result,) = await office.results()
    assert result.output == "sold both"


@pytest.mark.parametrize("method", ["read", "find_response"])
async def test_a_journal_that_fails_for_a_moment_costs_no_answer(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    office = Office(asks_once, [says("two")])
    works, calls_left = getattr(office.journal, method), 1

    async def fails_once(*given: Any) -> Any:
        nonlocal calls_left
        if office.helping.is_set() == (method == "read") and calls_left:
            calls_left -= 1
            raise JournalFull("the database is down")
        return await works(*given)

    async with office.open() as worker:
        monkeypatch.setattr(office.journal, method, fails_once)
        await office.ask(worker)
        await worker.run("c")
    assert calls_left == 0
    (result,) = await office.results()
    assert result.output == "two"


async def test_a_child_that_somebody_else_holds_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office(asks_once, [says("two")])
    async with office.open() as worker:
        lease = await office.journal.lease(CHILD.conversation, "another", 60.0)
        assert lease is not None
        works = office.journal.lease

        async def held_once(*given: Any) -> Any:
            found = await works(*given)
            if found is None:
                await office.journal.release(lease)
            return found

        monkeypatch.setattr(office.journal, "lease", held_once)
        await office.ask(worker)
        await worker.run("c")
    (result,) = await office.results()
    assert result.output == "two"


async def test_an_agent_that_fails_is_told_so_with_what_it_had() -> None:
    office = Office(asks_once, [[*says("tw")[:2], *calls(finish="length")[1:]]])
    async with office.open() as worker:
        await office.ask(worker)
        await worker.run("c")
    (result,) = await office.results()
    assert result.partial
    told = json.loads(result.output)
    assert told["result"] == "tw"
    assert told["failed"][0]["status"] == "incomplete"


async def test_a_circle_of_agents_ends() -> None:
    config = AgentConfig(reply_tool=False, tools=("agent:helper",))
    office = Office(asks_once, [])
    office.agents = Agents(
        [resolve("helper", config, agent_tools("helper", config, {"helper": config}))]
    )
    depth = 0

    def play(turn: ModelTurn) -> list[Scripted]:
        nonlocal depth
        if b"too_deep" in turn.body or b"done" in turn.body:
            return says("done")
        depth += 1
        return ASKS

    office.model = ScriptedModel(play)
    async with office.open() as worker:
        accepted = ResponseAccepted("r", time.time(), [{"role": "user", "content": "go"}])
        start = ConversationStarted("helper@1", time.time())
        await worker.accept("c", accepted, start=start)
        await worker.run("c")
    assert depth == 5
    assert fold_all(await office.journal.read("c")).last_status == "completed"


async def test_a_fork_that_begins_while_its_call_s_turn_is_written_has_the_turn_before() -> None:
    begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def boss(turn: int) -> list[Scripted]:
        if turn != 2:
            return asks_once(turn)
        whole, other = calls(("helper", {"task": "again"}))[:3], CallStart("helper")
        return [*whole, other, begun, ArgumentsDelta('{"task": "too"}'), Done("tool_calls")]

    office = Office(boss, [says("seven"), says("eight"), says("nine")], fork=True)
    play = office.play

    def noted(turn: ModelTurn) -> list[Scripted]:
        if len(office.turns["helper"]) == 1 and turn.agent == "helper":
            begun.set_result(None)  # the second one
        return play(turn)

    office.model = ScriptedModel(noted)
    async with office.open() as worker:
        await office.ask(worker)
        await worker.run("c")
    log = await office.log()
    kinds = [type(event) for event in log]
    second = kinds.index(CallReady)
    assert isinstance(log[second], CallReady)
    assert second < len(kinds) - 1 - kinds[::-1].index(ModelResult)
    shown = []
    for call in ("c:2:call_2_0", "c:2:call_2_1"):
        (imported,) = [
            event
            for event in await office.log(ids_of(call).conversation)
            if isinstance(event, HistoryImported)
        ]
        shown.append(imported.items)
    assert shown[0] == shown[1]
    assert [item["type"] for item in shown[0][-2:]] == ["function_call", "function_call_output"]
    assert shown[0][-1]["output"] == "seven"


def test_an_agent_that_is_not_there_is_refused_with_the_nearest() -> None:
    config = AgentConfig(tools=("agent:helpr",))
    with pytest.raises(ConfigError, match="did you mean 'helper'"):
        agent_tools("boss", config, {"helper": config})
