"""Two front doors, each a process of its own, that run agents on one PostgreSQL: whichever a client
speaks to, it is one service; and when one is killed the other goes on with what it ran."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from serving.config.model import SimulatorConfig
from serving.engines.ports import free_port
from tests.integration.simulated_engines import simulated
from tests.integration.test_front_doors import PATIENCE_S, Door
from tests.postgres import SmallServer

LEASE_S = 2.0
WORDS = " ".join(f"word{number}" for number in range(60))
SLOW = {"model": "big", "input": f"SIMULATE: {json.dumps({'text': WORDS})}", "background": True}
ENGINE = SimulatorConfig(decode_tokens_per_s=40.0)


@dataclass
class World:
    http: aiohttp.ClientSession
    server: SmallServer
    database: str
    one: Door
    other: Door

    async def post(
        self, door: Door, path: str, headers: dict[str, str] | None = None, **body: Any
    ) -> dict[str, Any]:
        url = f"{door.url}/v1/responses{path}"
        async with self.http.post(url, json=body, headers=headers) as answer:
            said: dict[str, Any] = await answer.json()
            assert answer.status == 200, said
            return said

    async def refused(self, door: Door, headers: dict[str, str] | None = None) -> str:
        """What it says, with a 503 that tells when to come again."""
        url = f"{door.url}/v1/responses"
        async with self.http.post(url, json=SLOW, headers=headers) as answer:
            said = await answer.json()
            assert answer.status == 503, said
            assert said["error"]["code"] == "journal_unavailable"
            assert int(answer.headers["Retry-After"]) >= 1
            return str(said["error"]["message"])

    async def get(self, door: Door, response_id: str) -> dict[str, Any]:
        async with self.http.get(f"{door.url}/v1/responses/{response_id}") as answer:
            said: dict[str, Any] = await answer.json()
            assert answer.status == 200, said
            return said

    async def completed(self, door: Door, response_id: str) -> str:
        """What it wrote, once it has."""
        async with asyncio.timeout(PATIENCE_S):
            now = await self.get(door, response_id)
            while now["status"] != "completed":
                await asyncio.sleep(0.05)
                now = await self.get(door, response_id)
        [message] = now["output"]
        return str(message["content"][0]["text"])

    async def stream(self, door: Door, response_id: str) -> AsyncIterator[dict[str, Any]]:
        url = f"{door.url}/v1/responses/{response_id}?stream=true"
        async with self.http.get(url) as answer:
            assert answer.status == 200
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as life:
        server = await asyncio.to_thread(SmallServer)
        life.callback(server.close)
        url = await life.enter_async_context(server.database())
        engine, _ = await life.enter_async_context(simulated("big-0", ENGINE, publishes=False))
        stack = {
            "models": {"big": {"engine": "external", "urls": [engine.url]}},
            "journal": {"url": url, "lease_s": LEASE_S, "statement_timeout_s": 2},
        }
        path = tmp_path / "stack.yaml"
        path.write_text(yaml.safe_dump(stack))
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        http = await life.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        doors = [Door(path, tmp_path / name, free_port()) for name in ("one", "other")]
        for door in doors:
            life.push_async_callback(door.kill)
        await asyncio.gather(*(door.open(http) for door in doors))
        yield World(http, server, url, *doors)


async def test_a_response_that_one_took_is_polled_streamed_and_cancelled_at_the_other(
    world: World,
) -> None:
    asked = await world.post(world.one, "", **SLOW)
    events = [event async for event in world.stream(world.other, asked["id"])]
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    deltas = [each["delta"] for each in events if each["type"] == "response.output_text.delta"]
    assert "".join(deltas) == WORDS
    assert len(deltas) > 5  # it came as it was written, not at its end
    assert events[-1]["type"] == "response.completed"
    polled = await world.get(world.other, asked["id"])
    assert polled["status"] == "completed"
    # The conversation goes on at the other one, from the same history.
    text = 'SIMULATE: {"text": "and on"}'
    again = await world.post(
        world.other, "", model="big", input=text, previous_response_id=asked["id"]
    )
    assert again["conversation"] == polled["conversation"]
    assert again["usage"]["input_tokens"] > polled["usage"]["input_tokens"]

    long = await world.post(world.one, "", **SLOW)
    ended = await world.post(world.other, f"/{long['id']}/cancel")
    assert ended["status"] == "cancelled"
    assert (await world.get(world.one, long["id"]))["status"] == "cancelled"


async def test_when_one_is_killed_the_other_takes_its_responses_over(world: World) -> None:
    asked = [await world.post(world.one, "", **SLOW) for _ in range(4)]
    followed: list[dict[str, Any]] = []

    async def follow() -> None:
        async for event in world.stream(world.other, asked[0]["id"]):
            followed.append(event)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(PATIENCE_S):
        while len(followed) < 6:  # noqa: ASYNC110  a stream rings no bell
            await asyncio.sleep(0.02)
    await world.one.kill()
    await following
    assert [each["sequence_number"] for each in followed] == list(range(len(followed)))
    assert followed[-1]["type"] == "response.completed"
    cut = [each for each in followed if each.get("item", {}).get("status") == "incomplete"]
    assert cut, "it ended before its front door was killed"
    for each in asked:
        assert await world.completed(world.other, each["id"]) == WORDS


async def test_while_the_database_is_down_requests_are_told_and_afterwards_all_is_well(
    world: World,
) -> None:
    asked = await world.post(world.one, "", **SLOW)
    await asyncio.to_thread(world.server.kill)
    await world.refused(world.other)
    await asyncio.to_thread(world.server.start)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            url = f"{world.other.url}/v1/responses/{asked['id']}"
            async with world.http.get(url) as answer:
                if answer.status == 200 and (await answer.json())["status"] == "completed":
                    break
            await asyncio.sleep(0.1)
    fresh = await world.post(world.one, "", model="big", input='SIMULATE: {"text": "fresh"}')
    assert fresh["status"] == "completed"


async def test_while_the_databases_disk_is_full_requests_are_told_and_afterwards_all_is_well(
    world: World,
) -> None:
    key = {"Idempotency-Key": "the one"}
    began = await world.post(world.one, "", **SLOW)
    await world.server.fill(world.database)
    try:
        for door in (world.one, world.other):
            assert "disk space" in await world.refused(door, key)
            await world.get(door, began["id"])  # what is stored can be read
    finally:
        await asyncio.to_thread(world.server.free)
    asked = [await world.post(door, "", key, **SLOW) for door in (world.one, world.other)]
    assert asked[0]["id"] == asked[1]["id"]
    for each in (began, asked[0]):
        assert await world.completed(world.other, each["id"]) == WORDS


async def test_a_front_door_that_cannot_use_its_journal_says_why_in_a_line_and_ends(
    tmp_path: Path,
) -> None:
    models = {"big": {"engine": "external", "urls": ["http://127.0.0.1:9"]}}
    journal = {"url": f"postgresql://postgres@/none?host={tmp_path}"}
    stack = tmp_path / "stack.yaml"
    stack.write_text(yaml.safe_dump({"models": models, "journal": journal}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator.front", "--config", str(stack), "--port", "0"),
        env={**os.environ, "WARMLOOP_HOME": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in said
    assert said.splitlines()[-1].startswith(b"warmloop: the journal's database cannot be used: ")
