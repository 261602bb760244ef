"""MCP servers' tools as tools of agents: which ones a conversation gets, under which names.

A conversation keeps the listing that it began with: tools stand at the head of every prompt, and
one that changed under way would cost the whole cache. Where the prompt is rewritten anyway, the
newest known listing takes its place. A call is checked against the conversation's listing and goes
to the server as it is now; a tool that is gone is the server's to refuse.

Names are the server's own, without characters that engines do not take. Where one is taken, the
server's name goes before it: `docs_search`. Tools that came first keep theirs.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.agents import Agent
from orchestrator.clock import Clock
from orchestrator.loop.events import ResponseAccepted, ToolsListed
from orchestrator.loop.state import ToolKind
from orchestrator.mcp.failures import Declined, McpFailure, NotSent
from orchestrator.mcp.offer import ListedTool, Listing
from orchestrator.mcp.server import McpServer
from orchestrator.mcp.servers import McpServers
from orchestrator.tools.base import Tool, ToolContext, ToolError, ToolLimits, schema_check
from orchestrator.tools.toolbox import READ_RESULT
from serving import reply
from serving.config.mcp import McpServerConfig, mcp_server
from serving.errors import Unavailable

MAX_BOUND = 256
MAX_NAME = 64
KEY = "warmloop/idempotency-key"
"""In a call's `_meta`: a server that knows it can tell a repeated call from a new one."""
TRACE = "traceparent"
log = logging.getLogger("warmloop.mcp")


class McpTools:
    """`Offers` of the configured servers."""

    def __init__(self, servers: McpServers, clock: Clock) -> None:
        self._servers = servers
        self._clock = clock
        self._bound: OrderedDict[tuple[Any, ...], Agent] = OrderedDict()

    async def begin(
        self, agent: Agent, known: Mapping[str, Listing], accepted: ResponseAccepted
    ) -> Sequence[ToolsListed]:
        """The listings that this conversation does not have yet."""
        listed = []
        for name in servers_of(agent.mcp):
            if name in known:
                continue
            server = self._servers[name]
            listing = await server.listed(self._servers.first_list_wait_s)
            if listing is None:
                raise Unavailable(
                    f"the tools of the MCP server {name!r} are not known yet, and it is "
                    f"{server.state}",
                    code="mcp_server_unavailable",
                    retry_after_s=5,
                )
            listed.append(ToolsListed(name, self._clock.now(), listing))
        return listed

    def newer(self, agent: Agent, known: Mapping[str, Listing]) -> Sequence[ToolsListed]:
        """The listings that have changed since, as far as they are known now."""
        now = self._clock.now()
        found = ((name, self._servers.get(name)) for name in servers_of(agent.mcp) if name in known)
        return [
            ToolsListed(name, now, server.listing)
            for name, server in found
            if server is not None and server.listing not in (None, known[name])
        ]

    def bind(self, agent: Agent, listings: Mapping[str, Listing]) -> Agent:
        """The agent with its tools of all servers; the same object for the same listings."""
        offers = {name: listings[name] for name in servers_of(agent.mcp) if name in listings}
        if not offers:
            return agent
        key = (agent.key, *((name, audit(listing)) for name, listing in offers.items()))
        found = self._bound.get(key)
        if found is None:
            found = agent.with_tools(self._tools(agent, offers))
            self._bound[key] = found
            if len(self._bound) > MAX_BOUND:
                self._bound.popitem(last=False)
        else:
            self._bound.move_to_end(key)
        return found

    def _tools(self, agent: Agent, offers: Mapping[str, Listing]) -> list[Tool]:
        taken = {*agent.tools.names, reply.REPLY, READ_RESULT}
        made = []
        for name, listing in offers.items():
            server = self._servers.get(name)
            for listed in chosen(name, listing, agent.mcp):
                visible = visible_name(name, listed.name, taken)
                taken.add(visible)
                made.append(tool_of(name, server, listing, listed, visible))
        return made


def servers_of(specs: Sequence[str]) -> list[str]:
    """The servers that an agent's tools name, in that order, each once."""
    return list(dict.fromkeys(name for spec in specs if (name := mcp_server(spec)) is not None))


def chosen(name: str, listing: Listing, specs: Sequence[str]) -> list[ListedTool]:
    """Those of a server's tools that an agent asks for."""
    if f"mcp:{name}" in specs:
        return listing.tools
    wanted = {spec.partition("/")[2] for spec in specs if mcp_server(spec) == name}
    for missing in sorted(wanted - {tool.name for tool in listing.tools}):
        log.warning("mcp server %s has no tool %r, which an agent names", name, missing)
    return [tool for tool in listing.tools if tool.name in wanted]


def visible_name(server: str, tool: str, taken: set[str]) -> str:
    """What the model calls it: unique, and of the characters that the OpenAI API takes."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", tool)
    for name in (plain, re.sub(r"[^a-zA-Z0-9_-]", "_", f"{server}_{tool}")):
        if len(name) <= MAX_NAME and name not in taken:
            return name
    digest = hashlib.sha256(f"{server}/{tool}".encode()).hexdigest()[:8]
    return f"{plain[: MAX_NAME - 9]}_{digest}"


def audit(listing: Listing) -> str:
    """Whose tools these are, in which version: it stands in the log beside each call."""
    return f"{listing.server} {listing.server_version} {listing.version}".strip()


def kind_of(config: McpServerConfig, listed: ListedTool) -> ToolKind:
    """What the operator says; what the server says only where the operator trusts it."""
    if listed.name in config.kinds:
        return config.kinds[listed.name]
    if config.trust_annotations:
        if listed.read_only:
            return "pure"
        if listed.idempotent:
            return "idempotent"
    return "unsafe"


def asks_person(config: McpServerConfig, tool: str) -> bool:
    """Must a person allow each call of that tool?"""
    asked = config.require_approval
    return asked == "always" if isinstance(asked, str) else tool in asked


def tool_of(
    name: str, server: McpServer | None, listing: Listing, listed: ListedTool, visible: str
) -> Tool:
    """One listed tool. `server` None: it is not configured any more."""
    config = server.config if server is not None else None
    kind = kind_of(config, listed) if config is not None else "unsafe"
    return Tool(
        name=visible,
        description=listed.description,
        parameters=listed.parameters or {"type": "object", "properties": {}},
        check=schema_check(visible, listed.parameters),
        invoke=_invoke(name, server, listed.name, kind),
        kind=kind,
        # Time, rate and breaker are the server's as a whole: `McpServer.call` holds them.
        limits=ToolLimits(timeout_s=float("inf")),
        output_schema=listed.output_schema,
        version=audit(listing),
        requires_approval=config is not None and asks_person(config, listed.name),
    )


def _invoke(name: str, server: McpServer | None, tool: str, kind: ToolKind) -> Callable[..., Any]:
    async def invoke(arguments: dict[str, Any], context: ToolContext) -> str:
        if server is None:
            raise ToolError(
                "mcp_server_gone", f"the MCP server {name!r} is not configured any more"
            )
        config = server.config
        if config.allow is not None and tool not in config.allow:  # the log may hold it still
            raise ToolError(
                "mcp_tool_not_allowed",
                f"the tool {tool!r} of the MCP server {name!r} is not allowed any more",
            )

        async def report(progress: float, total: float | None, message: str | None) -> None:
            said = {"progress": progress, "total": total, "message": message}
            context.progress({key: value for key, value in said.items() if value is not None})

        meta = {KEY: context.key}
        if context.traceparent:
            meta[TRACE] = context.traceparent
        began = time.monotonic()
        outcome = "cancelled"
        try:
            result = await server.call(
                tool,
                arguments,
                timeout_s=config.timeouts_s.get(tool, config.timeout_s),
                meta=meta,
                progress=report,
            )
            from orchestrator.mcp.result import as_text  # with the package, once connected

            outcome = "error" if result.is_error else "ok"
            text = as_text(result)
        except McpFailure as failure:
            outcome = failure.code
            raise _as_tool_error(name, kind, failure) from None
        finally:
            log.info(
                "mcp call: server %s, tool %s, key %s, %s, %.3f s",
                name,
                tool,
                context.key,
                outcome,
                time.monotonic() - began,
            )
        if result.is_error:
            raise ToolError("tool_failed", text or f"{tool} failed, and did not say why")
        return text

    return invoke


def _as_tool_error(name: str, kind: ToolKind, failure: McpFailure) -> ToolError:
    said = f"MCP server {name}: {failure}"
    after_ms = None if failure.retry_after_s is None else round(failure.retry_after_s * 1000)
    if isinstance(failure, NotSent):
        # `tool_unavailable`: the server's own breaker has counted it.
        return ToolError("tool_unavailable", said, retry_after_ms=after_ms, transient=True)
    if isinstance(failure, Declined):
        return ToolError(failure.code, said)
    if kind in ("pure", "idempotent"):
        return ToolError(failure.code, said, retry_after_ms=after_ms, transient=True)
    return ToolError(
        failure.code, f"{said}; the call may have taken effect. Check before you repeat it"
    )
