"""StackConfig: everything a stack is, as frozen values. `stack_file.py` reads them from YAML.

    StackConfig
    ├── front      where the OpenAI API listens, and its limits
    ├── models     name → engine, weights, replicas, context, prices      (serving)
    ├── router     tiers, placement, queues, caches, failures             (router)
    ├── tools      what tools' schemas may ask for                        (router)
    ├── tenants    name → weight, limits, models; admission: keys, waits  (router)
    ├── agents     name → instructions, tools, examples, limits           (orchestrator)
    ├── mcp        name → MCP servers, whose tools agents can have        (orchestrator)
    └── journal    where conversations are kept                           (orchestrator)

An agent may be given as the path of a file of its own (`desk: ../examples/desk/agent.yaml`).
Secrets are never in this file: they come from the environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, model_validator

from serving.config.agent import AgentConfig
from serving.config.front import FrontConfig
from serving.config.home import home
from serving.config.journal import JournalConfig
from serving.config.mcp import McpConfig, mcp_server
from serving.config.model import ModelConfig
from serving.config.router import RouterConfig, TierKnobs, ToolsConfig
from serving.config.sections import Frozen, Name, nearest
from serving.config.tenancy import OPERATOR, AdmissionConfig, TenantConfig


class StackConfig(Frozen):
    """A whole stack. See `configs/` for examples."""

    name: Name = "warmloop"
    models: Mapping[Name, ModelConfig] = Field(min_length=1)
    front: FrontConfig = FrontConfig()
    router: RouterConfig = RouterConfig()
    tools: ToolsConfig = ToolsConfig()
    tenants: Mapping[Name, TenantConfig] = Field(default_factory=dict)
    """Without any, everybody may use everything, and no request needs a key."""
    admission: AdmissionConfig = AdmissionConfig()
    agents: Mapping[Name, AgentConfig] = Field(default_factory=dict)
    mcp: McpConfig = McpConfig()
    journal: JournalConfig = JournalConfig()

    @model_validator(mode="after")
    def _consistent(self) -> StackConfig:
        if clash := sorted({*self.models, "auto"} & set(self.agents)):
            raise ValueError(
                f"agents.{clash[0]}: the name is taken by a model; agents are addressed as models"
            )
        if "auto" in self.models:
            raise ValueError("models.auto: 'auto' is reserved for the router's choice")
        adapters = self.adapters
        for name, agent in self._all_agents():
            if agent.model not in ("auto", *self.models, *adapters):
                raise ValueError(
                    f"agents.{name}.model: unknown model {agent.model!r}; "
                    + nearest(agent.model, ["auto", *self.models, *adapters])
                )
            if agent.model != "auto" and agent.tier != TierKnobs():
                raise ValueError(
                    f"agents.{name}.tier: goes with model: auto, not with model: {agent.model}; "
                    "remove one of the two"
                )
        return self

    def _all_agents(self) -> Iterator[tuple[str, AgentConfig]]:
        """Every version of every agent, by where it stands."""
        for name, agent in self.agents.items():
            yield name, agent
            for index, version in enumerate(agent.versions):
                yield f"{name}.versions.{index}", version

    @model_validator(mode="after")
    def _agents_know_servers(self) -> StackConfig:
        for name, agent in self._all_agents():
            for tool in agent.tools:
                server = mcp_server(tool)
                if server is not None and server not in self.mcp.servers:
                    raise ValueError(
                        f"agents.{name}.tools: {tool!r}: there is no mcp.servers.{server}; "
                        + (nearest(server, [*self.mcp.servers]) if self.mcp.servers else "add it")
                    )
        return self

    @model_validator(mode="after")
    def _servers_know_agents(self) -> StackConfig:
        known = ["auto", *self.models, *self.adapters, *self.agents]
        for name, server in self.mcp.servers.items():
            opened = server.in_requests
            for each in () if isinstance(opened, bool) else opened:
                if each not in known:
                    raise ValueError(
                        f"mcp.servers.{name}.in_requests: unknown agent or model {each!r}; "
                        + nearest(each, known)
                    )
        return self

    @model_validator(mode="after")
    def _adapters_apart(self) -> StackConfig:
        """An adapter is asked for as a model is: its name may stand for nothing else."""
        taken = {"auto": "the router", **dict.fromkeys(self.models, "a model")}
        taken |= dict.fromkeys(self.agents, "an agent")
        for model, config in self.models.items():
            for name in config.adapters:
                if name in taken:
                    raise ValueError(
                        f"models.{model}.adapters.{name}: the name is taken by {taken[name]}; "
                        "adapters are addressed as models"
                    )
                taken[name] = f"an adapter of {model}"
        return self

    @model_validator(mode="after")
    def _tenants_know_models(self) -> StackConfig:
        if OPERATOR in self.tenants:
            raise ValueError(
                f"tenants.{OPERATOR}: the name is taken by those who run the stack; choose another"
            )
        known = ["auto", *self.models, *self.agents, *self.adapters]
        for tenant, config in self.tenants.items():
            for name in config.models or ():
                if name not in known:
                    raise ValueError(
                        f"tenants.{tenant}.models: unknown name {name!r}; {nearest(name, known)}"
                    )
            for name in config.adapters:
                # Others may be loaded at run time.
                if name in ("auto", *self.models, *self.agents):
                    raise ValueError(
                        f"tenants.{tenant}.adapters: {name!r} is a model or an agent; write it "
                        "under models"
                    )
        return self

    @property
    def adapters(self) -> dict[str, str]:
        """The configured adapters: name → the model that they belong to."""
        return {name: model for model, config in self.models.items() for name in config.adapters}

    @property
    def folder(self) -> Path:
        """Where this stack keeps its journal, logs and run file."""
        return home() / "stacks" / self.name

    @property
    def keys_path(self) -> Path:
        return self.admission.keys or self.folder / "keys.json"

    @property
    def journal_path(self) -> Path:
        return self.journal.path or self.folder / "journal.db"
