"""The object graph of a front door, built in one visible place.

    EngineTable ──► Router ──► AutoTurns ──► RouterModel ──► Worker ──► Responses API
        │                         │                            │            │
        │                         └── OpenAI routes            └─ Journal ──┘
        │                             Access ── who is asking, before all of them
        └─► Keeper ──► Adapters, their routes                 └── McpServers ──► McpTools

`create_app` builds and connects; what it builds starts and ends with the application's lifespan:
the journal outlives the worker, the worker outlives no stream, and the router goes last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from orchestrator.agents import Agents
from orchestrator.api import sealing
from orchestrator.api.agent_chat import AgentTurns
from orchestrator.api.intake import Intake
from orchestrator.api.routes import build_routes
from orchestrator.clock import SystemClock
from orchestrator.context_sizes import ContextSizes
from orchestrator.journal.stores import open_journal
from orchestrator.mcp.servers import McpServers
from orchestrator.mcp.tools import McpTools
from orchestrator.model import RouterModel
from orchestrator.prices import PriceList
from orchestrator.worker.guard_metrics import GuardMetrics
from orchestrator.worker.journal_metrics import JournalMetrics
from orchestrator.worker.run_metrics import RunMetrics
from orchestrator.worker.worker import Worker
from router import counting
from router.adapters.adapter_set import KnownAdapters
from router.adapters.keeper import Keeper
from router.adapters.routes import Adapters, adapter_routes
from router.dispatch import Router
from router.http import api
from router.http.asgi import Gate
from router.peers import http as peer_http
from router.tenancy.access import Access
from router.tiers.auto import AutoTurns
from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.owned_task import OwnedTask
from serving.tables import discovery
from serving.tables.discovery import other_fronts


def create_app(config: StackConfig) -> Gate:
    """The ASGI application of one front door.

    Raises ConfigError when an agent's tools, the variables of an MCP server, the list of adapters
    or the keys cannot be loaded, or peers are named without a secret, JournalBusy when another
    front door holds the journal.
    """
    clock = SystemClock()
    table = discovery.table_for(config)
    known = KnownAdapters(config)
    keeper = Keeper(config, table, known, config.folder)
    agents = Agents.from_config(config, lambda name: router.catalogue.parent(name))  # noqa: PLW0108  it is made below
    access = Access(config)
    router = Router(config, table, also_models=agents.names, known=known)
    discovery.report_queues(table, router.scheduler.queues)
    auto = AutoTurns(router, folder=config.folder / "tiers")
    mcp = McpServers(config.mcp, config.folder)
    sizes = ContextSizes(config, router.catalogue.parent)
    journal = open_journal(config, JournalMetrics(router.metrics.registry))
    worker = Worker(
        journal=journal,
        agents=agents,
        models=RouterModel(auto, access.named),
        outcomes=auto.ledger.observed,
        offers=McpTools(mcp, clock),
        prices=PriceList(config, router.catalogue.parent),
        clock=clock,
        lease_s=config.journal.lease_s,
        delta_batch_s=config.journal.delta_batch_s,
        unstored_s=config.journal.unstored_s,
        retention_s=config.journal.retention_s,
        guard=GuardMetrics(router.metrics.registry),
        runs=RunMetrics(router.metrics.registry),
        context_tokens=sizes.of,
        budgets=router.limits.budgets,
    )

    peers = peer_http.join(
        router.outside,
        lambda: {*config.front.peers, *discovery.fronts(table)},
        needed=bool(config.front.peers),
    )
    alone = OwnedTask()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await journal.start()
        await table.start()
        await router.start()
        if not peers:
            alone.start(lambda: peer_http.warn_when_not_alone(lambda: other_fronts(table)), "alone")
        await auto.start()
        access.start()
        await keeper.start()
        mcp.start()
        try:
            async with worker:
                yield
        finally:
            await mcp.stop()
            await keeper.stop()
            await access.stop()
            agents.close()
            await journal.close()
            await alone.stop()
            await auto.stop()
            await router.stop()
            await table.stop()

    def models_of(name: str) -> Iterable[ModelConfig]:
        if name == "auto":
            return config.models.values()
        model = config.models.get(router.catalogue.parent(name) or name)
        return () if model is None else (model,)

    intake = Intake(
        journal,
        worker,
        agents,
        clock,
        router.catalogue.require_ready,
        limits=router.limits,
        models_of=models_of,
    )
    responses = build_routes(
        journal,
        worker,
        intake,
        config,
        clock,
        key_of=partial(access.key, sealing.PURPOSE),
        context_tokens=sizes.of,
        count=partial(counting.count, router),
    )
    chat = AgentTurns(auto, journal, worker, intake, agents)
    adapters = adapter_routes(Adapters(config, table, keeper))
    return api.build(
        router,
        auto=auto,
        turns=chat,
        extra_routes=[responses, adapters],
        extra_asgi=peers,
        lifespan=lifespan,
        access=access,
    )
