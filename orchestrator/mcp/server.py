"""One configured MCP server while a front door lives: connected again and again, called, counted.

                 ┌──────────────── pause, longer each time ◄───────────────┐
    start ─► connecting ─► up ─► its tools are asked for, at once and when they change
                 └──── fails ──────── lost ────────────────────────────────┘

A task of its own holds the connection, so that no turn waits for a cold start, and a server that is
down holds up nobody else. What is known of its tools stays known meanwhile, and across restarts.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.mcp.failures import McpFailure, NotSent, ServerLost, TimedOut, reason
from orchestrator.mcp.gate import Gate
from orchestrator.mcp.listing import ListingFile, allowed, take
from orchestrator.mcp.offer import Listing
from serving.config.mcp import McpServerConfig
from serving.owned_task import OwnedTask

if TYPE_CHECKING:
    from mcp_types import CallToolResult

    from orchestrator.mcp.link import Link, Progress

State = Literal["connecting", "up", "down"]
Opener = Callable[[Callable[[], None]], AbstractAsyncContextManager["Link"]]
"""Opens a link; what it is given is called when the server's tools have changed."""
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 60.0
STEADY_S = 30.0
"""A connection that held for so long begins the count of pauses anew."""
RECONNECT_PATIENCE_S = 5.0
"""How long a call waits for a connection that is being made."""
CHANGES_SETTLE_S = 0.2
EXPLAIN_S = 0.2
"""For the transport to say why, when it was a call that found the connection broken."""
log = logging.getLogger("warmloop.mcp")


class McpServer:
    """A server by its configured name. `open_link` connects to it once."""

    def __init__(
        self, name: str, config: McpServerConfig, open_link: Opener, file: ListingFile
    ) -> None:
        self.name = name
        self.config = config
        self.listing = allowed(file.read(), config)
        self.state: State = "connecting"
        self.last_error = ""
        """For the operator alone: it may hold what another's call, or the server's stderr, said."""
        self.gate = Gate(config, time.monotonic)
        self._open_link = open_link
        self._file = file
        self._task = OwnedTask()
        self._link: Link | None = None
        self._turned = asyncio.Event()
        """Set, and replaced, whenever the connection or the listing has changed."""
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()

    def start(self) -> None:
        """Begin to connect, and return at once."""
        self._task.start(self._keep_connected, f"mcp-{self.name}")

    async def stop(self) -> None:
        """End the connection, and the server's processes if we started them."""
        await self._task.stop()

    async def settled(self) -> None:
        """Returns when the first try to connect has come to its end."""
        wait_s = self.config.connect_timeout_s + RECONNECT_PATIENCE_S
        await self._until(lambda: self.state != "connecting", wait_s)

    async def listed(self, wait_s: float) -> Listing | None:
        """The last known listing; where there never was one, the first, if it comes in time."""
        await self._until(lambda: self.listing is not None, wait_s)
        return self.listing

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> CallToolResult:
        """What a call gave, an error of the tool's own included. Raises McpFailure."""
        link = None
        timer = asyncio.timeout(timeout_s)
        try:
            async with timer, self.gate.call():
                link = await self._connected(min(timeout_s, RECONNECT_PATIENCE_S))
                async with _as_timed_out(timer, timeout_s):
                    return await link.call(tool, arguments, meta=meta, progress=progress)
        except TimeoutError:
            if link is not None or not timer.expired():
                raise
            if self._live() is None:
                raise self._unavailable() from None
            raise NotSent(f"no free slot within {timeout_s:g} s (max_concurrent)") from None
        except McpFailure as failure:
            if link is not None:
                self.last_error = str(failure)
                if isinstance(failure, TimedOut) and self.gate.is_shut:
                    link.broken.set()  # it is silent: a new connection, or process, may help
            raise

    # -- the connection --

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._connection()
            except ServerLost as lost:
                self.last_error = reason(lost)
            except Exception as error:
                log.exception("mcp server %s: failed in an unforeseen way", self.name)
                self.last_error = reason(error)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # Ended from outside while the connection failed too, and groups tell only of that.
                raise asyncio.CancelledError
            failures = 0 if time.monotonic() - began >= STEADY_S else failures + 1
            self._turn("down")
            pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(16, failures - 1))
            pause_s *= random.uniform(0.8, 1.2)
            log.warning(
                "mcp server %s: %s; next try in %.1f s", self.name, self.last_error, pause_s
            )
            self._hurry.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._turn("connecting")

    async def _connection(self) -> None:
        """Connect, ask for the tools, and stay until the connection ends. Raises ServerLost."""
        self._changed.clear()
        async with self._open_link(self._changed.set) as link:
            async with asyncio.timeout(self.config.connect_timeout_s):
                await self._ask_for_tools(link)
            log.info(
                "mcp server %s: up (%s %s, protocol %s), %d tools, version %s",
                self.name,
                link.server,
                link.version,
                link.protocol,
                len(self.listing.tools) if self.listing else 0,
                self.listing.version if self.listing else "",
            )
            self.last_error = ""
            self._link = link
            self._turn("up")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(link.watch(self._changed.set))
                    group.create_task(self._follow_changes(link))
                    await link.broken.wait()
                    self._link = None
                    await asyncio.sleep(EXPLAIN_S)
                    raise ServerLost(self.last_error or "the connection was lost")
            finally:
                self._link = None

    async def _follow_changes(self, link: Link) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(CHANGES_SETTLE_S)  # a server may announce each of many changes
            self._changed.clear()
            try:
                async with asyncio.timeout(self.config.connect_timeout_s):
                    await self._ask_for_tools(link)
            except (McpFailure, TimeoutError) as failure:
                self.last_error = f"its tools could not be listed again: {reason(failure)}"
                log.warning("mcp server %s: %s", self.name, self.last_error)

    async def _ask_for_tools(self, link: Link) -> None:
        raw = await link.tools()
        before = self.listing
        # In a thread: schemas of a hundred tools are worth some time, and turns are under way.
        listing = await asyncio.to_thread(
            take,
            self.name,
            raw,
            self.config,
            server=link.server,
            server_version=link.version,
        )
        if listing == before:
            return
        if before is not None and listing.version != before.version:
            log.info(
                "mcp server %s: its tools changed from version %s to %s; new conversations get "
                "them, running ones when their prompt is rewritten",
                self.name,
                before.version,
                listing.version,
            )
        await asyncio.to_thread(self._file.write, listing)
        self.listing = listing
        self._turn(self.state)

    async def _connected(self, patience_s: float) -> Link:
        if (link := self._live()) is None:
            self._hurry.set()
            await self._until(lambda: self._live() is not None, patience_s)
            link = self._live()
        if link is None:
            raise self._unavailable()
        return link

    def _unavailable(self) -> NotSent:
        return NotSent(f"it is {self.state}")

    def _live(self) -> Link | None:
        return None if self._link is None or self._link.broken.is_set() else self._link

    def _turn(self, state: State) -> None:
        self.state = state
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def _until(self, condition: Callable[[], bool], wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while not condition():
                    await self._turned.wait()
        except TimeoutError:
            pass


@asynccontextmanager
async def _as_timed_out(timer: asyncio.Timeout, limit_s: float) -> AsyncIterator[None]:
    """The timer's expiry as a failure that the gate learns from."""
    try:
        yield
    except asyncio.CancelledError:
        if timer.expired():
            raise TimedOut(f"no result within {limit_s:g} s") from None
        raise
