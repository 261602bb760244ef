"""What a request may have of a server: fewer tools and more approvals, not the other way."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.agents import Agent, resolve
from orchestrator.mcp.asked import Wanted, check, is_allowed, wanted, wants_approval
from orchestrator.mcp.offer import ListedTool, Listing
from serving.config.agent import AgentConfig
from serving.config.mcp import McpServerConfig
from serving.errors import BadRequest

ADD, NOTE = ListedTool("add", read_only=True), ListedTool("note")
LISTING = Listing("v", [ADD, NOTE])


def desk() -> Agent:
    return resolve("desk", AgentConfig(reply_tool=False))


@pytest.mark.parametrize(
    ("said", "asks"),
    [
        (None, {"add", "note"}),
        ("always", {"add", "note"}),
        ("never", set()),
        ({"never": {"tool_names": ["add"]}}, {"note"}),
        ({"never": {"read_only": True}}, {"note"}),
        ({"never": {"tool_names": ["note"], "read_only": True}}, {"add", "note"}),
        ({"always": {"tool_names": ["add"]}}, {"add", "note"}),
        ({"always": {"read_only": True}, "never": {"tool_names": ["add", "note"]}}, {"add"}),
        ({}, {"add", "note"}),
    ],
)
def test_a_call_waits_for_a_person_unless_the_request_says_that_it_need_not(
    said: Any, asks: set[str]
) -> None:
    asked = {} if said is None else {"require_approval": said}
    assert {tool.name for tool in (ADD, NOTE) if wants_approval(asked, tool)} == asks


@pytest.mark.parametrize(
    ("said", "given"),
    [
        (None, {"add", "note"}),
        ([], set()),
        (["note"], {"note"}),
        ({"tool_names": ["add"]}, {"add"}),
        ({"read_only": True}, {"add"}),
        ({"read_only": False}, {"note"}),
        ({"tool_names": ["note"], "read_only": True}, set()),
    ],
)
def test_a_request_chooses_among_the_tools_of_the_server(said: Any, given: set[str]) -> None:
    asked = {} if said is None else {"allowed_tools": said}
    assert {tool.name for tool in (ADD, NOTE) if is_allowed(asked, tool)} == given


@pytest.mark.parametrize(
    ("opened", "url", "param"),
    [
        (True, None, None),
        (True, "https://world.example/mcp", None),
        (("desk",), None, None),
        (False, None, "server_label"),
        (("clerk",), None, "server_label"),
        (True, "https://world.example/mcp/", "server_url"),
    ],
)
def test_a_request_names_a_server_that_is_open_to_its_agent_and_no_other_address(
    opened: Any, url: str | None, param: str | None
) -> None:
    config = McpServerConfig(url="https://world.example/mcp", in_requests=opened)
    tool = {"type": "mcp", "server_label": "world"} | ({"server_url": url} if url else {})
    request = {"tools": [{"type": "function", "name": "mine"}, tool]}
    if param is None:
        assert [each.server for each in wanted(request, desk(), {"world": config}.get)] == ["world"]
        return
    with pytest.raises(BadRequest) as refused:
        wanted(request, desk(), {"world": config}.get)
    assert refused.value.param == f"tools[1].{param}"
    assert "example" not in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"allowed_tools": ["notes"]}, "allowed_tools"),
        ({"allowed_tools": {"tool_names": ["notes"]}}, "allowed_tools.tool_names"),
        (
            {"require_approval": {"always": {"tool_names": ["notes"]}}},
            "require_approval.always.tool_names",
        ),
    ],
)
def test_a_slip_in_a_name_is_refused_rather_than_an_approval_less(asked: Any, param: str) -> None:
    with pytest.raises(BadRequest, match="did you mean 'note'") as refused:
        check(Wanted("tools[0]", {"server_label": "world", **asked}), LISTING)
    assert refused.value.param == f"tools[0].{param}"
