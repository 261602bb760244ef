"""Several front doors as processes of their own, over the same engines: sessions come to any of
them, one dies, one is added, and hits stay what they are with one front door alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from serving.config.model import SimulatorConfig
from serving.engines.ports import free_port
from serving.tables.base import Engine
from tests.integration.simulated_engines import simulated

PATIENCE_S = 120.0
ENGINE = SimulatorConfig(
    prefill_tokens_per_s=200_000, decode_tokens_per_s=2000, capacity_tokens=400_000
)
SESSIONS, TURNS = 24, 9


class Door:
    """One front-door process."""

    def __init__(self, stack: Path, home: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._stack, self._home, self._port = stack, home, port
        self._process: asyncio.subprocess.Process | None = None

    async def open(self, http: aiohttp.ClientSession) -> None:
        self._home.mkdir(exist_ok=True)
        secret = {"WARMLOOP_PEER_SECRET": "of these front doors alone"}
        with (self._home / "out.log").open("w") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "orchestrator.front", "--config", str(self._stack)),
                *("--port", str(self._port)),
                env={**os.environ, "WARMLOOP_HOME": str(self._home), **secret},
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
            )
        async with asyncio.timeout(PATIENCE_S):
            while not await self._ready(http):
                assert self._process.returncode is None, (self._home / "out.log").read_text()
                await asyncio.sleep(0.1)

    async def _ready(self, http: aiohttp.ClientSession) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(f"{self.url}/ready") as answer:
                return answer.status == 200
        return False

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


class Talk:
    """One session, which says its id as a coding agent does."""

    def __init__(self, name: str, dice: random.Random) -> None:
        self.name = name
        self._dice = dice
        self._messages = [{"role": "system", "content": "You are an agent. " * 200}]

    async def turn(self, http: aiohttp.ClientSession, doors: Sequence[Door]) -> tuple[int, int]:
        """Through any of the doors; tokens of the prompt, and those found in the cache."""
        words = self._dice.randint(200, 800)
        self._messages.append({"role": "user", "content": f"{self.name} says " * words})
        body = {"model": "big", "messages": self._messages, "max_tokens": 40}
        headers = {"x-session-id": self.name}
        for door in self._dice.sample(doors, len(doors)):
            with contextlib.suppress(aiohttp.ClientConnectionError):  # it is dead: the next one
                url = f"{door.url}/v1/chat/completions"
                async with http.post(url, json=body, headers=headers) as answer:
                    said: dict[str, Any] = await answer.json()
                    assert answer.status == 200, said
                self._messages.append(said["choices"][0]["message"])
                usage = said["usage"]
                return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
        raise AssertionError("no front door answered")


async def play(
    http: aiohttp.ClientSession, doors: list[Door], events: dict[int, Any], *, seed: int
) -> float:
    """Share of the prompts' tokens that were found in caches; `events` happen before a round."""
    talks = [Talk(f"session {seed} {i}", random.Random(100 * seed + i)) for i in range(SESSIONS)]
    prompt = cached = 0
    for number in range(TURNS):
        if number in events:
            await events[number]()

        async def one(talk: Talk) -> tuple[int, int]:
            await asyncio.sleep(talk._dice.uniform(0.1, 0.3))  # its tools run
            return await talk.turn(http, doors)

        for tokens, found in await asyncio.gather(*map(one, talks)):
            prompt += tokens
            cached += found
    return cached / prompt


@asynccontextmanager
async def fresh_engines() -> AsyncIterator[list[Engine]]:
    async with AsyncExitStack() as stack:
        yield [
            (await stack.enter_async_context(simulated(f"big-{i}", ENGINE)))[0] for i in range(4)
        ]


def written(folder: Path, engines: list[Engine], ports: list[int]) -> Path:
    """The stack file that all front doors share."""
    model = {
        "engine": "external",
        "urls": [e.url for e in engines],
        "kv_endpoints": [{"events": e.kv_events, "replay": e.kv_replay} for e in engines],
    }
    front = {"peers": [f"http://127.0.0.1:{port}" for port in ports]}
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump({"models": {"big": model}, "front": front}))
    return path


@pytest.mark.parametrize("first", [3])
async def test_sessions_over_front_doors_that_come_and_die_find_their_caches(
    tmp_path: Path, first: int
) -> None:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    ports = [free_port() for _ in range(first + 1)]
    async with aiohttp.ClientSession(timeout=timeout) as http:
        async with fresh_engines() as engines:
            alone = Door(written(tmp_path, engines, ports[:1]), tmp_path / "alone", ports[0])
            try:
                await alone.open(http)
                one = await play(http, [alone], {}, seed=1)
            finally:
                await alone.kill()
        async with fresh_engines() as engines:
            stack = written(tmp_path, engines, ports)
            doors = [Door(stack, tmp_path / f"d{i}", port) for i, port in enumerate(ports)]
            used = doors[:first]

            async def die() -> None:
                await used[0].kill()

            async def add() -> None:
                await doors[first].open(http)
                used.append(doors[first])

            try:
                for door in used:
                    await door.open(http)
                several = await play(http, used, {TURNS // 3: die, 2 * TURNS // 3: add}, seed=1)
            finally:
                for door in doors:
                    await door.kill()
    print(
        f"\nhits: one front door {one:.4f}, three of which one dies and one is added {several:.4f}"
    )
    assert one > 0.7
    assert several >= one - 0.02
