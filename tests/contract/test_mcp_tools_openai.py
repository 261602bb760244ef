"""Agents with the tools of a real MCP server, asked by the official client: what a request may say
of those tools, and what is refused before anything is stored."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from orchestrator.clock import SystemClock
from orchestrator.mcp.servers import McpServers
from orchestrator.mcp.tools import McpTools
from serving.config.agent import AgentConfig
from serving.config.mcp import McpConfig
from tests.contract.front_door import Front, calls, front_door, says

WORLD = Path(__file__).parents[1] / "mcp_world.py"
MINE = {"type": "object", "properties": {}}
FORMAT = {"type": "json_schema", "name": "answer", "schema": MINE}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """A front door whose agent `desk` has the tools of the server `world` beside its own."""
    command = [sys.executable, str(WORLD), str(tmp_path)]
    config = McpConfig.model_validate({"servers": {"world": {"command": command}}})
    servers = McpServers(config, tmp_path / "stack")
    desk = AgentConfig(model="big", reply_tool=False, tools=("mcp:world",))
    servers.start()
    try:
        offers = McpTools(servers, SystemClock())
        async with front_door(tmp_path / "journal.db", [desk], offers) as running:
            yield running
    finally:
        await servers.stop()


def choice(*names: str) -> dict[str, Any]:
    tools = [{"type": "function", "name": name} for name in names]
    return tools[0] if len(tools) == 1 else {"type": "allowed_tools", "tools": tools}


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": MINE}


@pytest.mark.parametrize(
    ("request_", "param", "said"),
    [
        ({"tools": [function("note")]}, "tools[0].name", "'note' is a tool of the agent 'desk'"),
        (
            {"tool_choice": choice("notes")},
            "tool_choice",
            "'notes' is not among the tools; did you",
        ),
        ({"tool_choice": choice("note", "zoo")}, "tool_choice", "'zoo' is not among the tools"),
        ({"text": {"format": FORMAT}}, "text.format", "does not go with tools in one response"),
    ],
)
async def test_what_does_not_go_with_the_tools_of_the_server_is_refused_and_nothing_is_stored(
    front: Front, request_: dict[str, Any], param: str, said: str
) -> None:
    made = await front.client.conversations.create()
    for conversation in (None, made.id):
        with pytest.raises(openai.BadRequestError, match=said.replace("[", r"\[")) as refused:
            await front.client.responses.create(
                model="desk", input="go", conversation=conversation, **request_
            )
        assert refused.value.param == param
    assert front.model.turns == []
    assert len(await front.journal.read(made.id)) == 1
    again = await front.client.responses.create(model="desk", input="go", conversation=made.id)
    assert again.status == "completed", "who was refused has let go of the conversation"


@pytest.mark.parametrize("chosen", [choice("note"), choice("add", "note"), "required"])
async def test_a_choice_may_name_a_tool_of_the_server(front: Front, chosen: Any) -> None:
    front.model.will(calls(("note", '{"text": "x"}')), says("3"))
    response = await front.client.responses.create(model="desk", input="go", tool_choice=chosen)
    assert response.output_text == "3"
    asked = front.model.turns[0].body.decode()
    assert '"name":"note"' in asked


async def test_a_server_that_is_not_open_to_requests_is_refused_with_what_an_operator_can_do(
    front: Front,
) -> None:
    tools: Any = [function("mine"), {"type": "mcp", "server_label": "world"}]
    with pytest.raises(openai.BadRequestError) as refused:
        await front.client.responses.create(model="desk", input="go", tools=tools)
    assert (refused.value.param, refused.value.code) == (
        "tools[1].server_label",
        "unsupported_value",
    )
    assert "mcp.servers.world with in_requests: true in the stack file" in refused.value.message
    assert front.model.turns == []


async def test_a_format_goes_where_the_tools_may_not_be_called(front: Front) -> None:
    front.model.will(says("{}"))
    response = await front.client.responses.create(
        model="desk", input="go", tool_choice="none", text={"format": FORMAT}
    )
    assert response.output_text == "{}"


async def test_a_function_of_the_client_goes_beside_those_of_the_server(front: Front) -> None:
    front.model.will(calls(("mine", "{}")))
    response = await front.client.responses.create(
        model="desk", input="go", tools=[function("mine")], tool_choice=choice("mine")
    )
    assert [item.type for item in response.output] == ["function_call"]
