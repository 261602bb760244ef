"""Calls that begin while their turn is still being written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    CallReady,
    ConversationStarted,
    ModelFailed,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)
from orchestrator.model import ArgumentsDelta, CallStart, Done, ModelError, TextDelta
from orchestrator.model_scripted import ROUTED, Scripted, ScriptedModel, says
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig

GONE = ModelError("engine gone", code="engine_failed", retry=True)


class Shop:
    """An agent whose turns are as long as a test wants them."""

    def __init__(self, **agent: Any) -> None:
        self.model = ScriptedModel(lambda turn: ())
        self.journal = MemoryJournal()
        self.ran: list[str] = []
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()

        def note(what: str) -> str:
            self.ran.append(what)
            self.began.set()
            return what

        @tool(kind="unsafe")
        async def buy(item: str) -> str:
            """Buy."""
            return note(f"bought {item}")

        @tool(kind="pure")
        async def look(item: str) -> str:
            """Look."""
            return note(f"saw {item}")

        @tool(kind="unsafe")
        async def linger(item: str) -> str:
            """Take long."""
            note(f"began {item}")
            await self.may_end.wait()
            return "ended"

        @tool(kind="unsafe", requires_approval=True)
        async def sell(item: str) -> str:
            """Sell."""
            return note(f"sold {item}")

        config = AgentConfig.model_validate({"reply_tool": False, **agent})
        tools = [from_function(each) for each in (buy, look, linger, sell)]
        self.agents = Agents([resolve("desk", config, tools)])

    def will(self, *turns: Iterable[Scripted]) -> None:
        remaining = iter(turns)
        self.model = ScriptedModel(lambda turn: next(remaining))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Worker]:
        async with Worker(
            journal=self.journal, agents=self.agents, models=self.model, delta_batch_s=0.001
        ) as worker:
            if not await self.journal.read("c"):
                accepted = ResponseAccepted("r", time.time(), [{"role": "user", "content": "go"}])
                start = ConversationStarted("desk@1", time.time())
                await worker.accept("c", accepted, start=start)
            yield worker

    async def log(self) -> list[AnyEvent]:
        return [each.event for each in await self.journal.read("c")]

    async def found(self, kind: type[Any]) -> list[Any]:
        return [event for event in await self.log() if isinstance(event, kind)]

    async def finished(self, worker: Worker) -> ResponseFinished:
        await worker.run("c")
        last = (await self.log())[-1]
        assert isinstance(last, ResponseFinished)
        return last


def wants(name: str, item: str) -> list[Scripted]:
    return [CallStart(name), ArgumentsDelta(f'{{"item": "{item}"}}')]


DONE = Done("tool_calls", 100, 80, 20)


async def test_a_call_that_is_whole_runs_while_the_turn_goes_on() -> None:
    shop = Shop()
    turn = [ROUTED, *wants("buy", "bell"), shop.began.wait(), *wants("buy", "horn"), DONE]
    shop.will(turn, says("done"))
    async with shop.open() as worker:
        assert (await shop.finished(worker)).status == "completed"
    assert shop.ran == ["bought bell", "bought horn"]
    kinds = [type(event) for event in await shop.log()]
    assert kinds.index(CallReady) < kinds.index(ToolIntent) < kinds.index(ModelResult)
    intents = await shop.found(ToolIntent)
    assert [each.call_id for each in intents] == ["call_1_0", "call_1_1"]
    results = await shop.found(ToolResult)
    assert len(results) == 2


async def test_a_pure_call_runs_ahead_without_a_word_in_the_log_until_its_turn_is_whole() -> None:
    shop = Shop()
    turn = [ROUTED, *wants("look", "bell"), shop.began.wait(), DONE]
    shop.will(turn, says("done"))
    async with shop.open() as worker:
        assert (await shop.finished(worker)).status == "completed"
    assert shop.ran == ["saw bell"]
    assert await shop.found(CallReady) == []
    kinds = [type(event) for event in await shop.log()]
    assert kinds.index(ModelResult) < kinds.index(ToolIntent) < kinds.index(ToolResult)


async def test_a_guess_whose_turn_fails_is_dropped_and_made_again() -> None:
    shop = Shop()
    turn = [ROUTED, *wants("look", "bell"), shop.began.wait(), GONE]
    again = [ROUTED, *wants("look", "horn"), DONE]
    shop.will(turn, again, says("done"))
    async with shop.open() as worker:
        assert (await shop.finished(worker)).status == "completed"
    assert shop.ran == ["saw bell", "saw horn"]
    (result,) = await shop.found(ToolResult)
    assert result.output == "saw horn"


async def test_a_turn_that_fails_after_a_call_of_it_began_is_that_call() -> None:
    shop = Shop()
    turn = [ROUTED, TextDelta("let me"), *wants("buy", "bell"), shop.began.wait(), GONE]
    shop.will(turn, says("done"))
    async with shop.open() as worker:
        assert (await shop.finished(worker)).status == "completed"
    assert shop.ran == ["bought bell"]
    assert await shop.found(ModelFailed) == []
    first = (await shop.found(ModelResult))[0]
    assert first.text == "let me"
    assert [call.name for call in first.calls] == ["buy"]


async def test_a_turn_that_is_cut_at_its_length_keeps_the_calls_that_began() -> None:
    shop = Shop()
    cut = [CallStart("buy"), ArgumentsDelta('{"ite'), Done("length", 100, 80, 20)]
    turn = [ROUTED, *wants("buy", "bell"), shop.began.wait(), *cut]
    shop.will(turn, says("done"))
    async with shop.open() as worker:
        assert (await shop.finished(worker)).status == "completed"
    assert shop.ran == ["bought bell"]
    assert len((await shop.found(ModelResult))[0].calls) == 1


@pytest.mark.parametrize("agent", [{}, {"limits": {"max_tool_calls": 0}}])
async def test_what_a_person_or_a_limit_may_refuse_waits_for_the_end_of_the_turn(
    agent: dict[str, Any],
) -> None:
    gate = asyncio.Event()
    shop = Shop(**agent)
    name = "buy" if agent else "sell"
    turn = [ROUTED, *wants(name, "bell"), TextDelta("x"), gate.wait(), DONE]
    shop.will(turn)
    async with shop.open() as worker:
        while not any(type(event).__name__ == "OutputDelta" for event in await shop.log()):
            await shop.journal.wait("c", len(await shop.log()), 5)
        gate.set()
        await shop.finished(worker)
    assert shop.ran == []
    assert await shop.found(CallReady) == []


async def test_a_worker_that_stops_lets_a_call_end_that_ran_ahead() -> None:
    shop = Shop()
    hanging = asyncio.get_running_loop().create_future()
    turn = [ROUTED, *wants("linger", "bell"), hanging]
    shop.will(turn, says("done"))
    async with shop.open():
        await shop.began.wait()
        asyncio.get_running_loop().call_soon(shop.may_end.set)
    assert [each.output for each in await shop.found(ToolResult)] == ["ended"]
    async with shop.open() as worker:
        assert (await shop.finished(worker)).status == "completed"
    assert shop.ran == ["began bell"]


async def test_cancelling_ends_a_call_that_ran_ahead() -> None:
    shop = Shop()
    turn = [ROUTED, *wants("linger", "bell"), asyncio.get_running_loop().create_future()]
    shop.will(turn)
    async with shop.open() as worker:
        await shop.began.wait()
        await worker.cancel("r")
        assert worker.active == 0
    last = (await shop.log())[-1]
    assert isinstance(last, ResponseFinished)
    assert last.status == "cancelled"
