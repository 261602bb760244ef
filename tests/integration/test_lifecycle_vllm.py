"""A real vLLM in a real stack: its engine core is killed, and frozen, under 32 streams."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import pytest

from orchestrator import supervisor
from serving.config.home import home
from serving.config.model import ModelConfig
from tests.integration.conftest import SMOLLM2_135M
from tests.integration.load import Outcome, ask, client, steady
from tests.integration.stacks import Stack, eventually, stack

pytestmark = [pytest.mark.ray, pytest.mark.engine]

BACK_S = 300.0


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, small_weights: object, small_model: ModelConfig
) -> Iterator[Stack]:
    models = {"small": {**SMOLLM2_135M, "hung_after_s": 30, "restart": {"pause_s": 0.2}}}
    with stack(tmp_path_factory.mktemp("stack"), models=models) as made:
        # The weights are where the other tests have them; all else is this stack's own.
        (made.home / "weights").symlink_to(home() / "weights")
        made.up()
        yield made


def engine(up: Stack, state: str = "ready") -> dict[str, Any] | None:
    health = supervisor.get_json(f"{up.url()}/health") or {"engines": []}
    return next((e for e in health["engines"] if e["state"] == state), None)


def core(up: Stack) -> psutil.Process:
    """vLLM's own child: it computes, while the server that it belongs to speaks HTTP."""

    def found() -> psutil.Process | None:
        for process in up.processes():
            try:
                if "EngineCore" in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        return None

    core: psutil.Process = eventually(found, "the engine core runs")
    return core


async def streams(http: aiohttp.ClientSession, up: Stack) -> list[asyncio.Task[Outcome]]:
    """32 streams under way, most of which wait for the few that run."""

    async def one(number: int) -> Outcome:
        return await ask(
            http, up.url(), "small", stream=True, words=20, session=f"v{number}", max_tokens=300
        )

    turns = [asyncio.create_task(one(number)) for number in range(32)]
    await asyncio.to_thread(
        eventually, lambda: (engine(up) or {"waiting": 0})["waiting"] > 20, "they run and wait"
    )
    return turns


async def back(up: Stack, old: str) -> dict[str, Any]:
    def found() -> Any:
        now = engine(up)
        return now if now and now["replica"] != old else None

    fresh: dict[str, Any] = await asyncio.to_thread(eventually, found, "another engine", BACK_S)
    return fresh


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.full)]
)
async def test_an_engine_core_that_is_killed_or_frozen_ends_every_stream_and_comes_back(
    up: Stack, number: signal.Signals
) -> None:
    old = engine(up)
    assert old is not None
    async with client() as http:
        turns = await streams(http, up)
        core(up).send_signal(number)
        seen = await asyncio.gather(*turns)
    failed = [turn for turn in seen if not turn.well]
    print(f"{len(seen) - len(failed)} streams ended well, {len(failed)} in an error")
    assert failed
    assert all(turn.said_so and not turn.broken for turn in failed), failed
    fresh = await back(up, old["replica"])
    assert fresh["restarts"] == old["restarts"] + 1
    dead = engine(up, "dead")
    if number == signal.SIGSTOP and dead is not None:
        assert "hung" in dead["reason"]
    async with client() as http:
        turn = await ask(
            http, up.url(), "small", stream=False, words=1, session="after", max_tokens=4
        )
    assert turn.well


@pytest.mark.full
async def test_a_core_that_froze_while_it_was_idle_is_found_when_requests_come(up: Stack) -> None:
    """Its metrics say that nothing runs and nothing waits, for ever."""
    old = engine(up)
    assert old is not None
    core(up).send_signal(signal.SIGSTOP)
    async with client() as http:
        turn = await ask(
            http, up.url(), "small", stream=False, words=1, session="idle", max_tokens=4
        )
    assert turn.said_so, turn
    await back(up, old["replica"])


@pytest.mark.full
async def test_a_rolling_restart_of_a_real_engine_fails_no_turn(up: Stack) -> None:
    old = await asyncio.to_thread(eventually, lambda: engine(up), "it serves", BACK_S)
    async with steady(up.url(), "small", sessions=3, words=3, max_tokens=24) as load:
        await load.more(3)
        done = await asyncio.to_thread(up.run, "restart", "small", "-c", str(up.config))
        await load.more(3)
    print(f"{len(load.turns)} turns, {len(load.failed)} failed\n{done.stderr}")
    assert done.returncode == 0, done.stderr
    assert load.failed == []
    fresh = engine(up)
    assert fresh is not None
    assert load.replicas == {old["replica"], fresh["replica"]}
