"""The stack on a Ray cluster of two nodes, deployed by its own command; one node is killed.

A node is a process tree with a mark in its environment, which everything below it inherits: Ray's
own processes, replicas, guardians, engines. A machine that dies takes all of them at once, and so
does `Node.kill`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from serving.cluster.run_file import import_env, make_token, ray_env
from serving.engines.ports import free_port

pytestmark = pytest.mark.ray

NODES = Path(__file__).with_name("ray_nodes.py")
MARK = "WARMLOOP_TEST_NODE"
START_S = 180.0
STACK = """
name: nodes
front: {{port: {port}}}
models:
  frontier:
    engine: simulated
    replicas: 4
    gpus: 1
    simulator: {{decode_tokens_per_s: 100}}
"""


@dataclass
class Node:
    """One machine of the cluster."""

    folder: Path
    env: dict[str, str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[str] | None = None

    def start(self, *args: str) -> str:
        """Start it, wait until Ray runs on it; returns the cluster's address."""
        self.folder.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, str(NODES), "--dir", str(self.folder), "--gpus", "2", *args],
            env={**self.env, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return str(json.loads(line)["address"])

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def kill(self) -> None:
        """SIGKILL to every process of it, until none is left."""
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)
        if self.process is not None:
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


@dataclass
class TwoNodes:
    """A cluster with the stack deployed on it."""

    root: Path
    env: dict[str, str]
    head: Node
    second: Node
    address: str
    url: str

    def engines(self) -> list[dict[str, Any]]:
        """What the front door's table says; empty while it does not answer."""
        found = asyncio.run(self._get("/health"))
        engines: list[dict[str, Any]] = (found or {}).get("engines", [])
        return engines

    async def _get(self, path: str) -> dict[str, Any] | None:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession() as http, http.get(self.url + path) as answer:
                body: dict[str, Any] = await answer.json()
                return body
        return None

    def ready(self) -> set[str]:
        return {e["replica"] for e in self.engines() if e["state"] == "ready"}


def until(condition: Callable[[], Any], what: str, timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    root = Path(tempfile.mkdtemp(prefix="wn-", dir="/tmp"))
    env = {
        **os.environ,
        **import_env(),
        **ray_env(make_token(root)),
        "WARMLOOP_HOME": str(root / "home"),
    }
    head, second = Node(root / "a", env), Node(root / "b", env)
    config = root / "stack.yaml"
    port = free_port()
    config.write_text(STACK.format(port=port))
    nodes = [head, second]
    try:
        address = head.start("--resources", '{"front": 1}')
        second.start("--join", address)
        deploy = [sys.executable, "-m", "orchestrator.deploy", "--config", str(config)]
        done = subprocess.run(
            [*deploy, "--address", address],
            env=env,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("deployed: frontier, front;")
        made = TwoNodes(root, env, head, second, address, f"http://127.0.0.1:{port}")
        until(lambda: len(made.ready()) == 4, "four replicas in the front door's table")
        yield made
        nodes.append(made.second)
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(root, ignore_errors=True)


@dataclass(frozen=True)
class Turn:
    """How one turn of the load went."""

    began_s: float
    status: int
    error: str | None
    replica: str | None


async def turn(http: aiohttp.ClientSession, url: str, number: int) -> Turn:
    """One chat completion, every second one streamed. Whatever happens, it ends."""
    body = {
        "model": "frontier",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "max_tokens": 30,
        "stream": number % 2 == 1,
    }
    began_s = time.monotonic()
    async with asyncio.timeout(60), http.post(f"{url}/v1/chat/completions", json=body) as answer:
        replica = answer.headers.get("x-warmloop-replica")
        text = await answer.text()
    error = None
    if answer.status != 200:
        error = json.loads(text)["error"]["message"]
    elif body["stream"]:
        events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        errors = [json.loads(event)["error"] for event in events if '"error"' in event]
        error = errors[0]["message"] if errors else None
        assert error is not None or events[-1] == "[DONE]", text[-300:]
    return Turn(began_s, answer.status, error, replica)


class Load:
    """Turns, eight at a time, for as long as the block lasts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.turns: list[Turn] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Load:
        self._http = aiohttp.ClientSession()
        self._tasks = [asyncio.create_task(self._ask(self._http, n)) for n in range(8)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._http is not None
        await self._http.close()
        assert all(isinstance(e, asyncio.CancelledError) for e in ended), ended

    async def _ask(self, http: aiohttp.ClientSession, first: int) -> None:
        number = first
        while True:
            self.turns.append(await turn(http, self._url, number))
            number += 9  # odd and even by turns

    async def more(self, count: int, since_s: float = 0.0) -> list[Turn]:
        """Wait for `count` turns that began after `since_s`; returns them."""
        async with asyncio.timeout(START_S):
            while True:
                found = [turn for turn in self.turns if turn.began_s > since_s]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.05)


def engine_ports(node: Node) -> set[str]:
    """The ports of the engines that run on a node."""
    ports = set()
    for process in node.processes():
        with suppress(psutil.Error):
            line = process.cmdline()
            if "serving.simulator" in line and "--port" in line:
                ports.add(line[line.index("--port") + 1])
    return ports


def test_replicas_run_on_both_nodes_and_the_front_door_knows_all(cluster: TwoNodes) -> None:
    ports = {e["url"].rpartition(":")[2] for e in cluster.engines()}
    assert len(engine_ports(cluster.head)) == len(engine_ports(cluster.second)) == 2
    assert ports == engine_ports(cluster.head) | engine_ports(cluster.second)


def test_nothing_of_either_node_listens_beyond_loopback(cluster: TwoNodes) -> None:
    listening = [
        (connection.laddr.ip, process.name())
        for node in (cluster.head, cluster.second)
        for process in node.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 12
    beyond = [one for one in listening if one[0].removeprefix("::ffff:") != "127.0.0.1"]
    assert beyond == []


def front_doors(cluster: TwoNodes) -> set[psutil.Process]:
    """The front-door processes themselves, without their guardians."""
    found = set()
    for process in cluster.head.processes():
        with suppress(psutil.Error):
            line = process.cmdline()
            if "orchestrator.front" in line and not any("guardian" in part for part in line):
                found.add(process)
    return found


def test_a_front_door_that_is_killed_is_started_again_and_the_engines_stay(
    cluster: TwoNodes,
) -> None:
    before, (victim,) = cluster.ready(), front_doors(cluster)
    victim.kill()
    until(lambda: bool(front_doors(cluster) - {victim}), "another front door")
    until(lambda: cluster.ready() == before, "the same replicas in its table")


async def test_a_node_is_killed_turns_go_on_at_the_other_and_a_new_node_takes_its_place(
    cluster: TwoNodes,
) -> None:
    before = await asyncio.to_thread(cluster.ready)
    async with Load(cluster.url) as load:
        served = {turn.replica for turn in await load.more(60)}
        assert served == before, "the load must reach every replica, or killing proves nothing"
        assert {turn.error for turn in load.turns} == {None}

        await asyncio.to_thread(cluster.second.kill)
        killed_s = time.monotonic()
        await asyncio.to_thread(
            until, lambda: len(cluster.ready()) == 2, "the dead node's replicas leave the table"
        )
        gone_s = time.monotonic() - killed_s
        after = await load.more(100, killed_s)
        assert [turn for turn in after if turn.error is not None] == []
        left = await asyncio.to_thread(cluster.ready)
        assert left < before
        assert {turn.replica for turn in after} == left

        again = Node(cluster.root / "c", cluster.env)
        await asyncio.to_thread(again.start, "--join", cluster.address)
        cluster.second = again
        await asyncio.to_thread(
            until, lambda: len(cluster.ready()) == 4, "the new node's replicas are in the table"
        )
        back = await asyncio.to_thread(cluster.ready)
        assert len(back - before) == 2
        assert len(engine_ports(again)) == 2
        back_s = time.monotonic()
        sessions = await load.more(60, back_s)
        assert back - before <= {turn.replica for turn in sessions}
        assert [turn for turn in sessions if turn.error is not None] == []
    # Those that ran when it happened had an end too: `turn` has seen one of each.
    cut = [turn for turn in load.turns if turn.error is not None]
    print(f"{len(load.turns)} turns, {len(cut)} cut off, replicas gone after {gone_s:.1f} s")
    assert all(turn.began_s < killed_s for turn in cut)
