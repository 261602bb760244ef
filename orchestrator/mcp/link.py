"""One live session with an MCP server: its list of tools, and calls, as values of ours.

    open_link(target, ...) ─► Link: who is there, tools(), call()     until the block ends, or the
                                                                      connection does: ServerLost

The package speaks the protocol, in each of its versions; which one, it finds out with the first
message. A link lives inside the task that opened it, and its calls come from any task.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

import anyio
import mcp_types as types
from mcp.client.client import Client
from mcp.client.session import ElicitationFnT
from mcp.client.subscriptions import SubscriptionLost, ToolsListChanged
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from orchestrator.mcp.failures import (
    BadArguments,
    Declined,
    McpFailure,
    NotSent,
    OutcomeOpen,
    ServerLost,
    reason,
)
from orchestrator.mcp.http import LOST, NOT_SENT, OURS
from orchestrator.tools.errors import LONGEST_RETRY_AFTER_S, bounded

Progress = ProgressFnT
Transport = AbstractAsyncContextManager[Any]
MAX_PAGES = 100
LISTEN_AGAIN_S = 5.0
STREAM_FAILED = "SSE stream failed: "
"""So the package's transport begins its word for an event that is too long."""

# What the package logs may hold arguments, results and session ids; what matters, we say ourselves.
for _name in ("mcp", "client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Link:
    """A session that is open. Calls raise McpFailure."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.broken = asyncio.Event()
        """Set when a call found the session gone: a new one is needed."""
        info = client.server_info
        self.server = info.name if info else ""
        self.version = info.version if info else ""
        self.protocol = client.protocol_version

    async def tools(self) -> list[dict[str, Any]]:
        """All tools that the server lists, as its own JSON. Raises McpFailure."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            try:
                page = await self._client.list_tools(cursor=cursor)
            except (MCPError, ValidationError, RuntimeError) as error:
                raise self._failure(error) from None
            found += [
                tool.model_dump(by_alias=True, mode="json", exclude_none=True)
                for tool in page.tools
            ]
            cursor = page.next_cursor
            if not cursor:
                return found
        raise Declined(f"its list of tools has more than {MAX_PAGES} pages")

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        meta: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> types.CallToolResult:
        """What the call gave, `is_error` included. Being cancelled cancels it at the server."""
        try:
            return await self._client.call_tool(
                tool,
                dict(arguments),
                progress_callback=progress,
                meta=dict(meta) if meta else None,  # type: ignore[arg-type]
            )
        except (MCPError, ValidationError, RuntimeError, anyio.ClosedResourceError) as error:
            raise self._failure(error) from None

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call back when the server says that its tools have changed, where that takes a stream of
        its own (since 2026-07-28); where it does not, return."""
        if self.protocol not in MODERN_PROTOCOL_VERSIONS:
            return
        capability = self._client.server_capabilities.tools
        if capability is None or not capability.list_changed:
            return
        while True:
            try:
                async with self._client.listen(tools_list_changed=True) as subscription:
                    changed()  # it may have changed before anybody listened
                    async for event in subscription:
                        if isinstance(event, ToolsListChanged):
                            changed()
            except MCPError as error:
                if error.code == types.METHOD_NOT_FOUND:
                    return
            except (SubscriptionLost, TimeoutError):
                pass
            await anyio.sleep(LISTEN_AGAIN_S)

    def _failure(self, error: Exception) -> McpFailure:
        if not isinstance(error, MCPError):
            if isinstance(error, anyio.ClosedResourceError):
                self.broken.set()
                return OutcomeOpen("the connection was lost")
            # The answer came and does not keep to the protocol, or to the tool's own outputSchema.
            return Declined(f"its answer cannot be used: {_first_line(error)}")
        data = error.data if isinstance(error.data, dict) else {}
        ours = data.get("made_by") == OURS  # else it is the server that says so: an answer
        if ours and error.code == NOT_SENT:
            if "retry_after_s" not in data:
                self.broken.set()
            after_s = bounded(data.get("retry_after_s"), LONGEST_RETRY_AFTER_S)
            return NotSent(error.message, retry_after_s=after_s)
        if error.code == types.CONNECTION_CLOSED and error.message.startswith(STREAM_FAILED):
            # The stream of this one answer; the session has others.
            return Declined(f"its answer cannot be read: {error.message[:300]} (max_message_bytes)")
        if (ours and error.code == LOST) or error.code == types.CONNECTION_CLOSED:
            self.broken.set()
            return OutcomeOpen("the connection was lost")
        said = f"{error.message[:500]} (code {error.code})"
        # The code is MCP's for a tool that is not there, too: no call can help that.
        of_arguments = error.code == types.INVALID_PARAMS and "unknown tool" not in said.lower()
        return BadArguments(said) if of_arguments else Declined(said)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


@asynccontextmanager
async def open_link(
    transport: Transport,
    *,
    timeout_s: float,
    protocol: Literal["auto", "handshake"] = "auto",
    changed: Callable[[], None] = lambda: None,
    elicitation: ElicitationFnT | None = None,
) -> AsyncIterator[Link]:
    """Connect, and stay connected while the block runs. Raises ServerLost for whatever ends it.

    `changed` is called when the server says that its tools have changed.
    """

    async def on_message(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changed()
        await anyio.lowlevel.checkpoint()

    client = Client(
        transport,
        mode="legacy" if protocol == "handshake" else "auto",
        cache=None,  # lists are kept by version, above
        client_info=types.Implementation(
            name="warmloop", version=importlib.metadata.version("warmloop")
        ),
        message_handler=on_message,
        elicitation_callback=elicitation,
    )
    try:
        with anyio.fail_after(timeout_s) as connecting:
            async with client:
                connecting.deadline = float("inf")
                yield Link(client)
    except TimeoutError:
        raise ServerLost(f"it did not answer within {timeout_s:g} s") from None
    except Exception as error:
        raise ServerLost(reason(error)) from error
