"""What a request may have of an MCP server: the operator's servers, and never more than they allow.

    {"type": "mcp", "server_label": "tickets",   a server that `in_requests` opens to this agent
     "allowed_tools": ["search"],                fewer tools; all of them if it is left out
     "require_approval": "never"}                more approvals; "never" asks for no more than the
                                                 operator does, and left out it asks for all

A tool keeps the name that it has for the agent, whatever else a request brings: a setting of the
operator for that name is not to be shaken off by another one that takes it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.agents import Agent
from orchestrator.loop.call_rules import DECISION
from orchestrator.loop.events import ResponseAccepted, ToolsOffered
from orchestrator.loop.state import State
from orchestrator.mcp.offer import ListedTool, Listing
from serving.config.mcp import McpServerConfig
from serving.config.sections import nearest
from serving.errors import BadRequest

Configured = Callable[[str], McpServerConfig | None]
Asked = Mapping[str, Any]
"""A tool of type `mcp` as the log has it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tool of type `mcp`, and where it stands in the request."""

    where: str
    asked: Asked

    @property
    def server(self) -> str:
        return str(self.asked["server_label"])


def wanted(request: Mapping[str, Any], agent: Agent, configured: Configured) -> list[Wanted]:
    """What a request asks for. Raises BadRequest for what this agent is not to be asked with."""
    found = []
    for index, tool in enumerate(request.get("tools") or ()):
        if tool.get("type") != "mcp":
            continue
        each = Wanted(f"tools[{index}]", tool)
        config = configured(each.server)
        if config is None or not is_open(config, agent):
            raise _refused(
                f"{each.where}.server_label",
                f"{each.server!r} is not a server that requests to {agent.name!r} may name; an "
                f"operator writes mcp.servers.{each.server} with in_requests: true in the stack "
                "file",
            )
        if each.asked.get("server_url") not in (None, config.url):
            # Neither address is repeated: the client's may hold a secret, ours is not its business.
            raise _refused(
                f"{each.where}.server_url",
                "is not the address that is configured for this server; leave it out",
            )
        found.append(each)
    return found


def is_open(config: McpServerConfig, agent: Agent) -> bool:
    """May requests to that agent, or bare model, name this server?"""
    opened = config.in_requests
    return opened if isinstance(opened, bool) else agent.name in opened


def check(wanted: Wanted, listing: Listing) -> None:
    """Raises BadRequest for a tool that the server does not list: a name with a slip in it would
    else be a tool less, or an approval less."""
    known = [tool.name for tool in listing.tools]
    for field, names in _named(wanted.asked):
        for name in names:
            if name not in known:
                raise _refused(
                    f"{wanted.where}.{field}",
                    f"{name[:80]!r} is not among the tools of {wanted.server!r}; "
                    + (nearest(name, known) if known else "there are none"),
                )


def check_choice(request: Mapping[str, Any], offered: Mapping[str, ToolsOffered]) -> None:
    """Raises BadRequest for a choice of what the request has not of its servers."""
    choice = request.get("tool_choice")
    if not isinstance(choice, Mapping):
        return
    for each in choice.get("tools") or (choice,):
        if each.get("type") != "mcp":
            continue
        names = sorted(offered[each["server_label"]].names.values())
        name = each.get("name")
        if not names or (name is not None and name not in names):
            said = "a tool" if name is None else repr(name[:80])
            raise _refused(
                "tool_choice",
                f"{said} is not among what the request has of {each['server_label']!r}; "
                + (nearest(str(name), names) if names else "there are none"),
            )


def _named(asked: Asked) -> Iterable[tuple[str, Iterable[str]]]:
    allowed, approval = asked.get("allowed_tools"), asked.get("require_approval")
    if isinstance(allowed, Mapping):
        yield "allowed_tools.tool_names", allowed.get("tool_names") or ()
    elif allowed is not None:
        yield "allowed_tools", allowed
    if isinstance(approval, Mapping):
        for when, chosen in approval.items():
            yield f"require_approval.{when}.tool_names", chosen.get("tool_names") or ()


def is_allowed(asked: Asked, tool: ListedTool) -> bool:
    """Does the request want that tool?"""
    allowed = asked.get("allowed_tools")
    if allowed is None or isinstance(allowed, Mapping):
        return _fits(allowed or {}, tool)
    return tool.name in allowed


def wants_approval(asked: Asked, tool: ListedTool) -> bool:
    """Does the request want a person to allow each call of that tool? Unless it says no."""
    said = asked.get("require_approval", "always")
    if isinstance(said, str):
        return said == "always"
    always, never = said.get("always"), said.get("never")
    if always is not None and _fits(always, tool):
        return True
    return never is None or not _fits(never, tool)


def _fits(chosen: Mapping[str, Any], tool: ListedTool) -> bool:
    """Of a filter: by name, by the server's own readOnlyHint, or by both."""
    names, read_only = chosen.get("tool_names"), chosen.get("read_only")
    return (names is None or tool.name in names) and read_only in (None, tool.read_only)


def awaited(state: State, accepted: ResponseAccepted) -> list[tuple[ToolsOffered, str]]:
    """What the calls that this request decides on were offered with, and what each is called: a
    decision need not bring the tools again."""
    decided = {
        item["approval_request_id"] for item in accepted.input if item.get("type") == DECISION
    }
    return [
        (each.offered, each.call.name)
        for each in state.waiting.values()
        if each.offered is not None and each.approval_id in decided
    ]


def _refused(param: str, why: str) -> BadRequest:
    return BadRequest(f"{param}: {why}", param=param, code="unsupported_value")
