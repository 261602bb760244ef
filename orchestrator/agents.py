"""Agents: what a configuration says about each, resolved once into values that a worker uses.

    "support"    the agent of that name           "support@3"  the same, if that is its version
    "frontier"   a bare model: no tools, no instructions, the text that it writes is the answer

The head (instructions and worked examples) and the tools are rendered here, once: they are the
prefix that all conversations of an agent share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.canonical import canonical
from orchestrator.loop.prompt import Message, Prompt, tool_message
from orchestrator.tools import children
from orchestrator.tools.base import Tool
from orchestrator.tools.loader import load
from orchestrator.tools.toolbox import Toolbox
from router.tenancy.access import visible
from router.tenancy.tenants import OPEN, Tenant
from serving import reply
from serving.config.agent import AgentConfig, AgentLimits
from serving.config.context import ContextConfig
from serving.config.mcp import mcp_server
from serving.config.router import TurnType
from serving.config.sections import nearest
from serving.config.stack import StackConfig
from serving.config.tool import ToolSettings
from serving.errors import ConfigError, NotFound


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent at one version."""

    name: str
    version: int | None
    """None: a bare model."""
    model: str
    """What engines are asked for: a model's name, or `auto`."""
    tools: Toolbox
    limits: AgentLimits
    head: bytes
    """Instructions and examples as canonical messages, joined with commas."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The other fields of each request."""
    reply_tool: bool = False
    context: ContextConfig = field(default_factory=ContextConfig)
    mcp: tuple[str, ...] = ()
    """`mcp:SERVER` and `mcp:SERVER/TOOL`: tools that it has besides, as their servers list them."""
    tool_settings: Mapping[str, ToolSettings] = field(default_factory=dict)

    @property
    def head_bytes(self) -> int:
        """Of what all its prompts begin with, tools included."""
        return len(self.head) + len(canonical(self.settings.get("tools", [])))

    @property
    def key(self) -> str:
        """What a conversation's log calls it: `name@version`, or the bare model's name."""
        return self.name if self.version is None else f"{self.name}@{self.version}"

    @property
    def turn_type(self) -> TurnType:
        """What the router is told of the main chain's turns."""
        return "finalise" if self.version is None else "tool-call"

    def with_tools(self, more: Iterable[Tool], asks: Collection[str] = ()) -> Agent:
        """The same with more tools, its own among them unchanged; each call of those that `asks`
        names waits for a person, too."""
        added = held(more, self.tool_settings, mcp=True, where="tool_settings")
        box = self.tools.extended(
            replace(each, requires_approval=True) if each.name in asks else each for each in added
        )
        own = {each["function"]["name"] for each in self.tools.definitions()}
        new = [each for each in box.definitions() if each["function"]["name"] not in own]
        tools = [*self.settings.get("tools", ()), *new]
        tools.sort(key=lambda each: str(each["function"]["name"]))
        settings = {"tool_choice": "auto", "parallel_tool_calls": True, **self.settings}
        return replace(self, tools=box, settings={**settings, "tools": tools})

    def prompt(self) -> Prompt:
        """A new, empty conversation's prompt."""
        return Prompt(self.head, self.settings, reply_tool=self.reply_tool)


class Agents:
    """All that a client can name as `model` of a response."""

    def __init__(
        self,
        agents: Iterable[Agent],
        models: Iterable[str] = (),
        parent: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`parent` gives the model of what is a LoRA adapter now: those come and go."""
        self._agents: dict[str, Agent] = {}
        self._versions: dict[str, Agent] = {}
        for agent in agents:  # of several versions the first is the one that new ones begin with
            self._agents.setdefault(agent.name, agent)
            self._versions[agent.key] = agent
        self._models = {name: _bare(name) for name in models}
        self._parent = parent

    @classmethod
    def from_config(
        cls, stack: StackConfig, parent: Callable[[str], str | None] = lambda _: None
    ) -> Agents:
        """Load every agent's tools; the first that fails raises ConfigError."""
        agents = [
            resolve(name, version, children.agent_tools(name, version, stack.agents))
            for name, config in stack.agents.items()
            for version in (config, *config.versions)
        ]
        return cls(agents, ["auto", *stack.models], parent)

    def close(self) -> None:
        """Let go of the threads that tools run in."""
        for agent in self._versions.values():
            agent.tools.close()

    def names(self) -> list[str]:
        """The agents, without the bare models."""
        return list(self._agents)

    def get(self, name: str, tenant: Tenant = OPEN) -> Agent:
        """By `name`, `name@version`, or a model's or an adapter's name. Raises NotFound, also for
        what this tenant may not use."""
        base, at, version = name.partition("@")
        agent = self._agents.get(base) if tenant.may_use(base) else None
        if agent is None and tenant.may_use(name, self._parent(name)):
            if (model := self._models.get(name)) is not None:
                return model
            if self._parent(name) is not None:
                return _bare(name)
        if agent is None:
            names = [*self._agents, *self._models]
            hint = nearest(base, visible(tenant, names, self._parent))
            raise NotFound(
                f"model: unknown agent or model {name[:80]!r}; {hint}",
                param="model",
                code="model_not_found",
            )
        if at:
            pinned = self._versions.get(name)
            if pinned is not None:
                return pinned
            known = [each.key for each in self._versions.values() if each.name == base]
            raise NotFound(
                f"model: agent {base!r} has no version {version[:80]!r}; "
                f"use {base!r}, or one of: {', '.join(known)}",
                param="model",
                code="agent_version_not_found",
            )
        return agent


def resolve(name: str, config: AgentConfig, tools: Iterable[Tool] = ()) -> Agent:
    """An agent from its configuration; `tools` come on top of those that it names."""
    where = f"agents.{name}.tools"
    path = Path(config.tool_path) if config.tool_path else None
    mcp = tuple(spec for spec in config.tools if mcp_server(spec) is not None)
    elsewhere = (*mcp, *(spec for spec in config.tools if spec.startswith(children.PREFIX)))
    own = (spec for spec in config.tools if spec not in elsewhere)
    loaded = [*(load(spec, path, where=where) for spec in own), *tools]
    names = [each.name for each in loaded]
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise ConfigError(f"{where}: {twice[0]!r} stands for two functions; rename one")
    where = f"agents.{name}.tool_settings"
    box = Toolbox(held(loaded, config.tool_settings, mcp=bool(mcp), where=where))
    definitions = [*box.definitions(), *([reply.DEFINITION] if config.reply_tool else [])]
    definitions.sort(key=lambda each: str(each["function"]["name"]))
    settings: dict[str, Any] = {
        **_STREAMED,
        "model": config.model,
        "temperature": config.temperature,
        "max_tokens": config.max_output_tokens,
    }
    if definitions:
        settings["tools"] = definitions
        settings["tool_choice"] = "required" if config.reply_tool else "auto"
        settings["parallel_tool_calls"] = not config.reply_tool
    head: list[Message] = []
    if config.instructions:
        head.append({"role": "system", "content": config.instructions})
    head += examples(config.examples, where=f"agents.{name}.examples")
    return Agent(
        name=name,
        version=config.version,
        model=config.model,
        tools=box,
        limits=config.limits,
        head=b",".join(canonical(message) for message in head),
        settings=settings,
        reply_tool=config.reply_tool,
        context=config.context,
        mcp=mcp,
        tool_settings=config.tool_settings,
    )


def held(
    tools: Iterable[Tool], settings: Mapping[str, ToolSettings], *, mcp: bool, where: str
) -> list[Tool]:
    """The tools as the configuration holds them. Raises ConfigError for one that is not there."""
    found = {each.name: each for each in tools}
    for name, said in settings.items():
        if name not in found:
            if mcp:
                continue  # a server lists it, or not
            raise ConfigError(f"{where}.{name}: no such tool; {nearest(name, list(found))}")
        limits = {
            key: value
            for key, value in said.model_dump(exclude={"requires_approval", "fork"}).items()
            if value is not None
        }
        asks = said.requires_approval
        found[name] = replace(
            found[name],
            limits=replace(found[name].limits, **limits),
            requires_approval=found[name].requires_approval if asks is None else asks,
        )
    return list(found.values())


_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def _bare(model: str) -> Agent:
    settings = {**_STREAMED, "model": model}
    return Agent(model, None, model, Toolbox(()), AgentLimits(), b"", settings)


def examples(given: Iterable[Mapping[str, Any]], *, where: str) -> list[Message]:
    """Worked examples as chat messages.

    Calls may be written short, `{name: search, arguments: {query: bell}}`: they get ids and
    arguments as JSON text, and tool messages without an id answer the calls in order. A reply is
    followed by what follows it in every later prompt.
    """
    messages: list[Message] = []
    open_ids: list[str] = []
    count = 0
    for index, example in enumerate(given):
        message = dict(example)
        replied: list[str] = []
        role = message.get("role")
        if role not in ("system", "user", "assistant", "tool"):
            raise ConfigError(
                f"{where}.{index}.role: {role!r}; valid: system, user, assistant, tool"
            )
        if role == "tool":
            if not open_ids:
                raise ConfigError(f"{where}.{index}: a tool message without a call before it")
            message.setdefault("tool_call_id", open_ids[0])
            open_ids.pop(0)
        else:
            open_ids = []
        if calls := message.get("tool_calls"):
            message.setdefault("content", "")
            message["tool_calls"] = []
            for call in calls:
                count += 1
                whole = _example_call(call, f"example_{count}", f"{where}.{index}.tool_calls")
                message["tool_calls"].append(whole)
                ids = replied if whole["function"]["name"] == reply.REPLY else open_ids
                ids.append(whole["id"])
        messages.append(message)
        messages += [tool_message(call_id, reply.ACKNOWLEDGED) for call_id in replied]
    return messages


def _example_call(call: Any, call_id: str, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(f"{where}: write each call as {{name: ..., arguments: {{...}}}}")
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    return {
        "id": call.get("id", call_id),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
