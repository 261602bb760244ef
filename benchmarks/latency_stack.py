"""Latency benchmark, what is measured: a front door in its own process, its log, its journal.

    async with stack(engine, model, folder) as it:
        it.front, it.relay.url         where to ask: the stack, and the bare engine
        it.agent                       `talk` as the front door has it: to render the same prompts
        await it.events(conversation)  what the journal holds
        it.routed(response_id)         what the router's log says
        await it.journal_clock()       what /metrics says of durable appends: seconds, how many

The front door is `python -m orchestrator.front`, as `warmloop up` starts it; between it and the
engine is the relay. Its journal is in `folder`: on the disk whose fsyncs are to count.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from benchmarks.engines import PATIENCE, external
from benchmarks.latency_budget import Routed
from benchmarks.latency_relay import Relay, relay
from orchestrator.agents import Agent, resolve
from orchestrator.journal.outside import logs_of
from orchestrator.loop.events import AnyEvent, decode
from serving.config import stack_file
from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.engines.ports import free_port

MODEL = "small"
TALK, DESK = "talk", "desk"
ANSWER_TOKENS = 24
READY_S = 60.0
_INSTRUCTIONS = (
    "You are the desk assistant of a bicycle shop. Answer in short sentences. Bells, chains and "
    "pumps are on shelf A1 and cost 12.90 EUR each; they are delivered within two days. "
)
_DURABLE = re.compile(
    r'^warmloop_journal_append_seconds_(sum|count)\{durable="true"\} (\S+)', re.MULTILINE
)


def agents(head: int) -> dict[str, Any]:
    """`talk` answers; `desk` calls its tool once, then answers. Their instructions are so many
    repetitions of some 45 tokens."""
    common = {"model": MODEL, "instructions": _INSTRUCTIONS * head, "reply_tool": False}
    long = {"max_turns": 1000, "max_tokens": 10**9, "remind_every": 0}
    return {
        TALK: {**common, "max_output_tokens": ANSWER_TOKENS, "limits": long},
        DESK: {
            **common,
            "max_output_tokens": 64,
            "tools": ["benchmarks.latency_tool:look_up"],
            "limits": {**long, "max_tool_calls": 1},
        },
    }


@dataclass(frozen=True)
class Stack:
    """One that answers."""

    front: str
    relay: Relay
    engine: str
    config: StackConfig
    agent: Agent
    http: aiohttp.ClientSession
    log: Path

    async def events(self, conversation: str) -> list[AnyEvent]:
        """A conversation's log."""
        async with logs_of(self.config) as logs:
            return [decode(payload) for _, payload in await logs.named(conversation)]

    def routed(self, response_id: str) -> dict[tuple[int, int], Routed]:
        """The router's lines of one response, by step and attempt."""
        found = {}
        for line in self.log.read_text(encoding="utf-8").splitlines():
            if f'"{response_id}-' not in line:
                continue
            said = json.loads(line)
            step, attempt = said["request_id"].removeprefix(f"{response_id}-").split("-")
            line_of = Routed(said.get("waited_s") or 0.0, said["total_s"])
            found[int(step), int(attempt)] = line_of
        return found

    async def journal_clock(self) -> tuple[float, int]:
        """Durable appends since the front door's start: their seconds, and how many there were."""
        async with self.http.get(f"{self.front}/metrics") as answer:
            said = {name: float(value) for name, value in _DURABLE.findall(await answer.text())}
        return said.get("sum", 0.0), int(said.get("count", 0))

    async def forget(self) -> None:
        """Empty the engine's prefix cache."""
        async with self.http.post(f"{self.engine}/reset_prefix_cache") as answer:
            answer.raise_for_status()


@asynccontextmanager
async def stack(engine: str, model: ModelConfig, folder: Path, head: int) -> AsyncIterator[Stack]:
    """A front door with both agents before an engine that runs."""
    async with (
        relay(engine) as before,
        aiohttp.ClientSession(
            timeout=PATIENCE, connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=900)
        ) as http,
    ):
        section = external(model, before.url).model_dump(mode="json", exclude_defaults=True)
        port = free_port()
        file = folder / "stack.yaml"
        said = {
            "name": "latency",
            "models": {MODEL: section},
            "agents": agents(head),
            "front": {"port": port},
            "journal": {"path": str(folder / "journal.db")},
        }
        file.write_text(yaml.safe_dump(said), encoding="utf-8")
        config = stack_file.load(file)
        log = folder / "front.log"
        url = f"http://127.0.0.1:{port}"
        with _front(file, folder, log) as process:
            await _ready(http, url, process, log)
            yield Stack(url, before, engine, config, resolve(TALK, config.agents[TALK]), http, log)


@contextmanager
def _front(file: Path, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "orchestrator.front", "--config", str(file)]
    environment = {**os.environ, "WARMLOOP_HOME": str(folder / "home")}
    with (
        log.open("wb") as out,
        subprocess.Popen(argv, stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


async def _ready(
    http: aiohttp.ClientSession, url: str, process: subprocess.Popen[bytes], log: Path
) -> None:
    try:
        async with asyncio.timeout(READY_S):
            while not await _answers(http, url):
                if process.poll() is not None:
                    break
                await asyncio.sleep(0.05)
            else:
                return
    except TimeoutError:
        pass
    said = await asyncio.to_thread(log.read_text, errors="replace")
    raise SystemExit(f"the front door did not start:\n{said[-2000:]}")


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False
