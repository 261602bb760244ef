"""The function tools that a client runs, and what it may say of their use.

    "auto" | "none" | "required"
    {"type": "function", "name": N}                                 this one, next
    {"type": "allowed_tools", "mode": "auto" | "required", "tools": [{"type": "function", ...}]}

Names may be those of the request's tools or of the agent's own.

MCP servers are not a client's to name: what they can reach, with which credentials, and which calls
need a person is in the stack file, and an agent has their tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from orchestrator.api.inbound import Strict, unsupported, wrong_at
from serving.reply import REPLY

ADDRESSES = ("server_url", "connector_id", "tunnel_id")


def _function(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        unsupported(f"{value[:80]!r} tools are not available; 'function' tools are")
    return value


def refuse_mcp(tools: Any) -> None:
    """Raises for a tool of type `mcp`, and says who can have what it asks for."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, Mapping) or tool.get("type") != "mcp":
            continue
        label = tool.get("server_label")
        name = label[:64] if isinstance(label, str) and label.isprintable() else "NAME"
        # The address itself is not repeated: it may hold a secret.
        given = next((each for each in ADDRESSES if tool.get(each) is not None), None)
        what = (
            "is not connected to at a client's word"
            if given
            else f"'mcp' ({name!r}) is not for a request to add"
        )
        raise wrong_at(
            f"tools[{index}].{given or 'type'}",
            f"{what}; an operator writes the server under mcp.servers.{name} in the stack file and "
            f"'mcp:{name}' among an agent's tools: send that agent as model, without this tool",
            "unsupported_value",
        )


class FunctionTool(Strict):
    """A function that the client runs."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Every tool is strict here: its calls fit its schema, or there are none."""

    _functions_only = field_validator("type", mode="before")(_function)

    @field_validator("name")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value == REPLY:
            unsupported(f"{REPLY!r} is the name of a built-in tool; choose another")
        return value


class NamedTool(Strict):
    type: Literal["function"]
    name: str = Field(min_length=1)

    _functions_only = field_validator("type", mode="before")(_function)


class AllowedTools(Strict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = Field(min_length=1)


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools
