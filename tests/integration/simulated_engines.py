"""Simulated engines in a test's own process: real HTTP, real KV events, as many as are wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from serving.config.model import SimulatorConfig
from serving.engines import kv_endpoints
from serving.simulator.kv import published
from serving.simulator.server import Simulator
from serving.tables.base import Engine
from tests.unit.fakes import engine

FAST = SimulatorConfig(
    prefill_tokens_per_s=1e6, decode_tokens_per_s=1e6, capacity_tokens=4096, block_tokens=16
)


@asynccontextmanager
async def simulated(
    replica: str, config: SimulatorConfig = FAST, *, publishes: bool = True
) -> AsyncIterator[tuple[Engine, Simulator]]:
    """One that serves `big`: as the table would list it, and the simulator itself."""
    simulator = Simulator("big", config.capacity_tokens, config)
    endpoints = kv_endpoints.on("127.0.0.1")
    runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
    [_, told] = kv_endpoints.vllm_flags(endpoints)
    try:
        async with published(simulator.engine, told if publishes else None):
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            listed = engine(
                replica,
                url=url,
                kind="simulated",
                capacity_tokens=config.capacity_tokens,
                kv_events=endpoints.events if publishes else "",
                kv_replay=endpoints.replay if publishes else "",
            )
            yield listed, simulator
    finally:
        await runner.cleanup()
        kv_endpoints.remove(endpoints)
