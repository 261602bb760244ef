"""What a Responses request changes about the requests that an agent's model gets.

    tools         the agent's own and those that the client runs, sorted by name together
    tool_choice   what the client asks for, on the first turn of a response; later turns are free,
                  or a forced tool would be called for ever
    text.format   the engine's grammar; there is no call in such a turn

A `reply` tool (`serving/reply.py`) is the agent's way to answer: `none` is then a call of it, and
`required` a turn without it. The list of tools stands at the front of the prompt, so what shortens
it (`required` beside a reply tool, `allowed_tools`) costs the prefix; the rest costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.api.response_format import response_format
from orchestrator.loop.events import ToolsOffered
from orchestrator.loop.state import functions_of
from serving.reply import REPLY

NOTHING: Mapping[str, ToolsOffered] = {}
PASSED_ON = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


def overrides(
    settings: Mapping[str, Any],
    request: Mapping[str, Any],
    *,
    first: bool = True,
    output_tokens: int = 0,
    offered: Mapping[str, ToolsOffered] = NOTHING,
) -> dict[str, Any]:
    """The fields that replace an agent's settings. `output_tokens` were written before; `offered`
    is what the request has of MCP servers."""
    changed: dict[str, Any] = {
        name: request[name] for name in PASSED_ON if request.get(name) is not None
    }
    if request.get("max_output_tokens") is not None:
        # The last token is asked for in any case: the engine then says that the answer was cut.
        changed["max_tokens"] = max(1, request["max_output_tokens"] - output_tokens)
    if effort := (request.get("reasoning") or {}).get("effort"):
        changed["reasoning_effort"] = effort
    changed |= _tools(settings, request, offered, first=first)
    if wanted := response_format(request.get("text")):
        changed["response_format"] = wanted
        if "tools" in settings or "tools" in changed:
            changed["tool_choice"] = "none"
    return changed


def without_tools(settings: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a turn that must answer. The tools stay where they are, part of the prefix: they
    only may not be called."""
    tools = changed.get("tools", settings.get("tools", ()))
    if not tools:
        return dict(changed)
    replying = any(_name(tool) == REPLY for tool in tools)
    return {**changed, "tool_choice": _named(REPLY) if replying else "none"}


def is_forced(request: Mapping[str, Any]) -> bool:
    """Does `tool_choice` differ between a response's first turn and the others?"""
    choice = request.get("tool_choice")
    return choice is not None and (choice == "required" or isinstance(choice, Mapping))


def _tools(
    settings: Mapping[str, Any],
    request: Mapping[str, Any],
    offered: Mapping[str, ToolsOffered],
    *,
    first: bool,
) -> dict[str, Any]:
    given, choice = functions_of(request), request.get("tool_choice")
    parallel = request.get("parallel_tool_calls")
    own = list(settings.get("tools", ()))
    tools = [*own, *map(_chat_tool, given)]
    if not tools or not (given or choice or parallel is not None):
        return {}
    changed: dict[str, Any] = {}
    replying = any(_name(tool) == REPLY for tool in own)
    mode, names = _mode(choice, offered, first=first)
    if names is not None:
        # Between calls a reply must stay possible, or the loop could not end.
        allowed = {*names, REPLY} if mode == "auto" else names
        tools = [tool for tool in tools if _name(tool) in allowed]
    elif replying and mode == "required":
        tools = [tool for tool in tools if _name(tool) != REPLY]
    if tools != own:
        changed["tools"] = sorted(tools, key=_name)
    if isinstance(mode, Mapping):
        changed["tool_choice"] = mode
    elif replying:
        changed["tool_choice"] = _named(REPLY) if mode == "none" else "required"
    else:
        changed["tool_choice"] = mode
    changed["parallel_tool_calls"] = not replying and parallel is not False
    return changed


def _mode(
    choice: Any, offered: Mapping[str, ToolsOffered], *, first: bool
) -> tuple[Any, Sequence[str] | None]:
    """The chat API's choice, and the names that the list of tools is cut down to."""
    if not isinstance(choice, Mapping):
        return ("auto" if choice == "required" and not first else choice or "auto"), None
    if choice.get("type") == "allowed_tools":
        names = [name for tool in choice.get("tools", ()) for name in _names_of(tool, offered)]
        return (choice.get("mode") or "auto") if first else "auto", names
    if not first:
        return "auto", None
    names = _names_of(choice, offered)
    return (_named(names[0]), None) if len(names) == 1 else ("required", names)


def _names_of(chosen: Mapping[str, Any], offered: Mapping[str, ToolsOffered]) -> list[str]:
    """What the model calls a tool that a choice names, or all of a server's."""
    name = chosen.get("name")
    if chosen.get("type") != "mcp":
        return [str(name)]
    given = offered.get(str(chosen.get("server_label")))
    tools = given.names.items() if given is not None else ()
    return [visible for visible, tool in tools if name in (None, tool)]


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function tool of the Responses API as the chat API writes it."""
    function = {
        name: tool[name] for name in ("name", "description", "parameters") if tool.get(name)
    }
    return {"type": "function", "function": {**function, "strict": True}}
