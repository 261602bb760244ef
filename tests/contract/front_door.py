"""A front door on a real port, with a scripted model in place of engines.

uvicorn ── routes ── intake ── worker ── SQLite journal
                                  └── ScriptedModel: the test decides what is said, and when
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
from openai import AsyncOpenAI
from starlette.types import ASGIApp

from orchestrator.agents import Agents, resolve
from orchestrator.api.agent_chat import AgentTurns
from orchestrator.api.intake import Intake
from orchestrator.api.routes import build_routes
from orchestrator.clock import SystemClock
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.model import (
    ArgumentsDelta,
    CallStart,
    Done,
    ModelEvent,
    ModelTurn,
    Routed,
    TextDelta,
)
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.offers import Offers
from orchestrator.worker.worker import Worker
from router import counting
from router.dispatch import Router
from router.http import api
from router.http import server as serve
from router.turn import Decision
from serving.config.agent import AgentConfig
from serving.config.front import FrontConfig
from serving.config.stack import StackConfig
from serving.tables.static_table import StaticTable

Step = ModelEvent | asyncio.Event | Exception


def says(*pieces: str, finish: str = "stop") -> list[Step]:
    """A turn that answers with text."""
    return [*map(TextDelta, pieces), Done(finish, 100, 80, len(pieces))]


def calls(*wanted: tuple[str, str]) -> list[Step]:
    """A turn that makes these calls: (name, arguments)."""
    steps: list[Step] = []
    for name, arguments in wanted:
        middle = len(arguments) // 2
        pieces = (arguments[:middle], arguments[middle:])
        steps += [CallStart(name), *(ArgumentsDelta(piece) for piece in pieces)]
    return [*steps, Done("tool_calls", 100, 80, 5)]


def replies(text: str) -> list[Step]:
    """A turn that answers through the reply tool."""
    return calls(("reply", json.dumps({"text": text})))


@dataclass
class ScriptedModel:
    """Plays one script a turn; an Event in a script holds it until the test sets it."""

    scripts: deque[list[Step]] = field(default_factory=deque)
    turns: list[ModelTurn] = field(default_factory=list)

    def will(self, *scripts: Sequence[Step]) -> None:
        self.scripts.extend(map(list, scripts))

    async def turn(self, turn: ModelTurn) -> AsyncGenerator[ModelEvent, None]:
        self.turns.append(turn)
        yield Routed(Decision("big", "big-0", "http://engine", "home", 64))
        for step in self.scripts.popleft() if self.scripts else says("ok"):
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
            else:
                yield step


@tool(kind="pure")
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(kind="idempotent", requires_approval=True)
def refund(amount: int) -> str:
    """Pay money back."""
    return f"refunded {amount}"


@tool(kind="pure")
async def count_down(start: int) -> AsyncIterator[int]:
    """Count down to zero."""
    for number in range(start, -1, -1):
        yield number


@dataclass
class Front:
    """A running front door, and what a test may look at."""

    url: str
    client: AsyncOpenAI
    http: aiohttp.ClientSession
    model: ScriptedModel
    journal: SqliteJournal


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The application under uvicorn on a free port; gives its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        server = serve.server(app, FrontConfig(drain_s=1.0))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def clients(url: str) -> AsyncIterator[tuple[AsyncOpenAI, aiohttp.ClientSession]]:
    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30) as client,
        aiohttp.ClientSession(url) as http,
    ):
        yield client, http


DESK = AgentConfig(instructions="You are a desk.", model="big", reply_tool=False)

CLERK = AgentConfig(instructions="You are a clerk.", model="big", reply_tool=True)
"""Answers through the reply tool."""


def stack(url: str = "http://127.0.0.1:9") -> StackConfig:
    return StackConfig.model_validate(
        {"models": {"big": {"engine": "external", "urls": [url]}}, "front": {"drain_s": 0.1}}
    )


@asynccontextmanager
async def front_door(
    journal_path: Path, desks: Sequence[AgentConfig] = (DESK,), offers: Offers | None = None
) -> AsyncIterator[Front]:
    """A running front door over that journal; a second one finds what the first one left.

    `desks` are the versions of the agent `desk`, the current one first.
    """
    config, clock, model = stack(), SystemClock(), ScriptedModel()
    tools = [from_function(each) for each in (add, refund, count_down)]
    named = [*(resolve("desk", each, tools) for each in desks), resolve("clerk", CLERK, tools)]
    agents = Agents(named, ["auto", "big"])
    journal = SqliteJournal(journal_path)
    worker = Worker(journal=journal, agents=agents, models=model, offers=offers, delta_batch_s=0.0)
    router = Router(config, StaticTable(config), also_models=agents.names, sink=lambda _: None)
    intake = Intake(journal, worker, agents, clock, models_of=lambda _: config.models.values())
    routes = build_routes(
        journal,
        worker,
        intake,
        config,
        clock,
        count=partial(counting.count, router),
    )
    async with AsyncExitStack() as life:
        life.push_async_callback(journal.close)
        await life.enter_async_context(worker)
        turns = AgentTurns(router, journal, worker, intake, agents)
        app = api.build(router, turns=turns, extra_routes=[routes])
        url = await life.enter_async_context(served(app))
        client, http = await life.enter_async_context(clients(url))
        yield Front(url, client, http, model, journal)
