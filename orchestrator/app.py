"""The object graph of a front door, built in one visible place.

    EngineTable ──► Router ──► RouterModel ──► Worker ──► Responses API
                      │                          │            │
                      └── OpenAI routes          └─ Journal ──┘

`create_app` builds and connects; what it builds starts and ends with the application's lifespan:
the journal outlives the worker, the worker outlives no stream, and the router goes last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from orchestrator.agent_chat import AgentTurns
from orchestrator.agents import Agents
from orchestrator.clock import SystemClock
from orchestrator.intake import Intake
from orchestrator.journal_sqlite import SqliteJournal
from orchestrator.model import RouterModel
from orchestrator.responses import build_routes
from orchestrator.worker import Worker
from router import api
from router.dispatch import Router
from serving import discovery
from serving.config import StackConfig


def create_app(config: StackConfig) -> ASGIApp:
    """The ASGI application of one front door.

    Raises ConfigError when an agent's tools cannot be loaded, JournalBusy when another front door
    holds the journal.
    """
    clock = SystemClock()
    agents = Agents.from_config(config)
    table = discovery.table_for(config)
    router = Router(config, table, also_models=agents.names)
    journal = SqliteJournal(config.journal_path)
    worker = Worker(
        journal=journal,
        agents=agents,
        models=RouterModel(router),
        prices={name: model.prices for name, model in config.models.items()},
        clock=clock,
        lease_s=config.journal.lease_s,
        delta_batch_s=config.journal.delta_batch_s,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await table.start()
        await router.start()
        try:
            async with worker:
                yield
        finally:
            agents.close()
            await journal.close()
            await router.stop()
            await table.stop()

    intake = Intake(journal, worker, agents, clock, router.require_ready)
    responses = build_routes(journal, worker, intake, config, clock)
    chat = AgentTurns(router, journal, worker, intake, agents)
    return api.build(router, turns=chat, extra_routes=[responses], lifespan=lifespan)
