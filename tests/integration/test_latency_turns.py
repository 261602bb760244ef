"""The latency benchmark over a simulated engine: turns are told apart, both arms ask the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from benchmarks.latency import journals_of, pairs
from benchmarks.latency_figures import Case, cases, figures
from benchmarks.latency_load import Load
from benchmarks.latency_show import draw
from benchmarks.latency_stack import MODEL, stack
from serving.config.model import ModelConfig, SimulatorConfig
from serving.simulator.server import Simulator

SPEED = SimulatorConfig(prefill_tokens_per_s=50_000, decode_tokens_per_s=2000)


@asynccontextmanager
async def simulated() -> AsyncIterator[str]:
    """The URL of an engine in this process."""
    runner = web.AppRunner(
        Simulator(MODEL, 32_768, SPEED).app(), handler_cancellation=True, access_log=None
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_every_turn_is_told_apart_and_both_arms_ask_the_same(tmp_path: Path) -> None:
    model = ModelConfig.model_validate({"engine": "simulated"})
    async with simulated() as url, stack(url, model, tmp_path, head=10) as running:
        load = Load(running)
        await load.pairs("cold", 1, 2)
        await load.tools(2)
        await load.pairs("warm", 2, 2)
        await load.pairs("warm", 2, 1, after=3)

    for turn in load.turns:
        assert turn.asked.sent < turn.asked.first_event <= turn.asked.ended
        assert sum(budget.whole_s for budget in turn.budgets) == pytest.approx(
            turn.asked.ended - turn.asked.sent
        )
        for budget in turn.budgets:
            assert sum(budget.parts.values()) == pytest.approx(budget.whole_s)
            assert min(budget.parts.values()) >= 0
            assert budget.parts["rest"] == pytest.approx(0, abs=1e-6)
            assert budget.parts["decode"] > 0

    found = {case: figures(case, turns) for case, turns in cases(load.turns).items()}
    assert {case: each.turns for case, each in found.items()} == {
        Case("bare", "cold", 1): 2,
        Case("stack", "cold", 1): 2,
        Case("bare", "warm", 2): 6,
        Case("stack", "warm", 2): 6,
        Case("stack", "call", 1): 2,
        Case("stack", "answer", 1): 2,
    }
    for case, each in found.items():
        assert (each.cached_share < 0.05) is (case.kind == "cold"), case
    call = found[Case("stack", "call", 1)]
    assert call.parts["tool"].p50 > 0  # less than it took, where it began in mid-stream
    assert found[Case("bare", "warm", 2)].parts["router"].p99 == 0

    for case, beside in pairs(load).items():
        assert (beside.pairs, beside.left_out) == (found[case].turns, 0)
    # A request, its model's intent, its end; with a call, two more.
    least = {"cold, 1": 3, "tools, 1": 5, "warm, 2": 3}
    journals = journals_of(load)
    assert {*journals} == {*least}
    for name, journal in journals.items():
        assert journal.appends >= least[name], name
        assert journal.clock.p50 > 0, name
    draw(found, tmp_path / "latency.png", "simulated")
    assert (tmp_path / "latency.png").stat().st_size > 10_000
