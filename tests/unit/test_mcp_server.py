"""One configured MCP server over links that the test makes: when it is connected again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.clock import SystemClock
from orchestrator.loop.events import ResponseAccepted
from orchestrator.loop.state import State
from orchestrator.mcp.failures import NotSent, ServerLost, TimedOut
from orchestrator.mcp.listing import ListingFile
from orchestrator.mcp.server import McpServer
from orchestrator.mcp.tools import McpTools
from serving.config.mcp import McpServerConfig
from serving.errors import Unavailable


class FrozenLink:
    """Lists its tools, and never answers a call."""

    server, version, protocol = "frozen", "1", "2025-06-18"

    def __init__(self) -> None:
        self.broken = asyncio.Event()
        self.listed: list[dict[str, Any]] = []

    async def tools(self) -> list[dict[str, Any]]:
        return self.listed

    async def watch(self, changed: Callable[[], None]) -> None:
        pass

    async def call(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()


async def test_a_server_that_is_silent_until_its_breaker_opens_is_connected_again(
    tmp_path: Path,
) -> None:
    opened: list[FrozenLink] = []

    @asynccontextmanager
    async def open_link(_: Callable[[], None]) -> AsyncIterator[Any]:
        opened.append(FrozenLink())
        yield opened[-1]

    config = McpServerConfig.model_validate({"command": "x", "breaker": {"failures": 2}})
    server = McpServer("docs", config, open_link, ListingFile(tmp_path / "docs.json"))
    server.start()
    try:
        async with asyncio.timeout(20):
            for broken in (False, True):
                with pytest.raises(TimedOut):
                    await server.call("find", {}, timeout_s=0.2)
                assert opened[0].broken.is_set() == broken
            while len(opened) < 2:  # noqa: ASYNC110 another task's doing has no event
                await asyncio.sleep(0.01)
    finally:
        await server.stop()


class Servers(dict[str, McpServer]):
    first_list_wait_s = 0.0


async def test_why_a_server_is_down_is_for_the_operator_and_not_for_callers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def open_link(_: Callable[[], None]) -> AsyncIterator[Any]:
        raise ServerLost("its last words: hush")
        yield

    config = McpServerConfig.model_validate({"command": "x"})
    server = McpServer("docs", config, open_link, ListingFile(tmp_path / "docs.json"))
    server.start()
    try:
        await server.settled()
        with pytest.raises(NotSent, match=r"^it is (down|connecting)$"):
            await server.call("find", {}, timeout_s=0.1)
        tools = McpTools(cast(Any, Servers(docs=server)), SystemClock())
        agent = cast(Any, SimpleNamespace(mcp=("mcp:docs",)))
        with pytest.raises(Unavailable, match="'docs' are not known yet") as refused:
            await tools.begin(agent, State(), ResponseAccepted("r", 1.0, [], {}))
        assert "hush" not in str(refused.value)
        assert server.last_error == "its last words: hush"
        assert "hush" in caplog.text
    finally:
        await server.stop()


async def test_a_change_of_tools_is_said_to_reach_the_conversations_that_it_reaches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link, changes = FrozenLink(), []

    @asynccontextmanager
    async def open_link(changed: Callable[[], None]) -> AsyncIterator[Any]:
        changes.append(changed)
        yield link

    caplog.set_level("INFO", "warmloop.mcp")
    config = McpServerConfig.model_validate({"command": "x"})
    server = McpServer("docs", config, open_link, ListingFile(tmp_path / "docs.json"))
    server.start()
    try:
        before = await server.listed(20)
        link.listed = [{"name": "find", "inputSchema": {"type": "object"}}]
        changes[0]()
        async with asyncio.timeout(20):
            while server.listing == before:  # noqa: ASYNC110 another task's doing has no event
                await asyncio.sleep(0.01)
        assert (
            "new conversations get them, running ones when their prompt is rewritten" in caplog.text
        )
    finally:
        await server.stop()
