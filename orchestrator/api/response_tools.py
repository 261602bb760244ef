"""The tools that a client brings, and what it may say of their use.

    {"type": "function", "name": N, ...}         the client runs it
    {"type": "mcp", "server_label": S, ...}      tools of a server that the operator configured

    "auto" | "none" | "required"
    {"type": "function", "name": N}                                 this one, next
    {"type": "mcp", "server_label": S, "name": N}                   that one of S, or one of S
    {"type": "allowed_tools", "mode": "auto" | "required", "tools": [{"type": "function", ...}]}

Names may be those of the request's tools or of the agent's own.

Where an MCP server is and with which credentials it is asked stands in the stack file alone. A
request that brings an address of its own, or a secret, is refused before any of it is kept; which
servers it may name, and what they list, is `orchestrator/mcp/asked.py`'s to know.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from orchestrator.api.inbound import Strict, unsupported, wrong_at
from serving.reply import REPLY

OPERATORS = ("authorization", "headers", "connector_id", "tunnel_id")
"""Fields of an `mcp` tool that say where a server is, or with which credentials it is asked."""
MAX_LABEL = 64
MAX_NAMES = 512
"""Of tools, in one list; an engine takes fewer."""


def _function(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        unsupported(
            f"{value[:80]!r} tools are not available here; 'function' tools are, and on "
            "POST /v1/responses 'mcp' tools"
        )
    return value


def refuse_credentials(tools: Any) -> None:
    """Raises for an `mcp` tool that says what only an operator may say; nothing is repeated."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, Mapping) or tool.get("type") != "mcp":
            continue
        for field in OPERATORS:
            if tool.get(field) is not None:
                raise wrong_at(
                    f"tools[{index}].{field}",
                    "is not taken from a request; an operator writes the server, and its "
                    "credentials, under mcp.servers in the stack file: name it by server_label",
                    "unsupported_value",
                )


ToolNames = Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=MAX_NAMES)]


class ToolFilter(Strict):
    """Tools of a server; both conditions hold where both are given."""

    tool_names: ToolNames | None = None
    read_only: bool | None = None
    """By the server's own readOnlyHint."""


class Approvals(Strict):
    always: ToolFilter | None = None
    never: ToolFilter | None = None


class McpTool(Strict):
    """Tools of an MCP server that the operator configured, and opened to requests."""

    type: Literal["mcp"]
    server_label: str = Field(pattern=r"^[a-zA-Z0-9._-]+$", max_length=MAX_LABEL)
    server_url: str | None = Field(default=None, max_length=2048)
    """Need not be given; one that is must be the configured one."""
    server_description: str | None = Field(default=None, max_length=4096)
    """Shown again, and that is all: what a server is for, its tools say."""
    allowed_tools: ToolNames | ToolFilter | None = None
    require_approval: Literal["always", "never"] | Approvals | None = None
    """Left out: always, as at OpenAI. The operator's own approvals hold in any case."""
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: Literal[False] | None = None
    authorization: None = None
    headers: None = None
    connector_id: None = None
    tunnel_id: None = None


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


def _type(value: Any) -> Any:
    return value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)


def _kind(tool: Any) -> str:
    """What is neither is a mistake in a function."""
    return "Mcp" if _type(tool) == "mcp" else "Function"


def _choice(choice: Any) -> str:
    if isinstance(choice, Mapping | Strict):
        return "Allowed" if _type(choice) == "allowed_tools" else _kind(choice)
    return "Mode"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("Function")] | Annotated[McpTool, Tag("Mcp")],
    Discriminator(_kind),
]


class NamedTool(Strict):
    type: Literal["function"]
    name: str = Field(min_length=1)

    _functions_only = field_validator("type", mode="before")(_function)


class McpChoice(Strict):
    """A tool of a server that the request names, or any of that server's."""

    type: Literal["mcp"]
    server_label: str = Field(min_length=1, max_length=MAX_LABEL)
    name: str | None = Field(default=None, max_length=256)


Chosen = Annotated[
    Annotated[NamedTool, Tag("Function")] | Annotated[McpChoice, Tag("Mcp")],
    Discriminator(_kind),
]


class AllowedTools(Strict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[Chosen] = Field(min_length=1, max_length=MAX_NAMES)


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("Mode")]
    | Annotated[NamedTool, Tag("Function")]
    | Annotated[McpChoice, Tag("Mcp")]
    | Annotated[AllowedTools, Tag("Allowed")],
    Discriminator(_choice),
]


def chosen(choice: ToolChoice | None) -> Sequence[Chosen]:
    """The tools that a choice speaks of."""
    if isinstance(choice, AllowedTools):
        return choice.tools
    return () if choice is None or isinstance(choice, str) else (choice,)


def check_servers(choice: ToolChoice | None, servers: Collection[str]) -> None:
    """Raises for a choice of a tool whose server the request does not name."""
    for each in chosen(choice):
        if isinstance(each, McpChoice) and each.server_label not in servers:
            label = each.server_label
            raise wrong_at("tool_choice", f"{label!r} is not among the request's 'mcp' tools")
