"""RayTable: the engines of a Ray cluster, as the directory's feed tells them.

    run file (cluster.json) ── says where Ray is ──▶ feed process ── lines ──▶ snapshot
          ▲ not there yet: look again            │ it ends, or is silent: start it again
          └──────────────────────────────────────┘

The last snapshot is believed while the feed is away, but only for a grace period: then all of it
counts as dead, with the reason. So a front door that lost Ray goes on serving for a moment, and
never for long from a list that nobody keeps true. This process never imports Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from serving.directory import decode
from serving.run_file import RunFile, child_env, read_run_file
from serving.table import Engine

RETRY_S = 1.0
SILENCE_S = 5.0
"""The feed prints a line each second; a busy machine may delay some."""
GRACE_S = 30.0
"""How long the last snapshot is believed without a feed: about what it takes to start one anew."""
MAX_LINE_BYTES = 8 * 2**20


class RayTable:
    """EngineTable over the directory of the cluster that `run_dir`'s run file names."""

    def __init__(
        self,
        run_dir: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._retry_s = retry_s
        self._grace_s = grace_s
        self._engines: tuple[Engine, ...] = ()
        self._heard_s = clock()
        self._task: asyncio.Task[None] | None = None

    def snapshot(self) -> tuple[Engine, ...]:
        silent_s = self._clock() - self._heard_s
        if silent_s > self._grace_s and any(e.state != "dead" for e in self._engines):
            reason = f"the Ray cluster has not answered for {silent_s:.0f} s"
            self._engines = tuple(replace(e, state="dead", reason=reason) for e in self._engines)
        return self._engines

    def hear(self, line: bytes) -> None:
        """Take one line of the feed; raises msgspec.DecodeError."""
        self._engines = decode(line).engines
        self._heard_s = self._clock()

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="ray-table")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        while True:
            run = read_run_file(self._run_dir)
            # A run file outlives a killed cluster; starting a feed for it would only cost CPU.
            if run is not None and psutil.pid_exists(run.pid):
                # Whatever ends the feed (Ray gone, killed, nonsense), the answer is another one.
                with contextlib.suppress(TimeoutError, OSError, ValueError, EOFError):
                    await self._listen(run)
            await asyncio.sleep(self._retry_s)

    async def _listen(self, run: RunFile) -> None:
        async with _feed(run) as process:
            assert process.stdout is not None  # noqa: S101 for the type checker: we asked for a pipe
            patience_s = self._grace_s  # its start takes some seconds, more on a busy machine
            while True:
                async with asyncio.timeout(patience_s):
                    line = await process.stdout.readline()
                if not line:
                    raise EOFError
                self.hear(line)
                patience_s = SILENCE_S


@asynccontextmanager
async def _feed(run: RunFile) -> AsyncIterator[Process]:
    """The feed's process; ended with the block. It also ends when our end of its stdin closes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serving.directory_feed", "--address", run.address),
        stdin=PIPE,
        stdout=PIPE,
        limit=MAX_LINE_BYTES,
        env=child_env(run.token_path),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
