"""The function tools that a client runs, and what it may say of their use.

    "auto" | "none" | "required"
    {"type": "function", "name": N}                                 this one, next
    {"type": "allowed_tools", "mode": "auto" | "required", "tools": [{"type": "function", ...}]}

Names may be those of the request's tools or of the agent's own.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from orchestrator.api.inbound import Strict, unsupported
from serving.reply import REPLY


def _function(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        unsupported(f"{value[:80]!r} tools are not available; 'function' tools are")
    return value


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
