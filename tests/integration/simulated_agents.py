"""Agents before simulated engines: the real worker, router and HTTP; the clock is the test's.

Worker (FakeClock) ── RouterModel ── Router ── HTTP ── simulated engines, with their caches
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.agents import Agents, resolve
from orchestrator.clock import FakeClock
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import AnyEvent, ConversationStarted, ResponseAccepted
from orchestrator.model import ModelClient, ModelEvent, ModelTurn, RouterModel
from orchestrator.tools.base import Tool
from orchestrator.tools.children import agent_tools
from orchestrator.worker.worker import Worker
from router.dispatch import Router
from router.turn import TurnRequest
from serving.config.agent import AgentConfig
from serving.config.model import Prices, SimulatorConfig
from serving.protocol import CHAT
from serving.simulator.server import Simulator
from tests.integration.simulated_engines import simulated
from tests.unit.fakes import FakeTable, stack

E = TypeVar("E")
PATIENCE_S = 30.0
CACHE = SimulatorConfig(
    prefill_tokens_per_s=1e6, decode_tokens_per_s=1e6, capacity_tokens=6400, block_tokens=16
)
PRICES = Prices(fresh=1.0, cached=0.1, output=4.0)
ONE_RUN_S = 1e6
"""Time jumps in tests: a lease must outlast that."""


class Heard:
    """A model client that remembers what was asked."""

    def __init__(self, client: ModelClient) -> None:
        self.turns: list[ModelTurn] = []
        self._client = client

    def turn(self, turn: ModelTurn) -> AsyncGenerator[ModelEvent, None]:
        self.turns.append(turn)
        return self._client.turn(turn)


@dataclass
class World:
    """What a test may look at."""

    router: Router
    simulators: list[Simulator]
    journal: MemoryJournal
    agents: Agents
    clock: FakeClock
    heard: Heard

    def build(self) -> Worker:
        return Worker(
            journal=self.journal,
            agents=self.agents,
            models=self.heard,
            prices={"big": PRICES},
            clock=self.clock,
            lease_s=ONE_RUN_S,
            stop_grace_s=0.05,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        """A worker; a second one, later, goes on where the first one ended."""
        async with self.build() as worker:
            yield worker

    async def ask(
        self, worker: Worker, text: str, script: Sequence[Any], response_id: str = "r"
    ) -> None:
        """`script`: what the engine says to it, step by step."""
        said = f"{text}\nSIMULATE: {json.dumps(script)}"
        items = [{"role": "user", "content": said}]
        accepted = ResponseAccepted(response_id, self.clock.now(), items)
        start = ConversationStarted("desk@1", self.clock.now())
        await worker.accept("c", accepted, start=start)

    async def log(self, conversation: str = "c") -> list[AnyEvent]:
        return [each.event for each in await self.journal.read(conversation)]

    async def found(self, kind: type[E], conversation: str = "c") -> list[E]:
        return [event for event in await self.log(conversation) if isinstance(event, kind)]

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """`condition` may give an awaitable."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = condition()
                if await found if asyncio.iscoroutine(found) else found:
                    return
                await asyncio.sleep(0.005)

    async def others(self, tokens: int, name: str = "other") -> None:
        """Somebody else's turn, with so long a prompt."""
        text = "".join(f"{name} {i:5d}" for i in range(tokens * 4 // (len(name) + 6)))
        body = {"model": "big", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
        turn = TurnRequest(CHAT, json.dumps(body).encode(), name, session=name)
        async with self.router.open(turn) as answer:
            assert answer.status == 200
            async for _ in answer.chunks():
                pass


@asynccontextmanager
async def world(
    configs: Mapping[str, AgentConfig],
    tools: Mapping[str, Sequence[Tool]],
    engines: int = 1,
    prefill_tokens_per_s: float = 1e6,
) -> AsyncIterator[World]:
    """Agents by name; the one that is asked is `desk`."""
    cache = CACHE.model_copy(update={"prefill_tokens_per_s": prefill_tokens_per_s})
    async with AsyncExitStack() as opened:
        made = [
            await opened.enter_async_context(simulated(f"big-{i}", cache, publishes=False))
            for i in range(engines)
        ]
        router = Router(stack(), FakeTable(*(e for e, _ in made)), sink=lambda _: None)
        await router.start()
        opened.push_async_callback(router.stop)
        agents = Agents(
            [
                resolve(name, config, [*tools.get(name, ()), *agent_tools(name, config, configs)])
                for name, config in configs.items()
            ]
        )
        opened.callback(agents.close)
        clock = FakeClock()
        journal = MemoryJournal(clock=clock)
        heard = Heard(RouterModel(router))
        yield World(router, [each for _, each in made], journal, agents, clock, heard)
