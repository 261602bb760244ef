"""An engine's life under a guardian, with the simulated engine: a real process, ready at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from serving.config.model import ModelConfig
from serving.engines import adapter_for, process
from serving.engines.base import Command, EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess
from serving.engines.simulated import SimulatedAdapter
from serving.errors import EngineError


class Says(SimulatedAdapter):
    """An engine that runs `code` instead."""

    def __init__(self, code: str) -> None:
        self._code = code

    def command(self, spec: EngineSpec) -> Command:
        return Command((sys.executable, "-c", self._code))


def spec(port: int | None = None, **simulator: Any) -> EngineSpec:
    config = ModelConfig.model_validate({"engine": "simulated", "simulator": simulator})
    return EngineSpec("small", config, Path("/none"), port or free_port())


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest_asyncio.fixture
async def engine(http: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess(adapter_for("simulated"), http)
    engine.start(spec(decode_tokens_per_s=20), tmp_path / "log")
    await engine.wait_ready(30)
    yield engine
    await engine.stop(drain_s=0)


async def test_it_becomes_ready_says_its_limits_and_ends(
    engine: EngineProcess, http: aiohttp.ClientSession
) -> None:
    facts = await adapter_for("simulated").facts(http, engine.spec.url)
    assert facts.context_tokens == engine.spec.config.context_tokens
    assert facts.capacity_tokens == engine.spec.config.simulator.capacity_tokens
    assert engine.alive()
    await engine.stop(drain_s=5)
    assert not engine.alive()
    await engine.stop(drain_s=5)


@pytest.mark.parametrize(("drain_s", "finished"), [(20.0, True), (0.0, False)])
async def test_stopping_waits_for_running_requests_but_not_for_ever(
    engine: EngineProcess, http: aiohttp.ClientSession, drain_s: float, finished: bool
) -> None:
    body = {"model": "small", "prompt": "a b c", "max_tokens": 20, "ignore_eos": True}

    async def ask() -> bool:
        try:
            async with http.post(f"{engine.spec.url}/v1/completions", json=body) as answer:
                await answer.read()
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async with asyncio.TaskGroup() as group:
        request = group.create_task(ask())
        adapter = adapter_for("simulated")
        while not (await adapter.load(http, engine.spec.url)).running:  # noqa: ASYNC110 it is remote
            await asyncio.sleep(0)
        await engine.stop(drain_s)
    assert request.result() is finished


async def test_an_engine_that_dies_first_gives_its_last_words(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    engine = EngineProcess(Says("print('one', flush=True); raise SystemExit('out of luck')"), http)
    engine.start(spec(), tmp_path / "log")
    with pytest.raises(EngineError, match=r"(?s)small ended with status 1 .*one\n.*out of luck"):
        await engine.wait_ready(30)


async def test_the_words_of_an_earlier_engine_are_not_its_own(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("old words\n")
    engine = EngineProcess(Says("raise SystemExit('mine')"), http)
    engine.start(spec(), tmp_path / "log")
    with pytest.raises(EngineError, match="mine") as caught:
        await engine.wait_ready(30)
    assert "old words" not in str(caught.value)


async def test_an_engine_that_is_never_ready_is_ended_and_said_so(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    engine = EngineProcess(Says("import time; print('loading', flush=True); time.sleep(99)"), http)
    engine.start(spec(), tmp_path / "log")
    with pytest.raises(EngineError, match="was not ready after ready_timeout_s: 1"):
        await engine.wait_ready(1)
    assert not engine.alive()


async def test_a_port_that_was_taken_meanwhile_is_changed_for_another(
    http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stranger on the port answers like an engine: it must not be mistaken for ours."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "strange"}]})

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.get("/health", health)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", taken := free_port()).start()
    engine = EngineProcess(adapter_for("simulated"), http)
    try:
        engine.start(spec(port=taken), tmp_path / "log")
        await engine.wait_ready(30)
        assert engine.spec.port != taken
    finally:
        await engine.stop(drain_s=0)
        await runner.cleanup()


async def test_it_does_not_try_ports_for_ever(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    code = "raise SystemExit('[Errno 98] Address already in use')"
    engine = EngineProcess(Says(code), http)
    engine.start(first := spec(), tmp_path / "log")
    with pytest.raises(EngineError, match="Address already in use"):
        await engine.wait_ready(30)
    assert engine.spec.port != first.port
    assert process.PORT_ATTEMPTS == 3


async def test_an_engine_of_a_cluster_listens_at_its_nodes_address_and_nowhere_else(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    config = ModelConfig.model_validate({"engine": "simulated"})
    node = "127.0.0.2"  # another machine's address, as far as this one's loopback is concerned
    engine = EngineProcess(adapter_for("simulated"), http)
    engine.start(EngineSpec("small", config, Path("/none"), free_port(node), node), tmp_path / "l")
    await engine.wait_ready(30)
    try:
        assert engine.spec.url == f"http://{node}:{engine.spec.port}"
        async with http.get(f"{engine.spec.url}/v1/models") as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(f"http://127.0.0.1:{engine.spec.port}/v1/models")
    finally:
        await engine.stop(drain_s=0)


def test_an_ipv6_address_stands_in_brackets() -> None:
    engine = EngineSpec("small", ModelConfig(engine="simulated"), Path("/none"), 8000, "fd00::7")
    assert engine.url == "http://[fd00::7]:8000"
