"""Real engines and a front door for benchmarks, in one process's care, without Ray.

    async with engine("frontier", model) as url:              a vLLM of this model, ready
        async with front_door({"frontier": (model, url)}) as door:    our whole router before it

Engines are started as a stack starts them (adapter, guardian, readiness); the front door is the
real application under the real server. Both end with their block, whatever happens.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from router.dispatch import Router
from router.http import api, server
from router.logs import Sink
from router.tiers.auto import AutoTurns
from router.tiers.history import History
from serving.config import stack_file
from serving.config.model import DEFAULT_PARSER, ModelConfig
from serving.config.router import TiersConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for
from serving.engines.base import EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess
from serving.models import weights
from serving.tables import discovery

PATIENCE = aiohttp.ClientTimeout(total=900)


@dataclass(frozen=True)
class Door:
    """A front door that listens."""

    url: str
    router: Router


def model_of(stack: Path, name: str) -> ModelConfig:
    """One model of a stack file."""
    return stack_file.load(stack).models[name]


def external(model: ModelConfig, url: str) -> ModelConfig:
    """The section of a model whose engine runs already."""
    return ModelConfig(
        engine="external",
        tier=model.tier,
        urls=(url,),
        auto_text=model.auto_text,
        max_parallel_calls=model.max_parallel_calls,
        tool_parser=model.tool_parser or DEFAULT_PARSER,
        prices=model.prices,
    )


@asynccontextmanager
async def engine(name: str, model: ModelConfig) -> AsyncIterator[str]:
    """The URL of an engine that serves `model` as `name`; weights are fetched first."""
    folder = Path()
    if model.engine != "simulated":
        fetched = weights.PlainProgress()
        folder = await asyncio.to_thread(weights.fetch, name, model, progress=fetched)
    with TemporaryDirectory(prefix="warmloop-bench-") as logs:
        async with aiohttp.ClientSession() as http:
            process = EngineProcess(adapter_for(model.engine), http)
            process.start(EngineSpec(name, model, folder, free_port()), Path(logs) / f"{name}.log")
            await process.wait_ready(model.ready_timeout_s)
            try:
                yield process.spec.url
            finally:
                if not process.alive():
                    print(process.failure(), file=sys.stderr)  # its log goes with the block
                await process.stop(0)


@asynccontextmanager
async def front_door(
    engines: Mapping[str, tuple[ModelConfig, str]],
    tiers: TiersConfig | None = None,
    history: Callable[[History], None] = lambda _: None,
    sink: Sink = lambda _: None,
) -> AsyncIterator[Door]:
    """A front door over engines that run: name → (its model's section, its URL).

    `tiers` and `history` are how `model: auto` decides, and what it knows at the start; `sink`
    gets the router's log, a line for each try.
    """
    port = free_port()
    sections = {name: external(model, url) for name, (model, url) in engines.items()}
    knobs = {"tiers": tiers or TiersConfig()}
    stack = StackConfig.model_validate(
        {"models": sections, "front": {"port": port}, "router": knobs}
    )
    table = discovery.StaticTable(stack)
    await table.poll()
    router = Router(stack, table, sink=sink)
    await router.start()
    # Client and server share a loop: where it gets no CPU for seconds, idle connections must stay.
    auto = AutoTurns(router)
    history(auto.ledger.history)
    serving = server.server(api.build(router, auto=auto), stack.front, timeout_keep_alive=900)
    task = asyncio.create_task(serving.serve())
    try:
        while not serving.started:  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.01)
        yield Door(f"http://127.0.0.1:{port}", router)
    finally:
        serving.should_exit = True
        await task
        await router.stop()
