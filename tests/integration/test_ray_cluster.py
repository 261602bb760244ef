"""A real Ray, two models of simulated engines: what is killed comes back, what ends leaves nothing.

The cluster belongs to a process of its own here, so that it can be killed as a user's shell would.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from serving.cluster.local_cluster import LocalCluster
from serving.cluster.local_ray import remove_leftovers
from serving.cluster.run_file import read_run_file
from serving.errors import EngineError
from serving.tables.base import Engine
from serving.tables.discovery import RayTable

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
START_S = 120.0
STACK = """
name: two
models:
  small: {engine: simulated, tier: small, replicas: 2}
  frontier: {engine: simulated}
"""
OWNER = """
import sys, time
from pathlib import Path
from serving.cluster.local_cluster import LocalCluster
cluster = LocalCluster(Path(sys.argv[1]), Path(sys.argv[2]))
cluster.start()
while cluster.alive():
    time.sleep(0.2)
"""


class Owned:
    """A cluster whose owner is another process."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        config = folder / "stack.yaml"
        config.write_text(STACK)
        self.owner = psutil.Popen(
            [sys.executable, "-c", OWNER, str(config), str(self.run_dir)], cwd=ROOT
        )
        self.reader = LocalCluster(config, self.run_dir)
        self._seen: set[psutil.Process] = set()

    def processes(self) -> list[psutil.Process]:
        """Everything that was ever seen below the owner and is still there."""
        with suppress(psutil.NoSuchProcess):
            self._seen.update(self.owner.children(recursive=True))
        return [p for p in self._seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def found(self, *words: str) -> set[psutil.Process]:
        """The processes whose command line has all of `words`."""
        found = set()
        for process in self.processes():
            line = " ".join(command_line(process))
            if all(word in line for word in words) and "guardian.py" not in line:
                found.add(process)
        return found

    def find(self, *words: str) -> psutil.Process:
        (found,) = self.found(*words)
        return found

    def engine_process(self, engine: Engine) -> psutil.Process:
        return self.find("serving.simulator", f"--port {engine.url.rpartition(':')[2]} ")


def command_line(process: psutil.Process) -> list[str]:
    """Empty when it has just ended."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owned]:
    owned = Owned(tmp_path_factory.mktemp("cluster"))
    try:
        until((owned.run_dir / "events.jsonl").exists, START_S)
        until(lambda: '"ready", "s"' in (owned.run_dir / "events.jsonl").read_text(), START_S)
        yield owned
    finally:
        left = owned.processes()
        if owned.owner.is_running():
            owned.owner.kill()
        owned.owner.wait()
        psutil.wait_procs(left, timeout=20)


def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for `condition`; returns the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - started


async def heard(
    table: RayTable, condition: Callable[[list[Engine]], bool], timeout_s: float
) -> list[Engine]:
    """Wait until the ready engines of the table satisfy `condition`."""
    async with asyncio.timeout(timeout_s):
        while True:
            ready = [engine for engine in table.snapshot() if engine.state == "ready"]
            if condition(ready):
                return ready
            await asyncio.sleep(0.02)


@pytest.fixture
async def table(cluster: Owned) -> RayTable:
    """A table that follows the cluster and knows its three engines."""
    table = RayTable(cluster.run_dir)
    await table.start()
    await heard(table, lambda ready: len(ready) == 3, START_S)
    return table


async def test_every_replica_is_in_the_table_and_answers(table: RayTable) -> None:
    ready = await heard(table, lambda ready: len(ready) == 3, 1)
    assert sorted(engine.model for engine in ready) == ["frontier", "small", "small"]
    async with aiohttp.ClientSession() as http:
        for engine in ready:
            assert (engine.capacity_tokens, engine.context_tokens) == (300_000, 8192)
            async with http.get(f"{engine.url}/v1/models") as answer:
                assert (await answer.json())["data"][0]["id"] == engine.served_name
        body = {"model": "frontier", "prompt": "x" * 4000, "max_tokens": 1}
        frontier = next(engine for engine in ready if engine.model == "frontier")
        async with http.post(f"{frontier.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
    loaded = await heard(table, lambda r: any(e.load.queried_tokens == 1000 for e in r), 10)
    assert len(loaded) == 3
    await table.stop()


async def test_nothing_listens_beyond_loopback(cluster: Owned) -> None:
    listening = [
        connection.laddr.ip
        for process in cluster.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 8
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


async def test_a_killed_engine_leaves_the_table_at_once_and_is_replaced(
    cluster: Owned, table: RayTable
) -> None:
    victim = next(e for e in table.snapshot() if e.model == "small")
    cluster.engine_process(victim).kill()
    left = await heard(table, lambda r: victim.replica not in {e.replica for e in r}, 4)
    assert len(left) == 2
    back = await heard(table, lambda r: len(r) == 3, START_S)
    assert victim.replica not in {engine.replica for engine in back}
    await table.stop()


async def test_a_killed_replica_takes_its_engine_along_and_is_replaced(
    cluster: Owned, table: RayTable
) -> None:
    victim = next(e for e in table.snapshot() if e.model == "frontier")
    engine = cluster.engine_process(victim)
    cluster.find("ray::ServeReplica:frontier").kill()
    until(lambda: not engine.is_running(), 10)
    await heard(table, lambda r: victim.replica not in {e.replica for e in r}, 10)
    await heard(table, lambda r: len(r) == 3, START_S)
    await table.stop()


async def test_a_directory_that_restarted_is_told_everything_again(
    cluster: Owned, table: RayTable
) -> None:
    before = {engine.replica for engine in table.snapshot()}
    victim = cluster.find("ray::DirectoryActor")
    victim.kill()
    until(lambda: bool(cluster.found("ray::DirectoryActor") - {victim}), START_S)
    # The new actor begins empty, so that what is heard now was told to it.
    another = RayTable(cluster.run_dir)
    await another.start()
    ready = await heard(another, lambda r: len(r) == 3, START_S)
    assert {engine.replica for engine in ready} == before
    await heard(table, lambda r: len(r) == 3, START_S)
    await another.stop()
    await table.stop()


def feeds() -> set[psutil.Process]:
    """The directory feeds that this process owns."""
    children = psutil.Process().children()
    return {c for c in children if "serving.cluster.directory_feed" in command_line(c)}


async def test_a_killed_feed_is_started_again(cluster: Owned, table: RayTable) -> None:
    (feed,) = feeds()
    feed.kill()
    await asyncio.to_thread(until, lambda: bool(feeds() - {feed}), START_S)
    assert len([engine for engine in table.snapshot() if engine.state == "ready"]) == 3
    await table.stop()


def test_after_a_sigkill_of_the_owner_nothing_is_left(cluster: Owned) -> None:
    run = read_run_file(cluster.run_dir)
    assert run is not None
    left = cluster.processes()
    assert len(left) > 15
    cluster.owner.kill()
    cluster.owner.wait()
    until(lambda: cluster.processes() == [], 10)
    named = [p for p in psutil.process_iter() if run.temp_dir in " ".join(command_line(p))]
    assert named == []
    # Its folder stays until a next start, of anybody on this machine, looks for such folders.
    remove_leftovers()
    assert not Path(run.temp_dir).exists()


def post(url: str, body: dict[str, object]) -> dict[str, Any]:
    """One blocking request."""
    asked = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310 our own engine
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


def test_a_request_that_runs_is_finished_before_the_end(tmp_path: Path) -> None:
    config = tmp_path / "stack.yaml"
    # Much longer than the request, so that a busy machine cannot make the drain run out.
    config.write_text(STACK + "front: {drain_s: 45}\n")
    owned = LocalCluster(config, tmp_path)
    others = set(psutil.Process().children(recursive=True))  # a shared engine of other tests
    owned.start()
    try:
        events = owned.wait_ready(START_S)
        run = read_run_file(tmp_path)
        assert run is not None
        below = set(psutil.Process().children(recursive=True)) - others
        frontier = next(
            e.fields for e in events if e.fields.get("model") == "frontier" and e.fields["url"]
        )
        with ThreadPoolExecutor() as pool:
            url = f"{frontier['url']}/v1/completions"
            body = {"model": "frontier", "prompt": "x", "max_tokens": 240, "ignore_eos": True}
            request = pool.submit(post, url, body)
            time.sleep(0.5)
            owned.stop(60)
            assert request.result()["usage"]["completion_tokens"] == 240
    finally:
        owned.stop(0)
    assert not any(process.is_running() for process in below)
    assert not Path(run.temp_dir).exists()
    assert read_run_file(tmp_path) is None
    assert '"stopped"' in (tmp_path / "events.jsonl").read_text().splitlines()[-1]


def test_an_engine_that_cannot_start_says_why_and_the_cluster_ends(tmp_path: Path) -> None:
    config = tmp_path / "stack.yaml"
    config.write_text(
        "models:\n"
        "  small:\n    engine: simulated\n    simulator: {capacity_tokens: 1024}\n"
        "  frontier: {engine: simulated}\n"
    )
    owned = LocalCluster(config, tmp_path)
    owned.start()
    try:
        with pytest.raises(EngineError, match=r"(?s)engine of small ended .*larger than what the"):
            owned.wait_ready(START_S)
        until(lambda: not owned.alive(), 30)
    finally:
        owned.stop(0)


def test_serves_own_configuration_files_can_name_a_model_of_the_stack(tmp_path: Path) -> None:
    config = tmp_path / "stack.yaml"
    config.write_text(STACK)

    # Elsewhere, since importing Ray gives warnings, which are errors here.
    def build(model: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import sys; from serving.cluster.replica import build_app\n"
            "print(type(build_app({'config': sys.argv[1], 'model': sys.argv[2]})).__name__)"
        )
        argv = [sys.executable, "-c", code, str(config), model]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert build("small").stdout == "Application\n"
    assert "'large' is not a model that Warmloop starts" in build("large").stderr
