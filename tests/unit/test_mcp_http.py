"""What is done about an MCP server over HTTP that takes requests, and then says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from orchestrator.mcp.http import Candid

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
    transport = Candid(httpx2.AsyncHTTPTransport(), answer_s=0.2)
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
