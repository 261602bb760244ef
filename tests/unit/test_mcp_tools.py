"""Tools of MCP servers: which of them ask a person, and which may still be called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.mcp.calls import tool_of
from orchestrator.mcp.listing import ListingFile
from orchestrator.mcp.offer import ListedTool, Listing, version_of
from orchestrator.mcp.server import McpServer, Opener
from orchestrator.tools.base import Tool, ToolContext, ToolError
from serving.config.mcp import McpServerConfig


def listing(*names: str) -> Listing:
    tools = [ListedTool(name) for name in names]
    return Listing(version_of(tools), tools)


def server(folder: Path, **config: Any) -> McpServer:
    made = McpServerConfig(command=("x",), **config)
    return McpServer("docs", made, cast(Opener, None), ListingFile(folder / "docs.json"))


def tool(folder: Path, name: str, **config: Any) -> Tool:
    listed = listing(name)
    return tool_of("docs", server(folder, **config), listed, listed.tools[0], name)


@pytest.mark.parametrize(
    ("asked", "name", "asks"),
    [
        ("never", "eve", False),
        ("never", "never", False),
        ("always", "way", True),
        (("even",), "eve", False),
        (("eve",), "eve", True),
    ],
)
def test_a_person_is_asked_for_the_tools_that_are_named(
    tmp_path: Path, asked: str | Sequence[str], name: str, asks: bool
) -> None:
    assert tool(tmp_path, name, require_approval=asked).requires_approval is asks


async def test_a_tool_that_is_not_allowed_any_more_is_refused_when_it_is_called(
    tmp_path: Path,
) -> None:
    found = tool(tmp_path, "drop", allow=("find",))
    with pytest.raises(ToolError, match="not allowed any more") as refused:
        await found.invoke({}, ToolContext("c:1:a"))
    assert refused.value.error_code == "mcp_tool_not_allowed"
    assert not refused.value.transient


def test_the_list_from_the_last_start_has_only_what_is_allowed_now(tmp_path: Path) -> None:
    ListingFile(tmp_path / "docs.json").write(listing("drop", "find"))
    assert server(tmp_path).listing == listing("drop", "find")
    assert server(tmp_path, allow=("drop", "find")).listing == listing("drop", "find")
    assert server(tmp_path, allow=("find", "more")).listing == listing("find")
