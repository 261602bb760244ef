"""Streams of a real engine that are cut on their way, and go on from their text.

At temperature 0 the answer is the one that was not cut, where the model is sure.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from serving.tables.base import EngineKind
from tests.integration.conftest import RealEngine
from tests.integration.engines_behaving_badly import front_door
from tests.unit.fakes import engine

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages")

COUNT = " ".join(str(n) for n in range(1, 40))


class CuttingProxy:
    """Passes bytes to an engine; aborts the next answer that is a stream after so many bytes."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self.cut_after = 0
        self.cuts = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CuttingProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_engine = await asyncio.open_connection(self._host, self._port)
        sending = asyncio.ensure_future(self._pass(reader, to_engine))
        try:
            await self._answers(upstream, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the front door has left, or the test is over
        finally:
            sending.cancel()
            writer.transport.abort()
            to_engine.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streamed = 0
        while data := await reader.read(65536):
            if data.startswith(b"HTTP/1.1 "):
                streamed = 0
            streamed += len(data) if streamed or b"text/event-stream" in data else 0
            if self.cut_after and streamed > self.cut_after:
                writer.write(data[: len(data) // 2])
                self.cut_after = 0
                self.cuts += 1
                return
            writer.write(data)


def events(body: bytes) -> list[dict[str, Any]]:
    datas = [block.partition(b"data: ")[2] for block in body.split(b"\n\n")]
    return [json.loads(data) for data in datas if data.startswith(b"{")]


def text_of(body: bytes) -> str:
    return "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or ""
        for event in events(body)
        for choice in event.get("choices") or [event.get("delta") or {}]
    )


def counted(body: bytes) -> tuple[int, int]:
    """The prompt's tokens and the output's, by the last usage of the stream."""
    usage = [event["usage"] for event in events(body) if event.get("usage")][-1]
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], usage["completion_tokens"]
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    start = events(body)[0]["message"]["usage"]  # where SGLang tells the prompt's tokens
    prompt = [sum(each.get(part) or 0 for part in parts) for each in (usage, start)]
    return prompt[0] or prompt[1], usage["output_tokens"]


async def goes_on_where_it_is_cut(
    real: RealEngine, kind: EngineKind, path: str, places: Sequence[int], max_tokens: int
) -> None:
    """One answer, cut at each of these places in turn, is each time as if uncut."""
    request: dict[str, Any] = {
        "model": "big",
        "stream": True,
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    if path != "/v1/messages":
        request["stream_options"] = {"include_usage": True}
    # Counting: where two words are nearly as likely, this model says now one and now the other,
    # uncut as well, as soon as its prompt is cached.
    if path == "/v1/completions":
        request["prompt"] = COUNT
    else:
        asked = {"role": "user", "content": "Go on counting."}
        request["messages"] = [asked, {"role": "assistant", "content": COUNT}, asked]
    async with CuttingProxy(real.url).running() as proxy:
        replicas = [
            engine(f"big-{i}", url=proxy.url, served_name=real.model, kind=kind) for i in range(2)
        ]
        async with front_door(*replicas, router={"eject_s": 0.01}) as front:

            async def ask(cut_after: int = 0) -> bytes:
                proxy.cut_after = cut_after
                async with front.post(request, path) as response:
                    return bytes(await response.read())

            whole = await ask()
            print(repr(text_of(whole)), counted(whole))
            for place in places:
                body = await ask(place)
                first = text_of(body.split(b": warmloop continued on big-")[0])
                print(place, len(first), repr(text_of(body)), counted(body))
                assert body.count(b": warmloop continued on big-") == 1
                assert b'"error"' not in body
                _has_one_head(path, body, whole)
                assert 0 < len(first) < len(text_of(whole))
                assert text_of(body) == text_of(whole)
                assert counted(body) == counted(whole)
            assert proxy.cuts == len(places)


def _has_one_head(path: str, body: bytes, whole: bytes) -> None:
    if path == "/v1/messages":
        kinds = [[e["type"] for e in events(each)] for each in (whole, body)]
        assert list(dict.fromkeys(kinds[0])) == list(dict.fromkeys(kinds[1]))
        ends = [events(each)[-2]["delta"]["stop_reason"] for each in (whole, body)]
        assert ends[0] == ends[1]
    else:
        heads = {(e["id"], e["created"], e["model"]) for e in events(body)}
        assert len(heads) == 1
