"""The forwarding routes, byte by byte: what a client may do to the HTTP below them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from router.turn import TurnRequest
from tests.integration.engines_behaving_badly import (
    PATIENCE_S,
    Exchange,
    Front,
    LocalEngine,
    front_door,
    until,
)

CHAT = "/v1/chat/completions"
EVENT = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'


def body(text: str, **fields: Any) -> bytes:
    return json.dumps(
        {"model": "big", "messages": [{"role": "user", "content": text}], **fields}
    ).encode()


def post(text: str, *headers: str, version: str = "1.1") -> bytes:
    said = body(text)
    lines = [f"POST {CHAT} HTTP/{version}", "host: x", f"content-length: {len(said)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + said


async def echoes(exchange: Exchange) -> None:
    """The user's words come back in the answer."""
    words = json.loads(exchange.body)["messages"][0]["content"]
    await exchange.answer(json.dumps({"said": words}).encode())


async def hangs(exchange: Exchange) -> None:
    await exchange.gone.wait()


class Raw:
    """A client that writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()

    async def answer(self) -> tuple[int, str, Any]:
        """Status, head and body of one whole answer."""
        head = await self.head()
        length = int(re.findall(r"content-length: (\d+)", head)[0])
        async with asyncio.timeout(PATIENCE_S):
            said = await self.reader.readexactly(length)
        return int(head.split()[1]), head, json.loads(said)

    async def rest(self) -> bytes:
        """All that comes until the connection is closed."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()


@asynccontextmanager
async def raw(front: Front) -> AsyncIterator[Raw]:
    host, port = front.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


async def test_requests_in_a_row_without_waiting_are_answered_in_their_order() -> None:
    late = asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        if b"first" in exchange.body:
            await late.wait()
        await echoes(exchange)

    local = LocalEngine(behave)
    async with front_door(local) as front, raw(front) as client:
        models = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
        client.write(post("first") + post("second") + models + post("third"))
        await until(lambda: len(local.seen) == 1)
        late.set()
        assert (await client.answer())[2] == {"said": "first"}
        assert (await client.answer())[2] == {"said": "second"}
        assert (await client.answer())[2]["object"] == "list"
        assert (await client.answer())[2] == {"said": "third"}
        assert len(local.seen) == 3


async def test_a_body_may_come_in_chunks_and_in_pieces() -> None:
    async with front_door(LocalEngine(echoes)) as front, raw(front) as client:
        said = body("in chunks")
        client.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n".encode())
        client.write(b"\r\n")
        for i in range(0, len(said), 7):
            piece = said[i : i + 7]
            client.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        client.write(b"0\r\n\r\n")
        assert (await client.answer())[2] == {"said": "in chunks"}


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with front_door(LocalEngine(echoes)) as front, raw(front) as client:
        whole = post("please", "expect: 100-continue")
        head, _, said = whole.partition(b"\r\n\r\n")
        for _ in range(2):
            client.write(head + b"\r\n\r\n")
            assert (await client.head()).startswith("http/1.1 100 continue")
            client.write(said)
            assert (await client.answer())[2] == {"said": "please"}


async def test_a_client_that_asks_first_with_too_much_is_refused_before_it_sends() -> None:
    limit = {"port": 0, "max_body_bytes": 1024}
    async with front_door(LocalEngine(echoes), front=limit) as front, raw(front) as client:
        client.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1500\r\n".encode())
        client.write(b"expect: 100-continue\r\n\r\n")
        status, head, said = await client.answer()
        assert (status, said["error"]["code"]) == (413, "request_too_large")
        assert "connection: close" in head
        assert await client.rest() == b""


async def test_a_small_excess_is_read_to_its_end_before_it_is_refused() -> None:
    limit = {"port": 0, "max_body_bytes": 1024}
    async with front_door(LocalEngine(echoes), front=limit) as front, raw(front) as client:
        client.write(post("x" * 1200))
        assert (await client.answer())[0] == 413
        assert await client.rest() == b""
        assert front.log[0]["error"] == "request_too_large"


@pytest.mark.parametrize(
    ("version", "header"), [("1.1", "connection: close"), ("1.0", "accept: */*")]
)
async def test_a_connection_is_closed_where_the_client_wants_it(version: str, header: str) -> None:
    async with front_door(LocalEngine(echoes)) as front, raw(front) as client:
        client.write(post("bye", header, version=version))
        status, head, said = await client.answer()
        assert (status, said) == (200, {"said": "bye"})
        assert "connection: close" in head
        assert await client.rest() == b""


async def test_a_stream_for_http_1_0_is_not_chunked_and_ends_with_its_connection() -> None:
    async def streams(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(EVENT)
        await exchange.chunk(EVENT)
        await exchange.end_stream()

    async with front_door(LocalEngine(streams)) as front, raw(front) as client:
        client.write(post("old", version="1.0"))
        assert "transfer-encoding" not in await client.head()
        assert await client.rest() == EVENT * 2


async def test_head_is_a_wrong_method_without_a_body() -> None:
    async with front_door(LocalEngine(echoes)) as front, raw(front) as client:
        client.write(f"HEAD {CHAT} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = await client.head()
        assert head.startswith("http/1.1 405")
        assert "allow: post" in head
        client.write(post("still open"))
        assert (await client.answer())[2] == {"said": "still open"}


@pytest.mark.parametrize(
    "target", [f"{CHAT}?beta=true", "/v1/chat%2Fcompletions", f"http://x{CHAT}"]
)
async def test_a_route_is_found_however_its_path_is_written(target: str) -> None:
    async with front_door(LocalEngine(echoes)) as front, raw(front) as client:
        client.write(post("there").replace(CHAT.encode(), target.encode(), 1))
        assert (await client.answer())[2] == {"said": "there"}


async def test_an_idle_connection_is_closed_after_a_while_and_a_busy_one_is_not() -> None:
    async def thinks(exchange: Exchange) -> None:
        if b"slowly" in exchange.body:  # for longer than a connection may idle
            await asyncio.sleep(1.2)
        await echoes(exchange)

    async with front_door(LocalEngine(thinks), keep_alive_s=1) as front, raw(front) as client:
        for words in ("at once", "slowly", "at once"):
            client.write(post(words))
            assert (await client.answer())[2] == {"said": words}
        assert await client.rest() == b""


async def test_what_waited_behind_a_client_that_left_is_never_asked() -> None:
    local = LocalEngine(hangs)
    async with front_door(local) as front:
        async with raw(front) as client:
            client.write(post("one") + post("two"))
            await until(lambda: local.active == 1)
        await asyncio.wait_for(local.seen[0].gone.wait(), PATIENCE_S)
        await until(lambda: len(front.log) == 1)
        assert front.log[0]["error"] == "hung_up"
        assert len(local.seen) == 1


async def test_a_client_that_leaves_in_mid_body_costs_nothing() -> None:
    local = LocalEngine(echoes)
    async with front_door(local) as front:
        async with raw(front) as client:
            client.write(post("half")[:-10])
        async with raw(front) as client:
            client.write(post("whole"))
            assert (await client.answer())[2] == {"said": "whole"}
        assert len(local.seen) == 1


async def test_a_client_that_does_not_read_makes_the_engine_wait() -> None:
    sent = 0

    async def floods(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.begin_stream()
        while not exchange.gone.is_set():
            await exchange.chunk(b": " + b"x" * 65536 + b"\n\n")
            sent += 65536
            await asyncio.sleep(0)

    local = LocalEngine(floods)
    async with front_door(local) as front:
        async with raw(front) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.write(post("slow"))
            before = -1
            while sent == 0 or sent != before:
                before = sent
                await asyncio.sleep(0.3)
            assert sent < 64 * 2**20  # what sockets and buffers hold, and no more
        await asyncio.wait_for(local.seen[0].gone.wait(), PATIENCE_S)


async def test_a_stream_that_outlives_the_drain_ends_with_an_error_event() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(EVENT)
        await exchange.gone.wait()

    async with AsyncExitStack() as after:
        async with front_door(LocalEngine(behave), front={"port": 0, "drain_s": 0.1}) as front:
            client = await after.enter_async_context(raw(front))
            client.write(post("long"))
            await client.head()
        assert b"the front door is being stopped" in await client.rest()


async def test_an_answer_that_would_break_the_protocol_is_a_500() -> None:
    class Splits:
        def open(self, turn: TurnRequest) -> Any:
            @asynccontextmanager
            async def answer() -> AsyncIterator[Any]:
                class Answer:
                    status = 200
                    headers = {"x-warmloop-decision": "a\r\nset-cookie: b"}  # noqa: RUF012

                yield Answer()

            return answer()

    async with front_door(turns=Splits()) as front, raw(front) as client:
        client.write(post("split"))
        status, head, _ = await client.answer()
        assert status == 500
        assert "set-cookie" not in head
