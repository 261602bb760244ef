"""Several front doors on one real Ray: they find each other in its directory, and outlive it.

The engines are simulated; Ray, the directory, the feeds and the front doors are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from orchestrator import supervisor
from serving.cluster.run_file import child_env, read_run_file
from serving.engines import guardian
from serving.engines.ports import free_port
from serving.tables.ray_table import ADDRESS_VARIABLE, FRONT_VARIABLE
from tests.integration.load import Outcome, ask, client
from tests.integration.stacks import Stack, eventually, stack

pytestmark = pytest.mark.ray

SECRET = {"WARMLOOP_PEER_SECRET": "of these front doors alone"}
MODELS = {"pair": {"engine": "simulated", "replicas": 2, "simulator": {"decode_tokens_per_s": 40}}}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack"), models=MODELS) as made:
        made.extra_env.update(SECRET)
        made.up()
        yield made


@dataclass
class Door:
    """A front door of somebody else's making, on the Ray of a stack."""

    url: str
    log: Path
    tree: guardian.Guarded

    def health(self) -> dict[str, Any]:
        return supervisor.get_json(f"{self.url}/health") or {}

    def said(self, words: str) -> int:
        return self.log.read_text().count(words)


@contextmanager
def door(up: Stack, home: Path, secret: dict[str, str]) -> Iterator[Door]:
    """With a journal of its own; ready, and ended with the block."""
    run = read_run_file(up.home / "stacks" / up.name)
    assert run is not None
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        **child_env(run.token_path),
        ADDRESS_VARIABLE: run.address,
        FRONT_VARIABLE: url,
        "WARMLOOP_HOME": str(home),
        **secret,
    }
    argv = ["-m", "orchestrator.front", "--config", str(up.config), "--port", str(port)]
    home.mkdir()
    tree = guardian.spawn([up.command()[0], *argv], env, home / "front.log", grace_s=5)
    made = Door(url, home / "front.log", tree)
    try:
        eventually(lambda: supervisor.get_json(f"{url}/ready"), "the front door is ready", 60)
        yield made
    finally:
        tree.close()


async def turn(door: Door, session: str, *said: str) -> dict[str, str]:
    """The headers of a short answer."""
    body = {
        "model": "pair",
        "max_tokens": 4,
        "messages": [{"role": "user", "content": s} for s in said],
    }
    async with client() as http:
        asked = http.post(
            f"{door.url}/v1/chat/completions", json=body, headers={"x-session-id": session}
        )
        async with asked as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
            return dict(answer.headers)


async def test_front_doors_find_each_other_in_rays_directory_and_share_what_is_warm(
    up: Stack, tmp_path: Path
) -> None:
    with door(up, tmp_path / "a", SECRET) as a:
        with door(up, tmp_path / "b", SECRET) as b:
            for one in (a, b):
                eventually(lambda: one.health().get("peers") == 1, "they know each other", 60)  # noqa: B023
            history = ["x" * 4000]
            homes = set()
            for n in range(6):
                seen = await turn((a, b)[n % 2], "moves", *history)
                homes.add(seen["x-warmloop-replica"])
                if n:
                    assert int(seen["x-warmloop-predicted-cached-tokens"]) > 900
                history.append(f"turn {n}")
                await asyncio.sleep(0.3)  # news take some 50 ms
            assert len(homes) == 1, "its home is its home at each door"
            with door(up, tmp_path / "c", {}) as c:
                words = "WARMLOOP_PEER_SECRET is not set, and there are other front doors"
                eventually(lambda: c.said(words), "it says that it is alone", 60)
                assert c.health()["peers"] == 0
                assert c.said(words) == 1
        eventually(lambda: a.health().get("peers") == 0, "the other one is gone", 60)


def rays(up: Stack, word: str) -> psutil.Process:
    """A process of this stack's Ray, by what stands first in its command line."""

    def found() -> psutil.Process | None:
        for process in up.processes():
            try:
                if word in process.cmdline()[0]:
                    return process
            except (psutil.Error, IndexError):
                continue
        return None

    process: psutil.Process = eventually(found, word, 60)
    return process


async def streams(url: str, http: aiohttp.ClientSession, count: int) -> list[asyncio.Task[Outcome]]:
    """So many that have begun, and go on for some seconds."""
    begun = asyncio.Semaphore(0)
    tasks = [
        asyncio.create_task(
            ask(http, url, "pair", stream=True, words=200, session=f"s{n}", on_begin=begun.release)
        )
        for n in range(count)
    ]
    for _ in tasks:
        await begun.acquire()
    return tasks


async def test_streams_and_new_turns_do_not_notice_that_the_directory_is_gone(up: Stack) -> None:
    async with client() as http:
        running = await streams(up.url(), http, 8)
        rays(up, "ray::DirectoryActor").kill()
        new = [
            await ask(http, up.url(), "pair", stream=bool(n % 2), words=5, session=f"n{n}")
            for n in range(6)
        ]
        assert all(turn.well for turn in [*new, *await asyncio.gather(*running)])


async def test_without_rays_head_streams_end_well_and_new_turns_are_served_until_more_is_gone(
    up: Stack,
) -> None:
    """The last one here: the stack ends."""
    async with client() as http:
        running = await streams(up.url(), http, 8)
        rays(up, "gcs_server").kill()
        turns = await asyncio.gather(*running)
        for n in range(40):
            turns.append(await ask(http, up.url(), "pair", stream=True, words=20, session=f"n{n}"))
        assert [turn for turn in turns if not turn.well] == []
        rays(up, "raylet").kill()
        await asyncio.to_thread(eventually, lambda: not up.processes(), "the stack has ended", 90)
    said = (up.home / "stacks" / up.name / "events.jsonl").read_text()
    assert '"ray-lost", "what": "gcs_server"' in said
    assert "Ray ended unexpectedly" in up.logs() or "raylet" in up.logs()
