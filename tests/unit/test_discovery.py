"""Engines behind static URLs, the Ray feed's lines, and both together; no Ray is imported."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from serving.cluster import directory, front_queues
from serving.cluster.directory import Snapshot, encode
from serving.cluster.front_queues import Queue
from serving.cluster.run_file import RunFile, import_env, make_token, read_run_file, write_run_file
from serving.config.model import SimulatorConfig
from serving.config.stack import StackConfig
from serving.errors import ConfigError
from serving.simulator.server import Simulator
from serving.tables.base import Engine, EngineTable
from serving.tables.discovery import (
    JoinedTable,
    RayTable,
    StaticTable,
    fronts,
    report_queues,
    table_for,
)


class Served:
    """An aiohttp application on a free port that can be stopped and started again."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self.port = 0

    async def __aenter__(self) -> Served:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def stack(*urls: str, **model: Any) -> StackConfig:
    external = {"engine": "external", "urls": list(urls), **model}
    return StackConfig.model_validate({"models": {"small": external}})


@pytest.fixture
async def engine() -> AsyncIterator[Served]:
    async with Served(Simulator("small", 4096, SimulatorConfig()).app()) as served:
        yield served


async def only(table: StaticTable) -> Engine:
    await table.poll()
    (found,) = table.snapshot()
    return found


def answering(**routes: Any) -> web.Application:
    """An application whose GET routes answer with JSON; slashes in names as `__`."""
    app = web.Application()
    for name, body in routes.items():

        async def handler(_: web.Request, body: Any = body) -> web.Response:
            return web.json_response(body)

        app.router.add_get("/" + name.replace("__", "/"), handler)
    return app


async def test_an_engine_is_ready_with_its_limits_and_its_load(engine: Served) -> None:
    found = await only(StaticTable(stack(engine.url + "/v1/")))
    assert found.state == "ready"
    assert found.speaks == "vllm"
    assert found.reason == ""
    assert (found.replica, found.url) == ("small-0", engine.url)
    assert (found.context_tokens, found.capacity_tokens) == (4096, 300_000)


async def test_before_the_first_answer_nothing_is_claimed() -> None:
    (found,) = StaticTable(stack("http://127.0.0.1:1")).snapshot()
    assert found.state == "starting"


async def test_an_engine_that_refuses_is_dead_at_once_and_back_when_it_answers(
    engine: Served,
) -> None:
    table = StaticTable(stack(engine.url))
    assert (await only(table)).state == "ready"
    await engine.__aexit__()
    gone = await only(table)
    assert gone.state == "dead"
    assert "Cannot connect" in gone.reason
    again = Served(Simulator("small", 4096, SimulatorConfig()).app())
    again.port = engine.port
    async with again:
        assert (await only(table)).state == "ready"


async def test_a_busy_engine_gets_three_silences_before_it_counts_as_dead() -> None:
    answers = {"busy": False}

    async def models(_: web.Request) -> web.Response:
        return web.Response(status=500) if answers["busy"] else web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    async with Served(app) as served:
        table = StaticTable(stack(served.url))
        assert (await only(table)).state == "ready"
        answers["busy"] = True
        assert [(await only(table)).state for _ in range(3)] == ["ready", "ready", "dead"]
        assert "/v1/models answered 500" in table.snapshot()[0].reason


async def test_an_engine_that_does_not_answer_in_time_is_silent() -> None:
    async def models(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_get("/v1/models", models)
    async with Served(app) as served:
        table = StaticTable(stack(served.url), timeout_s=0.05)
        assert [(await only(table)).state for _ in range(3)] == ["starting", "starting", "dead"]


async def test_an_engine_without_metrics_or_model_list_still_works() -> None:
    async with Served(answering(v1__models={"data": [{"id": "small"}]})) as bare:
        found = await only(StaticTable(stack(bare.url)))
        assert found.state == "ready"
        assert (found.capacity_tokens, found.load.running) == (0, 0)
    async with Served(answering(health={})) as barer:
        assert (await only(StaticTable(stack(barer.url)))).state == "ready"


async def test_an_sglang_server_is_known_by_its_metrics_and_asked_in_its_own_way() -> None:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            text="# TYPE sglang:cached_tokens_total counter\n"
            'sglang:cached_tokens_total{model_name="small"} 12.0\n'
            'sglang:prompt_tokens_total{model_name="small"} 40.0\n'
        )

    rank = {"num_running_reqs": 2, "num_waiting_reqs": 3, "num_used_tokens": 4500}
    app = answering(
        v1__models={"data": [{"id": "small", "max_model_len": 512}]},
        v1__loads={"loads": [{**rank, "max_total_num_tokens": 9000}]},
    )
    app.router.add_get("/metrics", metrics)
    async with Served(app) as served:
        table = StaticTable(stack(served.url))
        for found in (await only(table), await only(table)):  # first seen, and then followed
            assert found.speaks == "sglang"
            assert (found.capacity_tokens, found.context_tokens) == (9000, 512)
            assert (found.load.running, found.load.waiting, found.load.kv_usage) == (2, 3, 0.5)
            assert (found.load.queried_tokens, found.load.hit_tokens) == (40, 12)


async def test_a_metrics_page_of_another_kind_does_no_harm() -> None:
    async with Served(
        answering(v1__models={"data": [{"id": "small"}]}, metrics="vllm:broken{ nonsense")
    ) as served:
        assert (await only(StaticTable(stack(served.url)))).state == "ready"


async def test_an_engine_that_serves_something_else_is_refused_by_name() -> None:
    async with Served(answering(v1__models={"data": [{"id": "qwen"}]})) as served:
        found = await only(StaticTable(stack(served.url)))
        assert found.state == "dead"
        assert "does not serve 'small' but qwen; set models.small.served_name" in found.reason
        assert (await only(StaticTable(stack(served.url, served_name="qwen")))).state == "ready"


async def test_something_that_is_no_engine_at_all_is_dead_with_the_reason() -> None:
    async with Served(answering(v1__models=[1, 2])) as served:
        found = await only(StaticTable(stack(served.url)))
        assert found.state == "dead"
        assert "did not answer with a list of models" in found.reason


async def test_adapters_are_the_models_whose_parent_is_the_base() -> None:
    cards = [{"id": "small"}, {"id": "legal", "parent": "small"}, {"id": "x", "parent": "y"}]
    async with Served(answering(v1__models={"data": cards})) as served:
        assert (await only(StaticTable(stack(served.url)))).adapters == ("legal",)


async def test_started_it_follows_by_itself_and_stops_twice(engine: Served) -> None:
    table = StaticTable(stack(engine.url), poll_s=0.01)
    await table.start()
    await table.start()
    async with asyncio.timeout(5):
        while table.snapshot()[0].state != "ready":  # noqa: ASYNC110 the table has no event for it
            await asyncio.sleep(0.01)
    await table.stop()
    await table.stop()


LINE = encode(Snapshot(1, (Engine("own-1", "own", "http://127.0.0.1:9", "own"),)))


def test_the_feeds_last_line_is_believed_for_a_while_and_then_counts_as_dead(
    tmp_path: Path,
) -> None:
    now = [0.0]
    table = RayTable(tmp_path, clock=lambda: now[0], grace_s=30)
    assert table.snapshot() == ()
    table.hear(LINE)
    now[0] = 29.0
    assert table.snapshot()[0].state == "ready"
    now[0] = 31.0
    assert table.snapshot()[0].state == "dead"
    assert table.snapshot()[0].reason == "the Ray cluster has not answered for 31 s"
    table.hear(LINE)
    assert table.snapshot()[0].state == "ready"


async def test_without_a_feed_engines_that_answer_stay_and_one_that_refuses_is_dead(
    engine: Served, tmp_path: Path
) -> None:
    now = [0.0]
    table = RayTable(tmp_path, clock=lambda: now[0], grace_s=30)
    gone = Served(answering(v1__models={"data": []}))
    async with gone:
        entries = [
            Engine("small-1", "small", engine.url, "small"),
            Engine("small-2", "small", gone.url, "small"),
        ]
        told = encode(Snapshot(1, tuple(entries)))
        table.hear(told)
        now[0] = 29.0
        await table.ask()
        now[0] = 58.0
        assert [e.state for e in table.snapshot()] == ["ready", "ready"]
    await table.ask()
    assert [e.state for e in table.snapshot()] == ["ready", "dead"]
    assert "refuses connections" in table.snapshot()[1].reason
    now[0] = 90.0
    assert [e.state for e in table.snapshot()] == ["dead", "dead"]
    table.hear(told)
    assert [e.state for e in table.snapshot()] == ["ready", "ready"]


async def test_an_engine_that_is_only_silent_is_believed_for_the_grace(tmp_path: Path) -> None:
    now = [0.0]
    table = RayTable(tmp_path, clock=lambda: now[0], grace_s=30)

    async def busy(_: web.Request) -> web.Response:
        return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/v1/models", busy)
    async with Served(app) as served:
        table.hear(encode(Snapshot(1, (Engine("small-1", "small", served.url, "small"),))))
        now[0] = 29.0
        await table.ask()
        assert table.snapshot()[0].state == "ready"
        now[0] = 31.0
        assert table.snapshot()[0].state == "dead"


async def test_without_a_cluster_the_table_waits_and_stops_cleanly(tmp_path: Path) -> None:
    table = RayTable(tmp_path, retry_s=0.01)
    await table.start()
    await asyncio.sleep(0.05)
    assert table.snapshot() == ()
    await table.stop()


async def test_a_stack_may_have_external_and_own_engines(engine: Served, tmp_path: Path) -> None:
    config = StackConfig.model_validate(
        {
            "models": {
                "small": {"engine": "external", "urls": [engine.url]},
                "own": {"engine": "simulated"},
            }
        }
    )
    assert isinstance(table_for(config, tmp_path), JoinedTable)
    ray, static = RayTable(tmp_path), StaticTable(config)
    joined = JoinedTable([static, ray])
    ray.hear(LINE)
    await static.poll()
    assert [e.replica for e in joined.snapshot()] == ["small-0", "own-1"]


def test_a_stack_of_external_engines_never_imports_ray() -> None:
    code = (
        "import sys, serving.tables.discovery as d; from serving.config.stack import StackConfig\n"
        "c = {'models': {'m': {'engine': 'external', 'urls': ['http://127.0.0.1:1']}}}\n"
        "assert type(d.table_for(StackConfig.model_validate(c))) is d.StaticTable\n"
        "sys.exit('ray' in sys.modules)"
    )
    root = str(Path(directory.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_children_find_our_packages_in_the_checkout() -> None:
    first = import_env()["PYTHONPATH"].split(os.pathsep)[0]
    assert (Path(first) / "serving" / "__init__.py").is_file()


def test_the_run_file_is_whole_or_not_there(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert read_run_file(run_dir) is None
    token = make_token(run_dir)
    assert token.stat().st_mode & 0o777 == 0o600
    run = RunFile("127.0.0.1:1", str(token), str(tmp_path), 1)
    write_run_file(run_dir, run)
    assert read_run_file(run_dir) == run
    (run_dir / "cluster.json").write_text("{")
    assert read_run_file(run_dir) is None


async def seen(table: EngineTable) -> None:
    """Wait until there is an engine in the table."""
    async with asyncio.timeout(20):
        while not table.snapshot():  # noqa: ASYNC110 it is another process's doing
            await asyncio.sleep(0.01)


async def test_a_given_address_is_followed_without_a_run_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    python = tmp_path / "python"
    line = encode(Snapshot(1, (Engine("a-1", "a", "http://10.0.0.2:9", "a", state="ready"),)))
    told = tmp_path / "told"
    python.write_text(
        f"#!/bin/sh\necho \"$@\" > {asked}\necho '{line.decode()}'\n"
        f'read said\necho "$said" > {told}\nexec sleep 1000\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("WARMLOOP_RAY_ADDRESS", "10.0.0.5:6379")
    config = StackConfig.model_validate({"models": {"a": {"engine": "simulated"}}})
    table = JoinedTable([table_for(config, tmp_path / "nothing")])
    report_queues(table, lambda: {"a": Queue(3, 3000, 1.5)})
    await table.start()
    await seen(table)
    async with asyncio.timeout(20):
        while not (told.exists() and told.read_bytes()):  # noqa: ASYNC110 another process's doing
            await asyncio.sleep(0.01)
    await table.stop()
    assert table.snapshot()[0].url == "http://10.0.0.2:9"
    assert front_queues.decode(told.read_bytes()) == {"a": Queue(3, 3000, 1.5)}
    assert asked.read_text() == "-m serving.cluster.directory_feed --address 10.0.0.5:6379\n"


@pytest.mark.parametrize("address", ["10.0.0.5", "10.0.0.5:", ":6379", "ray://head:10001"])
def test_a_given_address_that_is_none_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_RAY_ADDRESS", address)
    config = StackConfig.model_validate({"models": {"a": {"engine": "simulated"}}})
    with pytest.raises(ConfigError, match=r"WARMLOOP_RAY_ADDRESS: '.*' is not HOST:PORT"):
        table_for(config, tmp_path)


def test_the_front_doors_of_a_cluster_are_those_that_its_directory_knows(tmp_path: Path) -> None:
    ray = RayTable(tmp_path)
    joined = JoinedTable([StaticTable(stack("http://a:1")), ray])
    assert fronts(joined) == ()
    ray.hear(encode(Snapshot(1, (), ("http://10.0.0.1:8400",))))
    assert fronts(joined) == fronts(ray) == ("http://10.0.0.1:8400",)
    assert fronts(StaticTable(stack("http://a:1"))) == ()
