"""For the contract tests: journals, and front doors with a scripted model or over a simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from orchestrator.clock import FakeClock
from orchestrator.journal.base import Journal
from serving.config.model import SimulatorConfig
from serving.config.stack import StackConfig
from serving.simulator.server import Simulator
from tests.contract.front_door import Front, clients, front_door, served, stack
from tests.stores import KINDS, opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=KINDS)
async def journal(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Journal]:
    """Each kind of store in turn."""
    async with opened(request.param, request, tmp_path, clock) as journal:
        yield journal


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """Routes, worker and journal, with a scripted model."""
    async with front_door(tmp_path / "journal.db") as running:
        yield running


@pytest.fixture
async def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncOpenAI]:
    """A client of the whole application over one simulated engine."""
    async with simulated_front(tmp_path, monkeypatch) as url, clients(url) as (client, _):
        yield client


@asynccontextmanager
async def simulated_front(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Callable[[str], StackConfig] = stack,
) -> AsyncIterator[str]:
    """The whole application over one simulated engine, whose URL `config` gets; scripts go into
    the messages."""
    from orchestrator.app import create_app

    monkeypatch.setenv("WARMLOOP_HOME", str(home))
    simulator = Simulator("big", 8192, SimulatorConfig(decode_tokens_per_s=2000.0))
    runner = web.AppRunner(simulator.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    app = create_app(config(f"http://{host}:{port}"))
    async with AsyncExitStack() as life:
        life.push_async_callback(runner.cleanup)
        url = await life.enter_async_context(served(app))
        _, http = await life.enter_async_context(clients(url))
        await _ready(http)
        yield url


async def _ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(10):
        while True:
            async with http.get("/ready") as answer:
                if answer.status == 200:
                    return
