"""RayTable: the engines of a Ray cluster, as the directory's feed tells them.

    run file (cluster.json) ── says where Ray is ──▶ feed process ── lines ──▶ snapshot
                                                                 ◀── our queues ──
          ▲ not there yet: look again            │ it ends, or is silent: start it again
          └──────────────────────────────────────┘

In a cluster of several machines there is no run file: the address is given ($WARMLOOP_RAY_ADDRESS,
host:port of Ray's head), and Ray's token comes from the environment (RAY_AUTH_MODE and
RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH). A Ray node must run beside this process: a driver needs one.

While the feed is away nobody keeps the last snapshot true, so the engines in it are asked
themselves: one that answers is believed, one that refuses is dead at once, and one of which nothing
was heard for a grace period counts as dead, with the reason. So a front door that lost Ray serves
as long as its engines do. This process never imports Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from serving.cluster.directory import decode
from serving.cluster.front_queues import Queues, encode
from serving.cluster.run_file import child_env, import_env, read_run_file
from serving.errors import ConfigError
from serving.owned_task import OwnedTask
from serving.tables.base import Engine
from serving.tables.last_known import living

ADDRESS_VARIABLE = "WARMLOOP_RAY_ADDRESS"
FRONT_VARIABLE = "WARMLOOP_FRONT_URL"
"""Where the front door of this environment can be reached by others; unset: by nobody."""
RETRY_S = 1.0
SILENCE_S = 5.0
"""The feed prints a line each second; a busy machine may delay some."""
GRACE_S = 30.0
"""How long an engine is believed of which neither the feed nor it itself says anything: about what
it takes to start a feed anew."""
ASK_S = 1.0
MAX_LINE_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray to follow, and the environment of a process that may speak to it."""

    address: str
    env: Mapping[str, str]


def given_address(environ: Mapping[str, str] = os.environ) -> str | None:
    """The address in $WARMLOOP_RAY_ADDRESS, None where it is not set; raises ConfigError."""
    address = environ.get(ADDRESS_VARIABLE)
    if not address:
        return None
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ConfigError(
            f"{ADDRESS_VARIABLE}: {address!r} is not HOST:PORT of Ray's head, e.g. 10.0.0.5:6379"
        )
    return address


class RayTable:
    """EngineTable over the directory of the cluster at `address`, or of `run_dir`'s run file."""

    def __init__(
        self,
        run_dir: Path,
        *,
        address: str | None = None,
        front: str = "",
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._run_dir = run_dir
        self._address = address
        self._front = front
        self._clock = clock
        self._retry_s = retry_s
        self._grace_s = grace_s
        self._engines: tuple[Engine, ...] = ()
        self.fronts: tuple[str, ...] = ()
        """Front doors that follow the same directory, ours among them."""
        self.queues: Callable[[], Queues] = dict
        """What waits in our front door, for those who decide how many replicas there are."""
        self._heard_s = clock()
        self._answered_s: dict[str, float] = {}
        """When an engine answered by itself since then, by replica."""
        self._task = OwnedTask()
        self._asking = OwnedTask()

    def snapshot(self) -> tuple[Engine, ...]:
        silent_s = self._clock() - self._heard_s
        if silent_s > self._grace_s:
            since_s = self._clock() - self._grace_s
            reason = f"the Ray cluster has not answered for {silent_s:.0f} s"
            self._bury({r for r in self._living() if self._answered_s.get(r, 0) < since_s}, reason)
        return self._engines

    def _living(self) -> list[str]:
        return [engine.replica for engine in self._engines if engine.state != "dead"]

    def _bury(self, replicas: Collection[str], reason: str) -> None:
        if replicas:
            self._engines = tuple(
                replace(e, state="dead", reason=reason) if e.replica in replicas else e
                for e in self._engines
            )

    def hear(self, line: bytes) -> None:
        """Take one line of the feed; raises msgspec.DecodeError."""
        heard = decode(line)
        self._engines, self.fronts = heard.engines, heard.fronts
        self._heard_s = self._clock()
        self._answered_s.clear()

    async def start(self) -> None:
        self._task.start(self._follow, "ray-table")
        self._asking.start(self._ask_engines, "ray-table-engines")

    async def stop(self) -> None:
        await self._asking.stop()
        await self._task.stop()

    async def _ask_engines(self) -> None:
        """While nobody tells of the engines, they are asked."""
        while True:
            await asyncio.sleep(ASK_S)
            if self._clock() - self._heard_s > SILENCE_S:
                await self.ask()

    async def ask(self) -> None:
        """Each engine once, now."""
        heard_s = self._heard_s
        found = await living(self._engines)
        if self._heard_s != heard_s:
            return  # the feed is back, and knows better
        now_s = self._clock()
        self._answered_s |= dict.fromkeys((r for r, lives in found.items() if lives), now_s)
        gone = {replica for replica, lives in found.items() if not lives}
        self._bury(gone, "it refuses connections, and Ray does not answer")

    async def _follow(self) -> None:
        while True:
            if (cluster := self._cluster()) is not None:
                # Whatever ends the feed (Ray gone, killed, nonsense), the answer is another one.
                with contextlib.suppress(TimeoutError, OSError, ValueError, EOFError):
                    await self._listen(cluster)
            await asyncio.sleep(self._retry_s)

    def _cluster(self) -> Cluster | None:
        """The Ray to follow; None while there is none."""
        if self._address is not None:
            return Cluster(self._address, {**os.environ, **import_env()})
        run = read_run_file(self._run_dir)
        # A run file outlives a killed cluster; starting a feed for it would only cost CPU.
        if run is None or not psutil.pid_exists(run.pid):
            return None
        return Cluster(run.address, child_env(run.token_path))

    async def _listen(self, cluster: Cluster) -> None:
        async with _feed(cluster, self._front) as process:
            assert process.stdout and process.stdin  # noqa: S101, PT018 we asked for pipes
            patience_s = self._grace_s  # its start takes some seconds, more on a busy machine
            while True:
                async with asyncio.timeout(patience_s):
                    line = await process.stdout.readline()
                if not line:
                    raise EOFError
                self.hear(line)
                patience_s = SILENCE_S
                process.stdin.write(encode(self.queues()) + b"\n")
                async with asyncio.timeout(patience_s):
                    await process.stdin.drain()


@asynccontextmanager
async def _feed(cluster: Cluster, front: str) -> AsyncIterator[Process]:
    """The feed's process; ended with the block. It also ends when our end of its stdin closes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serving.cluster.directory_feed", "--address", cluster.address),
        *(("--front", front) if front else ()),
        stdin=PIPE,
        stdout=PIPE,
        limit=MAX_LINE_BYTES,
        env=cluster.env,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
