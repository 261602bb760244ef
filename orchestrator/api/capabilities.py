"""What a request may ask of this agent and its model, once both are known.

A request that cannot be served as it stands is refused before anything is stored, with the field
and a way out: names of tools that nobody has, pictures for a model that reads text, a format
beside tools.

What the tools of MCP servers are is known once the conversation has their lists: `check_tools` is
asked then, with the agent that has them all.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.agents import Agent
from orchestrator.api.response_items import ImagePart, MessageItem
from orchestrator.api.response_request import CreateRequest
from orchestrator.api.response_tools import FunctionTool
from serving.config.model import ModelConfig
from serving.config.sections import nearest
from serving.errors import BadRequest


def check(request: CreateRequest, agent: Agent, models: Iterable[ModelConfig]) -> None:
    """Raises BadRequest. `models` are those that may answer, as far as they are known."""
    if not agent.mcp and not request.servers:
        check_tools(request, agent)
    for model in models:
        _reads(request, model)


def check_tools(request: CreateRequest, agent: Agent) -> None:
    """Raises BadRequest unless what the request says of tools goes with those of the agent."""
    own = agent.tools.names
    names = {*own}
    for index, tool in enumerate(request.tools or ()):
        if not isinstance(tool, FunctionTool):
            continue
        if tool.name in own:
            raise _refused(
                f"tools[{index}].name",
                f"{tool.name!r} is a tool of the agent {agent.name!r}; rename yours",
            )
        names.add(tool.name)
    _tool_choice(request, names)
    wanted = request.text.format if request.text is not None else None
    if wanted is not None and wanted.type != "text" and names and request.tool_choice != "none":
        raise _refused(
            "text.format",
            f"{wanted.type!r} does not go with tools in one response; ask for it in a request "
            "of its own, without tools or with tool_choice: 'none'",
        )


def _tool_choice(request: CreateRequest, names: set[str]) -> None:
    for name in request.forced:
        if name not in names:
            hint = nearest(name, sorted(names)) if names else "there are none"
            raise _refused("tool_choice", f"{name[:80]!r} is not among the tools; {hint}")
    if request.tool_choice == "required" and not names:
        raise _refused("tool_choice", "'required' needs at least one tool; send tools, or 'auto'")


def _reads(request: CreateRequest, model: ModelConfig) -> None:
    effort = request.reasoning.effort if request.reasoning is not None else None
    if effort not in (None, "none") and model.reasoning_parser is None:
        raise _refused(
            "reasoning.effort", "this model does not reason; leave it out, or send 'none'"
        )
    if model.images:
        return
    for index, item in enumerate(request.input):
        for place, part in enumerate(item.content if isinstance(item, MessageItem) else ()):
            if isinstance(part, ImagePart):
                raise _refused(
                    f"input[{index}].content[{place}].type",
                    "'input_image' is not supported: this model reads text; one that reads "
                    "pictures has `images: true` in the stack file",
                )


def _refused(param: str, why: str) -> BadRequest:
    return BadRequest(f"{param}: {why}", param=param, code="unsupported_value")
