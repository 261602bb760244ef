"""What leaves the front door in how many writes: each is a call to the system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from router.http.wire import Exchange, Forwarding
from router.tenancy.access import Access
from router.turn import Decision, Dispatched, TurnRequest
from serving.config.stack import StackConfig

CONFIG = StackConfig.model_validate({"models": {"m": {"engine": "external", "urls": ["http://e"]}}})
SSE = {"content-type": "text/event-stream"}


class Answer:
    status = 200
    decision = Decision("m", "m-0", "http://e", "hash")

    def __init__(self, headers: Mapping[str, str], *chunks: bytes, late: bool) -> None:
        self.headers = headers
        self._chunks = chunks
        self._late = late

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            if self._late:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            yield chunk


class Turns:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @asynccontextmanager
    async def open(self, turn: TurnRequest) -> AsyncGenerator[Dispatched]:
        yield self._answer


class Wire:
    full = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    async def drain(self) -> None:
        raise AssertionError("it is never full")

    def common_headers(self) -> str:
        return ""

    def ended(self, exchange: Exchange, *, close: bool) -> None:
        pass


async def writes(headers: Mapping[str, str], *chunks: bytes, late: bool = False) -> list[bytes]:
    turns = Turns(Answer(headers, *chunks, late=late))
    forwarding = Forwarding(turns, CONFIG, lambda _: None, Access(CONFIG))
    wire = Wire()
    path = "/v1/chat/completions"
    exchange = Exchange(wire, forwarding, b"POST", path, [], http_1_1=True, keep_alive=True)
    exchange.feed(b"{}")
    await exchange.start(asyncio.get_running_loop())
    return wire.writes


async def test_a_whole_answer_leaves_in_one_write() -> None:
    [only] = await writes({"content-length": "5"}, b"hello")
    assert only.startswith(b"HTTP/1.1 200")
    assert only.endswith(b"\r\n\r\nhello")


async def test_an_empty_answer_has_its_head() -> None:
    [only] = await writes({"content-length": "0"})
    assert only.endswith(b"\r\n\r\n")


async def test_a_streams_head_leaves_with_its_first_chunk() -> None:
    first, second, end = await writes(SSE, b"data: 1\n\n", b"data: 2\n\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n")
    assert second == b"9\r\ndata: 2\n\n\r\n"
    assert end == b"0\r\n\r\n"


async def test_a_streams_head_does_not_wait_for_a_chunk_that_is_late() -> None:
    head, chunk, _ = await writes(SSE, b"data: 1\n\n", late=True)
    assert head.endswith(b"\r\n\r\n")
    assert chunk == b"9\r\ndata: 1\n\n\r\n"
