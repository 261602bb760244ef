"""What is done about an MCP server over HTTP that says nothing, or more than anybody can hold."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest

from orchestrator.mcp.http import REFUSED, Candid

ASKED = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}


@asynccontextmanager
async def frozen() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of ours, of a server that never answers."""
    over = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    transport = Candid(httpx2.AsyncHTTPTransport(), answer_s=0.2, max_message_bytes=4096)
    try:
        async with httpx2.AsyncClient(
            base_url=url,
            headers={"accept": "application/json, text/event-stream"},
            transport=transport,
            timeout=None,
        ) as client:
            yield client
    finally:
        over.set()
        server.close()


async def test_a_goodbye_to_a_frozen_server_comes_to_an_end() -> None:
    async with frozen() as client, asyncio.timeout(10):
        with pytest.raises(httpx2.ReadTimeout):
            await client.delete("/mcp")


async def test_a_message_that_wants_no_answer_holds_up_the_next_one_for_a_while_only() -> None:
    async with frozen() as client, asyncio.timeout(10):
        for message in (
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
            {"jsonrpc": "2.0", "id": 7, "result": {}},
        ):
            assert (await client.post("/mcp", json=message)).status_code == 502
        with pytest.raises(TimeoutError):  # calls have limits of their own, above
            async with asyncio.timeout(0.6):
                await client.post("/mcp", json=ASKED)


class Endless(httpx2.AsyncByteStream):
    """A body without an end; counts what was taken of it."""

    def __init__(self) -> None:
        self.pieces = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.pieces += 1
            yield b"x" * 1024

    async def aclose(self) -> None:
        self.closed = True


async def asked(answer: Callable[[httpx2.Request], httpx2.Response]) -> httpx2.Response:
    transport = Candid(httpx2.MockTransport(answer), answer_s=1, max_message_bytes=4096)
    async with httpx2.AsyncClient(transport=transport) as client:
        return await client.post("http://h/mcp", json=ASKED)


async def test_an_answer_without_an_end_is_read_to_the_limit_and_the_error_names_it() -> None:
    body = Endless()
    headers = {"content-type": "application/json"}
    response = await asked(lambda _: httpx2.Response(200, headers=headers, stream=body))
    said = response.json()["error"]
    assert said["message"] == "its answer has more than 4096 bytes (max_message_bytes)"
    assert said["code"] == REFUSED
    assert body.closed
    assert body.pieces < 10


@pytest.mark.parametrize(("size", "status"), [(4000, 200), (5000, 502), (10_000_000, 502)])
async def test_a_packed_answer_is_measured_as_it_is_unpacked(size: int, status: int) -> None:
    packed = httpx2.ByteStream(gzip.compress(b"x" * size))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = await asked(lambda _: httpx2.Response(200, headers=headers, stream=packed))
    assert response.status_code == status
    if status == 200:
        assert response.content == b"x" * size


async def test_an_answer_that_cannot_be_unpacked_fails_its_call_only() -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    body = httpx2.ByteStream(b"no gzip")
    response = await asked(lambda _: httpx2.Response(200, headers=headers, stream=body))
    assert response.json()["error"]["message"].startswith("its answer cannot be decoded")


async def test_events_are_passed_on_as_they_come() -> None:
    body = Endless()
    headers = {"content-type": "text/event-stream"}
    transport = Candid(
        httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, stream=body)),
        answer_s=1,
        max_message_bytes=4096,
    )
    async with (
        httpx2.AsyncClient(transport=transport) as client,
        client.stream("POST", "http://h/mcp", json=ASKED) as response,
    ):
        assert body.pieces == 0
        assert response.status_code == 200
