"""Who is asked in the gateway benchmark: our front door, a yardstick, and other people's routers.

    with door("warmloop", urls, log) as it: ...      it.port, it.model, it.cpu_s()

Ours is the real one, in a process of its own: uvicorn over Router over StaticTable, with its logs
written. The yardstick is an aiohttp proxy that decides nothing: about what forwarding costs on this
machine in this minute. The others are the routers of `scripts/setup routers`, started by their own
launchers with their cache-aware policies and their defaults. All of them in the same way: they are
given the engines' URLs, and what they print goes to the log.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp
import psutil
import uvloop
from aiohttp import web
from fastapi import FastAPI

from benchmarks.gateway_client import chat_request, connect
from benchmarks.gateway_engine import CHAT_PATH, MODEL
from router import logs
from router.dispatch import Router
from router.http import api
from router.http import server as serve
from serving.config.stack import StackConfig
from serving.engines.ports import free_port
from serving.tables.discovery import StaticTable

OURS = "warmloop"
YARDSTICK = "yardstick"
ROUTERS_PYTHON = Path(".venv-routers/bin/python")
LAUNCHERS = {
    "vllm-router": ("-m", "vllm_router.launch_router"),
    "sglang-router": ("-m", "sglang_router.launch_router"),
    "smg": ("-m", "smg", "launch"),
}
_READY_S = 60.0


@dataclass(frozen=True)
class Door:
    """A port to send to, and whose."""

    name: str
    port: int
    model: str = MODEL
    process: psutil.Process | None = None

    def cpu_s(self) -> float:
        """CPU time of its processes so far; none for an engine that is asked directly."""
        if self.process is None:
            return 0.0
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in family)


def missing() -> list[str]:
    """Names of the routers that are not installed here."""
    lib = ROUTERS_PYTHON.parent.parent
    return [
        name
        for name in LAUNCHERS
        if not any(lib.glob(f"lib/*/site-packages/{name.replace('-', '_')}"))
    ]


@contextmanager
def child(log: IO[bytes], *arguments: str) -> Iterator[tuple[int, psutil.Process]]:
    """A program of ours that says its port on stdout; ended with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=log
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{arguments[0]} did not start:\n{_tail(log)}")
            yield int(line), psutil.Process(process.pid)
        finally:
            process.terminate()


@contextmanager
def door(name: str, urls: Sequence[str], log: IO[bytes]) -> Iterator[Door]:
    """One of them, ready to answer."""
    if name in LAUNCHERS:
        with _launched(name, urls, log) as found:
            yield found
        return
    with child(log, "benchmarks.gateway_doors", name, *urls) as (port, process):
        # `auto` is what makes every decision necessary, and the alias rewrite.
        found = Door(name, port, "auto" if name == OURS else MODEL, process)
        _wait_ready(found, log)
        yield found


@contextmanager
def _launched(name: str, urls: Sequence[str], log: IO[bytes]) -> Iterator[Door]:
    port = free_port()
    argv = [str(ROUTERS_PYTHON), *LAUNCHERS[name], "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--worker-urls", *urls, "--policy", "cache_aware"]
    argv += ["--prometheus-port", str(free_port())]
    with subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            found = Door(name, port, process=psutil.Process(process.pid))
            _wait_ready(found, log)
            yield found
        finally:
            process.kill()  # asked kindly, they wait for seconds, some for connections to end


def _wait_ready(found: Door, log: IO[bytes]) -> None:
    """They listen before they have found their engines: ask until a chat is answered."""
    raw = chat_request(found.model, [{"role": "user", "content": "are you there?"}])

    async def ask() -> int:
        with contextlib.suppress(OSError):
            client = await connect(found.port)
            try:
                return (await client.request(raw)).status
            finally:
                client.close()
        return 0

    deadline = time.monotonic() + _READY_S
    while uvloop.run(ask()) != 200:
        if time.monotonic() > deadline:
            raise SystemExit(f"{found.name} did not answer within {_READY_S:.0f} s:\n{_tail(log)}")
        time.sleep(0.2)


def _tail(log: IO[bytes]) -> str:
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace")


# What runs in the children


def run_front_door(urls: Sequence[str]) -> None:
    """Our front door, as `warmloop up` starts it."""
    model = {"engine": "external", "urls": [*urls], "served_name": MODEL}
    config = StackConfig.model_validate({"models": {"bench": model}})
    logs.install()
    table = StaticTable(config)
    router = Router(config, table)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await table.start()
        await router.start()
        yield
        await router.stop()
        await table.stop()

    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    _say_port(listening.getsockname()[1])
    server = serve.server(api.build(router, lifespan=lifespan), config.front)
    server.run(sockets=[listening])


def run_yardstick(engine_url: str) -> None:
    """A proxy of aiohttp's server and client, and nothing between them."""
    engine = web.AppKey("engine", aiohttp.ClientSession)

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"content-type": "application/json"}
        async with request.app[engine].post(
            engine_url + CHAT_PATH, data=body, headers=headers
        ) as answer:
            if answer.content_length is not None:
                return web.Response(body=await answer.read(), content_type="application/json")
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            async for chunk in answer.content.iter_any():
                await stream.write(chunk)
            return stream

    async def main() -> None:
        app = web.Application()
        app[engine] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        )
        app.router.add_post(CHAT_PATH, forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        await web.SockSite(runner, listening).start()
        _say_port(listening.getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(main())


def _say_port(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_doors")
    parser.add_argument("name", choices=(OURS, YARDSTICK))
    parser.add_argument("urls", nargs="+")
    options = parser.parse_args()
    if options.name == OURS:
        run_front_door(options.urls)
    else:
        run_yardstick(options.urls[0])


if __name__ == "__main__":
    main()
