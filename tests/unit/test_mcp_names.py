"""What the tools of a request's servers are called: no request moves a name that something else of
the operator's, or a person's word on a call, holds for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents import Agent, resolve
from orchestrator.clock import SystemClock
from orchestrator.loop.events import (
    ApprovalRequested,
    Call,
    ModelIntent,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
    ToolsListed,
    ToolsOffered,
)
from orchestrator.loop.machine import fold
from orchestrator.loop.state import State
from orchestrator.mcp.offer import ListedTool, Listing, version_of
from orchestrator.mcp.servers import McpServers
from orchestrator.mcp.tools import McpTools
from serving.config.agent import AgentConfig
from serving.config.mcp import McpConfig


def listing(*names: str) -> Listing:
    tools = [ListedTool(name) for name in names]
    return Listing(version_of(tools), tools)


@pytest.fixture
def tools(tmp_path: Path) -> McpTools:
    """Servers that list the same; their calls go nowhere."""
    server = {"command": "never", "in_requests": True}
    strict = {**server, "require_approval": ["note"]}
    config = McpConfig.model_validate({"servers": {"one": server, "two": server, "strict": strict}})
    servers = McpServers(config, tmp_path)
    for name in servers.names():
        servers[name].listing = listing("note", "put")
    return McpTools(servers, SystemClock())


def mcp(server: str, **fields: Any) -> dict[str, Any]:
    return {"type": "mcp", "server_label": server, "require_approval": "never", **fields}


def asks(*wanted: dict[str, Any], decides_on: str = "") -> ResponseAccepted:
    decision = {"type": "mcp_approval_response", "approval_request_id": decides_on, "approve": True}
    return ResponseAccepted("r2", 1.0, [decision] if decides_on else [], {"tools": [*wanted]})


async def offered(
    tools: McpTools, agent: Agent, state: State, accepted: ResponseAccepted
) -> dict[str, ToolsOffered]:
    told = await tools.begin(agent, state, accepted)
    return {each.server: each for each in told if isinstance(each, ToolsOffered)}


@pytest.mark.parametrize("allowed", [None, ["put"]])
async def test_a_setting_of_the_operator_stays_with_its_tool_whatever_a_request_brings_first(
    tools: McpTools, allowed: list[str] | None
) -> None:
    settings: Any = {"note": {"requires_approval": True}}
    config = AgentConfig(reply_tool=False, tools=("mcp:two",), tool_settings=settings)
    mine = mcp("two") if allowed is None else mcp("two", allowed_tools=allowed)
    found = await offered(tools, resolve("desk", config), State(), asks(mcp("one"), mine))
    assert found["one"].names == {"one_note": "note", "one_put": "put"}
    assert found["one"].approvals == []
    left = {"note": "note", "put": "put"} if allowed is None else {"put": "put"}
    assert found["two"].names == left
    assert found["two"].approvals == [name for name in left if name == "note"]


async def test_a_setting_that_takes_an_approval_is_for_the_agents_own_tools(
    tools: McpTools,
) -> None:
    """Not for a tool of the same name that only a request brings."""
    settings: Any = {"note": {"requires_approval": False}}
    config = AgentConfig(reply_tool=False, tools=("mcp:two/put",), tool_settings=settings)
    found = await offered(tools, resolve("desk", config), State(), asks(mcp("strict")))
    assert (found["strict"].names["note"], found["strict"].approvals) == ("note", ["note"])
    own = AgentConfig(reply_tool=False, tools=("mcp:strict/note",), tool_settings=settings)
    found = await offered(tools, resolve("desk", own), State(), asks(mcp("strict")))
    assert found["strict"].approvals == []


async def test_a_call_that_is_decided_keeps_its_tool_though_the_request_wants_others(
    tools: McpTools,
) -> None:
    agent = resolve("desk", AgentConfig(reply_tool=False))
    state = State()
    for event in (
        asks(mcp("one", require_approval="always")),
        ToolsListed("one", 1.0, listing("note", "put")),
        ToolsOffered("one", 1.0, mcp("one"), {"note": "note", "put": "put"}, ["note", "put"]),
        ModelIntent(1, 1, 1.0),
        ModelResult(1, 1, 1.0, "", [Call("call_1_0", "note", "{}")], "tool_calls"),
        ApprovalRequested(1, "call_1_0", "mcpr_1", 1.0, "required", "note", "{}"),
        ResponseFinished("r2", 1.0, "completed"),
    ):
        fold(state, event)
    wanted = mcp("two"), mcp("one", allowed_tools=["put"])
    found = await offered(tools, agent, state, asks(*wanted, decides_on="mcpr_1"))
    assert found["one"].names == {"note": "note", "put": "put"}
    assert found["two"].names == {"two_note": "note", "two_put": "put"}
