"""Latency benchmark, the client: one streamed request, and when its events came.

    asked, last = await responses(http, url, body)       the stack: its Response object at the end
    asked, usage = await chat(http, url, body, headers)  an engine: its usage

Both in the same way, by the same client: an event's time is that of the read that completed it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec

from benchmarks.latency_budget import Asked
from serving.protocol import CHAT, SseSplitter

LAST = ("response.completed", "response.incomplete", "response.failed")
_JSON = {"content-type": "application/json"}
_decode = msgspec.json.Decoder().decode


async def responses(
    http: aiohttp.ClientSession, front: str, body: bytes
) -> tuple[Asked, dict[str, Any]]:
    """A response of the stack. Raises SystemExit where it fails."""
    first = text = ended = 0.0
    response: dict[str, Any] = {}
    sent = time.time()
    async for now, data in _events(http, f"{front}/v1/responses", body, {}):
        first = first or now
        event = _decode(data)
        if event["type"] == "response.output_text.delta":
            text = text or now
        elif event["type"] in LAST:
            ended, response = now, event["response"]
    if not response or response["status"] == "failed":
        raise SystemExit(f"the stack did not answer: {response.get('error')}")
    return Asked(sent, first, text or None, ended), response


async def chat(
    http: aiohttp.ClientSession, engine: str, body: bytes, headers: Mapping[str, str]
) -> tuple[Asked, dict[str, Any]]:
    """A chat completion of an engine. Raises SystemExit where it fails."""
    first = text = ended = 0.0
    usage: dict[str, Any] = {}
    sent = time.time()
    async for now, data in _events(http, engine + CHAT, body, headers):
        first = first or now
        if data == b"[DONE]":
            ended = now
            continue
        event = _decode(data)
        usage = event.get("usage") or usage
        if any((choice.get("delta") or {}).get("content") for choice in event.get("choices", ())):
            text = text or now
    if not ended or not usage:
        raise SystemExit("the engine's stream ended early, or without its usage")
    return Asked(sent, first, text or None, ended), usage


async def _events(
    http: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]
) -> AsyncIterator[tuple[float, bytes]]:
    async with http.post(url, data=body, headers={**_JSON, **headers}) as answer:
        if answer.status != 200:
            raise SystemExit(f"{url} answered {answer.status}: {(await answer.text())[:500]}")
        splitter = SseSplitter()
        async for piece in answer.content.iter_any():
            now = time.time()
            for event in splitter.feed(piece):
                yield now, event.data
