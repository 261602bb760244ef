"""The cost benchmark's five ways through a real front door, over simulated engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from rich.console import Console

from benchmarks import cost_live
from benchmarks.cost_ledger import WAYS, Account
from benchmarks.cost_live import Wanted
from benchmarks.cost_prices import Machine
from serving.config.model import ModelConfig, SimulatorConfig
from serving.simulator.server import Simulator

SPEED = SimulatorConfig(prefill_tokens_per_s=1e6, decode_tokens_per_s=1e6, block_tokens=16)


@asynccontextmanager
async def simulated(name: str, model: ModelConfig) -> AsyncIterator[str]:
    rank = model.lora.max_rank if model.takes_adapters else 0
    simulator = Simulator(name, model.context_tokens or 8192, SPEED, max_lora_rank=rank)
    runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_five_ways_have_the_same_turns_and_only_the_naive_one_finds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost_live, "engine", simulated)
    found = cost_live.run(Wanted("cpu", 2, 4, rules=20), Console(quiet=True))
    assert tuple(way.name for way in found.ways) == WAYS
    for way in found.ways:
        assert way.checked == 2 * 4
        assert {(step.task, step.turn) for step in way.steps} == {
            (task, str(turn)) for task in range(2) for turn in range(4)
        }
    naive, cached, _, short, _ = found.ways
    assert naive.per_task("cached") == 0
    assert naive.per_task("fresh") == cached.per_task("fresh") + cached.per_task("cached")
    # Each way begins cold: the first turn finds nothing, though other ways asked the same before.
    assert [way.steps[0].cached for way in found.ways] == [0] * 5
    # ... and the second task finds the head that the first one left.
    assert next(step for step in cached.steps if step.task == 1).cached > 0
    assert short.per_task("tokens") < cached.per_task("tokens")
    machine = Machine("two simulators", 1.0, found.share, found.speed, measured=True)
    assert Account(machine.price_list(), found.ways, machine).bills()[0].usd > 0
    assert {way.checked for way in found.alone.values()} == {8}
