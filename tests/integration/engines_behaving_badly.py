"""Local engines that do what a test says, down to the byte, and the front door before them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from fastapi import APIRouter

from router.dispatch import Router
from router.http import api
from router.http import server as serve
from router.turn import Turns
from serving.tables.base import Engine
from tests.unit.fakes import FakeTable, engine, stack

PATIENCE_S = 20.0
"""For what must happen; a machine under load needs it, a passing test does not."""


@dataclass
class Exchange:
    """One request as the engine got it, and the means to answer it."""

    head: str
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}"]
        fields = {"content-type": "application/json"}
        fields.update({k.replace("_", "-"): v for k, v in headers.items()})
        lines += [f"{k}: {v}" for k, v in fields.items()]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def begin_stream(self) -> None:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked"
        await self.send(head.encode() + b"\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """Close at once, whatever has been sent."""
        self.writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]


class LocalEngine:
    """A keep-alive HTTP server that answers each request by its behaviour."""

    def __init__(self, behave: Behaviour, *, close_after: bool = False) -> None:
        self.behave = behave
        self.seen: list[Exchange] = []
        self.active = 0
        self.port = 0
        self._close_after = close_after
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        exchange = Exchange(head, await reader.readexactly(length), writer, asyncio.Event())
        self.seen.append(exchange)
        self.active += 1

        async def listen() -> None:
            try:
                if not await reader.read(1):
                    exchange.gone.set()
            except ConnectionError:
                exchange.gone.set()

        behaving = asyncio.ensure_future(self.behave(exchange))
        listening = asyncio.ensure_future(listen())
        try:
            await asyncio.wait((behaving, listening), return_when=asyncio.FIRST_COMPLETED)
            if exchange.gone.is_set():
                behaving.cancel()
                return False
            await behaving
            return not self._close_after
        finally:
            self.active -= 1
            for part in (behaving, listening):
                part.cancel()
            await asyncio.gather(behaving, listening, return_exceptions=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LocalEngine]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in [*self._tasks]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()


@dataclass
class Front:
    """A front door that listens, with a client before it."""

    url: str
    router: Router
    table: FakeTable
    http: aiohttp.ClientSession
    log: list[dict[str, Any]] = field(default_factory=list)

    def post(self, body: Any, path: str = "/v1/chat/completions", **options: Any) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(self.url + path, data=data, **options)

    def get(self, path: str) -> Any:
        return self.http.get(self.url + path)


@asynccontextmanager
async def front_door(
    *engines: LocalEngine | Engine,
    turns: Turns | None = None,
    extra_routes: tuple[APIRouter, ...] = (),
    served_name: str = "big",
    keep_alive_s: int = round(PATIENCE_S),
    **sections: Any,
) -> AsyncIterator[Front]:
    """Starts the engines and a real uvicorn before them; `sections` are of the configuration."""
    async with AsyncExitStack() as running:
        table = FakeTable()
        entries = []
        for i, each in enumerate(engines):
            if isinstance(each, LocalEngine):
                await running.enter_async_context(each.running())
                each = engine(f"big-{i}", url=each.url, served_name=served_name)  # noqa: PLW2901
            entries.append(each)
        table.set(*entries)
        front = stack(**{"front": {"port": 0}, **sections})
        log: list[dict[str, Any]] = []
        router = Router(front, table, sink=lambda line: log.append(json.loads(line)))
        await router.start()
        running.push_async_callback(router.stop)
        # Test and server share a loop: where it gets no CPU for seconds, a connection that idles
        # must not be closed under the next request.
        server = serve.server(
            api.build(router, turns=turns, extra_routes=extra_routes),
            front.front,
            timeout_keep_alive=keep_alive_s,
        )
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)

        async def end() -> None:
            server.should_exit = True
            await serving

        running.push_async_callback(end)
        port = server.servers[0].sockets[0].getsockname()[1]
        http = await running.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        )
        yield Front(f"http://127.0.0.1:{port}", router, table, http, log)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something that nobody announces has come true."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  see above
            await asyncio.sleep(0.001)
