"""A listed tool of an MCP server as a tool of an agent: what it may do, and how a call goes there.

The log may hold tools of servers that are not configured any more, or not for this agent: their
calls are refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from orchestrator.loop.state import ToolKind
from orchestrator.mcp.failures import Declined, McpFailure, NotSent
from orchestrator.mcp.offer import ListedTool, Listing
from orchestrator.mcp.server import McpServer
from orchestrator.tools.base import Tool, ToolContext, ToolError, ToolLimits, schema_check
from serving.config.mcp import McpServerConfig

KEY = "warmloop/idempotency-key"
"""In a call's `_meta`: a server that knows it can tell a repeated call from a new one."""
TRACE = "traceparent"
log = logging.getLogger("warmloop.mcp")


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
    """One listed tool. `server` None: it is not there for this agent any more."""
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
                "mcp_server_gone", f"the MCP server {name!r} is not there for this agent any more"
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
