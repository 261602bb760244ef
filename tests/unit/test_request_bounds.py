"""Long lists in a request are refused, or read in one go: no request holds up all others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.api.inbound import validate
from orchestrator.api.response_request import CreateRequest
from serving.errors import BadRequest


def read(**fields: Any) -> CreateRequest:
    return validate(CreateRequest, json.dumps({"model": "m", "input": "go", **fields}).encode())


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("function", "name", "two tools are called 'f7'"),
        ("mcp", "server_label", "two 'mcp' tools name 'f7'"),
    ],
)
def test_a_name_that_comes_twice_is_found_in_a_list_of_any_length(
    kind: str, name: str, said: str
) -> None:
    tools = [{"type": kind, name: f"f{index}"} for index in range(20_000)]
    with pytest.raises(BadRequest, match=said) as refused:
        read(tools=[*tools, tools[7]])
    assert refused.value.param == "tools"


def test_a_choice_of_more_tools_than_any_engine_takes_is_refused() -> None:
    """Each of them may stand for all the tools of a server."""
    server = {"type": "mcp", "server_label": "world"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [server] * 513}
    with pytest.raises(BadRequest, match="at most 512") as refused:
        read(tools=[server], tool_choice=choice)
    assert refused.value.param == "tool_choice.tools"
