"""The programs of the gateway benchmark: a trivial engine, our front door, a yardstick, a client.

Engine and client are bare protocols on uvloop: what they cost is in all columns, and the less
that is, the more of the difference is ours. The front door is the real one: uvicorn with uvloop and
httptools over Router over StaticTable, with its logs written. The yardstick is an aiohttp proxy
that decides nothing: about what forwarding costs on this machine in this minute.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from fastapi import FastAPI

from router import api, logs
from router import server as serve
from router.dispatch import Router
from serving.config import StackConfig
from serving.discovery import StaticTable

CHAT_PATH = "/v1/chat/completions"
EVENTS = 33

_USAGE = {
    "prompt_tokens": 5000,
    "completion_tokens": 32,
    "total_tokens": 5032,
    "prompt_tokens_details": {"cached_tokens": 4992},
}
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "bench-engine",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "forty-two " * 32},
            }
        ],
        "usage": _USAGE,
    }
).encode()
_WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(_ANSWER)
) + _ANSWER
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _event(data: bytes) -> bytes:
    text = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(text), text)


def _stream_parts() -> list[bytes]:
    def chunk(**fields: object) -> bytes:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "bench-engine"}
        return _event(json.dumps({**head, **fields}).encode())

    word = [{"index": 0, "delta": {"content": "forty-two "}, "finish_reason": None}]
    parts = [chunk(choices=word) for _ in range(EVENTS - 2)]
    return [*parts, chunk(choices=[], usage=_USAGE), _event(b"[DONE]"), b"0\r\n\r\n"]


class _Engine(asyncio.Protocol):
    """Answers every POST with the same completion, whole or as one event a loop iteration."""

    _parts = _stream_parts()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit
        self._loop = asyncio.get_running_loop()
        self._got = bytearray()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head_end = self._got.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._got[:head_end]).lower()
        if head.startswith(b"get "):  # it is watched, and has neither a model list nor metrics
            self._got.clear()
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._got) < head_end + 4 + length:
            return
        stream = b'"stream":true' in self._got[head_end : head_end + 200]
        self._got.clear()
        if stream:
            self._transport.write(_STREAM_HEAD)
            self._send(0)
        else:
            self._transport.write(_WHOLE)

    def _send(self, i: int) -> None:
        self._transport.write(self._parts[i])
        if i + 1 < len(self._parts):
            self._loop.call_soon(self._send, i + 1)


def run_engine() -> None:
    """The engine process: says its port on stdout, and serves until it is terminated."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Engine, "127.0.0.1", 0)
        _say_port(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def run_front_door(engine_url: str) -> None:
    """The front door process, as `warmloop up` starts it."""
    model = {"engine": "external", "urls": [engine_url], "served_name": "bench-engine"}
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


class Timing(msgspec.Struct):
    """One request as its client saw it, in seconds."""

    first_byte_s: float
    total_s: float
    longest_gap_s: float
    status: int


class Client(asyncio.Protocol):
    """One keep-alive connection that sends prepared bytes and times the pieces of the answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit
        self._done: asyncio.Future[Timing] | None = None

    async def request(self, raw: bytes) -> Timing:
        self._done = asyncio.get_running_loop().create_future()
        self._head_end = -1
        self._length: int | None = None
        self._got = bytearray()
        self._first = self._last = self._gap = 0.0
        self._started = time.perf_counter()
        self._transport.write(raw)
        return await self._done

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._got += data
        if self._head_end < 0:
            self._read_head()
        if self._head_end < 0 or len(self._got) == self._head_end:
            return
        if not self._first:
            self._first = now
        else:
            self._gap = max(self._gap, now - self._last)
        self._last = now
        if self._ended():
            assert self._done is not None
            status = int(self._got[9:12])
            self._done.set_result(
                Timing(self._first - self._started, now - self._started, self._gap, status)
            )

    def _read_head(self) -> None:
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        self._head_end = end + 4
        head = bytes(self._got[:end]).lower()
        if b"content-length:" in head:
            self._length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])

    def _ended(self) -> bool:
        if self._length is not None:
            return len(self._got) - self._head_end >= self._length
        return self._got.endswith(b"0\r\n\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        self._transport.close()


async def connect(port: int) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    return client


def request_bytes(model: str, session: int, *, size: int, stream: bool) -> bytes:
    """A chat request whose body has about `size` bytes: a system prompt and 20 turns."""
    text = "The quick brown fox jumps over the lazy dog. " * (size // 21 // 45)
    messages = [{"role": "system", "content": text}]
    for i in range(20):
        role = "user" if i % 2 == 0 else "assistant"
        messages.append({"role": role, "content": f"{session}.{i} {text}"})
    body = json.dumps(
        {"stream": stream, "model": model, "messages": messages, "temperature": 0},
        separators=(",", ":"),
    ).encode()
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer none\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
