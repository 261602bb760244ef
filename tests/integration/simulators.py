"""Simulated engines as processes of their own, that can be killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from serving.engines.ports import free_port
from serving.tables.base import Engine
from tests.unit.fakes import engine

PATIENCE_S = 120.0


@dataclass
class SimulatedProcess:
    """One engine; `kill` is SIGKILL."""

    replica: str
    port: int
    command: list[str]
    process: subprocess.Popen[bytes]

    @property
    def entry(self) -> Engine:
        url = f"http://127.0.0.1:{self.port}"
        return engine(self.replica, url=url, kind="simulated", served_name="big")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def restart(self) -> None:
        """The same address, a new process; returns when it serves."""
        self.process = _begin(self.command)
        await _ready(self.port)


@asynccontextmanager
async def simulators(count: int, **flags: float) -> AsyncIterator[list[SimulatedProcess]]:
    """`count` engines of the model `big`, ready; `flags` are the simulator's."""
    started: list[SimulatedProcess] = []
    try:
        for i in range(count):
            port = free_port()
            command = [sys.executable, "-m", "serving.simulator", "--port", str(port)]
            command += ["--model", "big", "--seed", str(i)]
            for name, value in flags.items():
                command += ["--" + name.replace("_", "-"), str(value)]
            started.append(SimulatedProcess(f"big-{i}", port, command, _begin(command)))
        await asyncio.gather(*(_ready(each.port) for each in started))
        yield started
    finally:
        for each in started:
            each.kill()


def _begin(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def _ready(port: int) -> None:
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
