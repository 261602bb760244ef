"""An agent of a stack: what it is told, its tools, and how far it may go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from serving.config.context import ContextConfig
from serving.config.router import TierKnobs
from serving.config.sections import Frozen
from serving.config.tool import ToolSettings


class ConversationLimits(Frozen):
    """What all responses of one conversation may use together; unset: no limit."""

    max_turns: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    """Of model turns, all together; the time between requests does not count."""
    max_cost_usd: float | None = Field(default=None, gt=0)


class AgentLimits(Frozen):
    """How far one response of an agent may go; see docs/safety.md.

    Near a limit the model is told, and asked for a last answer while there is room for one;
    reaching it ends the response as `incomplete`.
    """

    max_turns: int = Field(default=12, ge=1)
    max_tool_calls: int = Field(default=24, ge=0)
    max_tokens: int = Field(default=200_000, ge=1)
    """Prompt and output tokens of all turns together."""
    max_seconds: float = Field(default=900.0, gt=0)
    max_cost_usd: float | None = Field(default=None, gt=0)
    same_call: int = Field(default=3, ge=2)
    """The same call with the same arguments this many times in a row trips the breaker."""
    same_state: int = Field(default=3, ge=2)
    """So many turns with the same calls and the same results, not only in a row, do too."""
    max_calls_a_turn: int = Field(default=16, ge=1)
    """Calls in one answer; more are a storm, and none of them runs."""
    max_calls_a_minute: int = Field(default=240, ge=1)
    """Calls that begin within a minute; more are a storm too."""
    warn_at: float = Field(default=0.8, gt=0, le=1)
    """Share of a limit at which the model is told that it comes near; 1 = never."""
    last_answer: bool = True
    """Ask for a last answer, without tools, while there is room for one more turn; else the limit
    just cuts."""
    remind_every: int = Field(default=10, ge=0)
    """Turns after which the model is reminded of its task and asked for its plan; 0 = never."""
    conversation: ConversationLimits = ConversationLimits()
    tool_timeout_s: float = Field(default=30.0, gt=0)
    tool_result_bytes: int = Field(default=16_384, ge=256)
    """What the model is shown of a result; the whole of it is kept in the journal."""
    tool_kept_bytes: int = Field(default=4 * 2**20, ge=256)
    """What is kept of a result at most."""
    tool_progress_bytes_per_s: int = Field(default=8192, ge=256)
    """What one running call may put into the journal as progress; of more the newest is kept."""
    tool_attempts: int = Field(default=4, ge=1)
    """Tries of one call whose tool says that it may work later."""
    model_attempts: int = Field(default=3, ge=1)
    """Tries of one model turn when engines fail."""
    engine_wait_s: float = Field(default=300.0, ge=0)
    """How long one turn waits for an engine while none is ready: it may be starting again."""


class AgentConfig(Frozen):
    """An agent: what it is told, what it may do, and how far it may go."""

    version: int = Field(default=1, ge=1)
    model: str = "auto"
    tier: TierKnobs = TierKnobs()
    """Of `model: auto`: what differs from the stack's `router.tiers`."""
    instructions: str = ""
    description: str = ""
    """What it is good for, told to agents that have it as a tool."""
    tools: tuple[str, ...] = ()
    """`module:function`; modules are looked up in `tool_path`, then on sys.path. `mcp:SERVER` are
    all tools of an MCP server, `mcp:SERVER/TOOL` is one of them, `agent:NAME` is another agent,
    `builtin:sleep`, `wait_until`, `read_result`, `note` and `recall` come with the loop."""
    tool_settings: Mapping[str, ToolSettings] = Field(default_factory=dict)
    """By the tool's name: approval, limits."""
    tool_path: Path | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    """Worked examples as chat messages at the head of every conversation."""
    reply_tool: bool = True
    """Answer through a built-in `reply(text)` tool under `tool_choice: required`."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_output_tokens: int = Field(default=512, ge=1)
    limits: AgentLimits = AgentLimits()
    context: ContextConfig = ContextConfig()
    versions: tuple[AgentConfig, ...] = ()
    """Other versions, whole, that conversations may still be on: each goes on with the version
    that it began with. `name@version` asks for one."""

    @model_validator(mode="after")
    def _versions_differ(self) -> AgentConfig:
        numbers = [self.version, *(each.version for each in self.versions)]
        if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
            raise ValueError(f"versions: version {twice[0]} is there twice; give each its own")
        if nested := [each.version for each in self.versions if each.versions]:
            raise ValueError(f"versions: version {nested[0]} has versions itself; list them beside")
        return self
