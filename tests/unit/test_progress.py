"""What tools show while they run: as fast as its bound allows, and always the newest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from pydantic import ValidationError

from orchestrator.agents import Agents, resolve
from orchestrator.clock import Clock, FakeClock, SystemClock
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    ResponseAccepted,
    ToolProgress,
    ToolResult,
    encode,
)
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.tools.progress import SHOWN_BYTES
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig, AgentLimits

RATE = 8192
ONE_REPORT = SHOWN_BYTES + 256


class Shop:
    """An agent whose tools show something."""

    def __init__(self, work: Callable[..., object], names: list[str], clock: Clock) -> None:
        self.journal = MemoryJournal(clock=clock)
        self.clock = clock
        self.names = names
        limits = AgentLimits(tool_progress_bytes_per_s=RATE, tool_timeout_s=1e9)
        config = AgentConfig(reply_tool=False, limits=limits)
        agents = Agents([resolve("desk", config, [from_function(work)])])
        model = ScriptedModel(self.play)
        self.worker = Worker(journal=self.journal, agents=agents, models=model, clock=clock)

    def play(self, turn: ModelTurn) -> list[Scripted]:
        if b'"tool"' in turn.body:
            return says("done")
        return calls(*(("work", {"name": name}) for name in self.names))

    async def begin(self) -> None:
        accepted = ResponseAccepted("r", self.clock.now(), [{"role": "user", "content": "go"}])
        start = ConversationStarted("desk@1", self.clock.now())
        await self.worker.accept("c", accepted, start=start)

    async def log(self) -> list[AnyEvent]:
        return [each.event for each in await self.journal.read("c")]

    async def shown(self) -> list[ToolProgress]:
        return [each for each in await self.log() if isinstance(each, ToolProgress)]

    async def until_shown(self, beginning: str) -> list[ToolProgress]:
        async with asyncio.timeout(60):
            while True:
                shown = await self.shown()
                if any(each.value.startswith(beginning) for each in shown):
                    return shown
                if isinstance(self.clock, FakeClock):
                    self.clock.advance(0.05)
                await asyncio.sleep(0)


def within(shown: list[ToolProgress], began: float, now: float) -> bool:
    stored = sum(len(encode(each)) for each in shown)
    return stored <= RATE * (now - began + 1) + ONE_REPORT


async def test_a_call_that_shows_megabytes_writes_its_rate_and_its_last_word() -> None:
    @tool(kind="pure")
    async def work(name: str) -> AsyncIterator[str]:
        """Work."""
        for number in range(3000):
            yield f"{number} " + "x" * 5000
            await asyncio.sleep(0)

    shop = Shop(work, ["a"], SystemClock())
    began = time.time()
    async with shop.worker:
        await shop.begin()
        await shop.worker.run("c")
    shown = await shop.shown()
    assert within(shown, began, shown[-1].at)
    assert shown[-1].value.startswith("2999 ")
    numbers = [int(each.value.split()[0]) for each in shown]
    assert numbers == sorted(set(numbers))
    log = await shop.log()
    (result,) = (place for place, each in enumerate(log) if isinstance(each, ToolResult))
    assert log.index(shown[-1]) < result


async def test_who_watches_sees_the_newest_state_while_the_call_goes_on() -> None:
    go_on = asyncio.Event()

    @tool(kind="pure")
    async def work(name: str) -> AsyncIterator[str]:
        """Work."""
        for number in range(100):
            yield f"{number} " + "x" * 5000
        await go_on.wait()
        yield "late"

    clock = FakeClock()
    shop = Shop(work, ["a"], clock)
    began = clock.now()
    async with shop.worker:
        await shop.begin()
        shown = await shop.until_shown("99 ")
        assert within(shown, began, clock.now())
        assert not any(isinstance(each, ToolResult) for each in await shop.log())
        clock.advance(60)  # a long silence is no allowance for a flood
        go_on.set()
        assert (await shop.until_shown("late"))[-2].value.startswith("99 ")
        await shop.worker.run("c")


async def test_a_loud_call_leaves_the_reports_of_a_quiet_one_alone() -> None:
    both, go_on = asyncio.Barrier(2), asyncio.Event()

    @tool(kind="pure")
    async def work(name: str) -> AsyncIterator[str]:
        """Work."""
        await both.wait()
        for number in range(30):
            yield f"{name} {number} " + ("x" * 5000 if name == "loud" else "")
        await go_on.wait()

    clock = FakeClock()
    shop = Shop(work, ["quiet", "loud"], clock)
    async with shop.worker:
        await shop.begin()
        await shop.until_shown("loud 29 ")
        quiet = [each.value for each in await shop.shown() if each.value.startswith("quiet")]
        assert quiet == [f"quiet {number} " for number in range(30)]
        go_on.set()
        await shop.worker.run("c")


def test_a_rate_that_would_show_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="tool_progress_bytes_per_s"):
        AgentLimits(tool_progress_bytes_per_s=0)
