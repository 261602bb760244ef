"""What an MCP server offers, as a value with a version: the tools that can be promised.

    tools/list ─► take(...) ─► Listing(version, tools)      refused, long or unlisted ones left out,
                                 │                           each with a warning that names it
                                 └─► a file in the stack's folder: known before the server is

A listing's version is the hash of its content, so a server that lists the same tools again, in
whatever order, has not changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.mcp.offer import ListedTool, Listing, version_of
from serving.config.mcp import McpServerConfig
from serving.schemas import SchemaRefused, register

log = logging.getLogger("warmloop.mcp")
MAX_DESCRIPTION = 4096


def take(
    name: str,
    raw: Sequence[Mapping[str, Any]],
    config: McpServerConfig,
    *,
    server: str = "",
    server_version: str = "",
) -> Listing:
    """The listing that a server's own list makes."""
    kept: dict[str, ListedTool] = {}
    offered = {str(each.get("name")) for each in raw}
    for missing in sorted(set(config.allow or ()) - offered):
        log.warning("mcp.servers.%s.allow: the server lists no tool %r", name, missing)
    for each in raw:
        tool = str(each["name"])
        if config.allow is not None and tool not in config.allow:
            continue
        schema = each.get("inputSchema") or {}
        try:
            register(schema)
        except SchemaRefused as refused:
            log.warning("mcp server %s: tool %s is left out: its parameters%s", name, tool, refused)
            continue
        hints = each.get("annotations") or {}
        kept[tool] = ListedTool(
            tool,
            str(each.get("description") or each.get("title") or "").strip()[:MAX_DESCRIPTION],
            dict(schema),
            each.get("outputSchema"),
            hints.get("readOnlyHint") is True,
            hints.get("idempotentHint") is True,
        )
    tools = sorted(kept.values(), key=lambda tool: tool.name)
    if len(tools) > config.max_tools:
        log.warning(
            "mcp server %s: lists %d tools, and max_tools is %d: %s and later are left out",
            name,
            len(tools),
            config.max_tools,
            tools[config.max_tools].name,
        )
        tools = tools[: config.max_tools]
    return Listing(version_of(tools), tools, server, server_version)


def allowed(listing: Listing | None, config: McpServerConfig) -> Listing | None:
    """What `allow` leaves of an earlier listing."""
    if listing is None or config.allow is None:
        return listing
    tools = [tool for tool in listing.tools if tool.name in config.allow]
    return msgspec.structs.replace(listing, version=version_of(tools), tools=tools)


class ListingFile:
    """Where the last known listing of a server lies between two starts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(Listing)

    def read(self) -> Listing | None:
        """None for none, and for one that cannot be read: the server will be asked anyway."""
        try:
            return self._decoder.decode(self._path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, listing: Listing) -> None:
        """Replace it as a whole. A full disk costs only a slower next start."""
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside.write_bytes(msgspec.json.encode(listing))
            beside.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
            with contextlib.suppress(OSError):
                beside.unlink()
