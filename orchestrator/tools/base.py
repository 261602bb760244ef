"""What a tool is: one shape for Python functions, MCP tools and agents that are asked as tools.

    arguments as JSON ─► Tool.check ─► a dict | Refused(what the model is told)      no effect
    dict, ToolContext ─► Tool.invoke ─► a value | ToolOutput | Later, or ToolError   the effect

`Toolbox` runs them and turns whatever happens into what the model reads; `functions.py` makes
them of functions. Authors of tools import it so:

    from orchestrator.tools import ToolContext, ToolError, ToolOutput, tool

What a tool returns or raises is data for the model: never a trace, never evaluated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from orchestrator.loop.events import Call, Item
from orchestrator.loop.state import Shown, ToolKind
from orchestrator.tools.errors import INVALID_ARGUMENTS, error_text
from serving.schemas import register

F = TypeVar("F", bound=Callable[..., Any])


class ToolError(Exception):
    """A tool's refusal in its own words. The model reads the code, the sentence and the time.

    `transient`: nothing has happened, and the same call may succeed later; it is tried again by
    itself, after `retry_after_ms` if given, and the model hears of it only when all tries failed.
    The code `invalid_arguments` says that no try can succeed, since the arguments are wrong.
    """

    def __init__(
        self,
        error_code: str,
        message: str = "",
        *,
        retry_after_ms: int | None = None,
        human: str = "",
        transient: bool = False,
    ) -> None:
        """`message` is for the log of calls; `human` (default: `message`) is what the model and
        the person behind it may read."""
        super().__init__(message or human or error_code)
        self.error_code = error_code
        self.human = human or message or error_code
        self.retry_after_ms = retry_after_ms
        self.transient = transient


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """A result with what came beside it. `failed` says which parts of the work were not done:
    the result is then partial, and the model is told so."""

    value: Any
    cost_usd: float = 0.0
    """Counts in the budget of the response."""
    quota: Mapping[str, float] = field(default_factory=dict)
    """What is left of the caller's allowance with whoever stands behind the tool."""
    failed: Sequence[Any] = ()
    agents_usd: float = 0.0
    """Of the cost, what agents have spent that were asked."""


@dataclass(frozen=True, slots=True)
class Later:
    """The call's answer is `value`, but not before `until` (Unix seconds). Costs nothing until
    then, and survives restarts."""

    until: float
    value: Any


@dataclass(frozen=True, slots=True)
class NeedsPerson:
    """The call cannot go on without a person's word on this; approved, it is run again."""

    name: str
    arguments: str


NOT_DONE = object()
"""What the lookup of a queryable tool returns for a key under which nothing was done."""
UNKNOWN = object()
"""What it returns when it cannot tell: a person decides."""


class ChildRuns(Protocol):
    """Other agents, asked on behalf of a call (`children.py`)."""

    async def ask(
        self, agent: str, task: str, context: ToolContext, history: Sequence[Item]
    ) -> ToolOutput | NeedsPerson:
        """The agent's answer, the same however often the same call asks."""

    async def abandon(self, context: ToolContext) -> None:
        """The call's response has ended: nobody waits for the answer."""


class ToolHost(Protocol):
    """What a built-in tool may ask of the run that it works for."""

    async def kept(self, handle: str) -> str | None:
        """A result that was too long to be shown, whole; None: there is none by this handle."""

    async def notes(self) -> Sequence[str]:
        """What calls of the tool `note` wrote down, the oldest first."""

    def history(self) -> Sequence[Shown]:
        """What the model has been shown before the turn that made this call."""

    @property
    def children(self) -> ChildRuns | None:
        """Where other agents are asked."""


class ToolContext(msgspec.Struct, frozen=True):
    """What is known around a call."""

    key: str
    """conversation:step:call: the same however often the call is run. The idempotency key."""
    call_id: str = ""
    conversation: str = ""
    response_id: str = ""
    agent: str = ""
    tenant: str = ""
    attempt: int = 1
    traceparent: str = ""
    """W3C trace context: the request's trace, a span of this attempt's own."""
    deadline: float = float("inf")
    """Unix seconds at which the response runs out of time."""
    at: float = 0.0
    """Unix seconds at which the attempt began."""
    approved: bool = False
    """A person has just allowed this attempt."""
    depth: int = 0
    """How many agents deep the caller is."""
    report: Callable[[Any], None] = lambda value: None
    host: ToolHost | None = None

    def progress(self, value: Any) -> None:
        """Show something to whoever watches the response; the model does not see it."""
        self.report(value)


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A call that must not run, and what the model is told."""

    message: str


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """How a tool is held. They count within one agent of one process."""

    timeout_s: float | None = None
    """None: the agent's `limits.tool_timeout_s`. `inf`: the tool holds its own time."""
    at_once: int | None = None
    """Calls that run at the same time; more wait for their turn."""
    per_minute: float | None = None
    """Calls that begin in a minute; more wait."""
    breaker_failures: int = 5
    """So many failures in a row open the breaker: calls are refused at once."""
    breaker_open_s: float = 30.0
    """Then a single call tries whether the tool is back."""


Check = Callable[[str], "dict[str, Any] | Refused"]
Invoke = Callable[[dict[str, Any], ToolContext], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that a model may call. Change one with `dataclasses.replace`."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments."""
    check: Check
    invoke: Invoke
    kind: ToolKind = "unsafe"
    limits: ToolLimits = ToolLimits()
    output_schema: dict[str, Any] | None = None
    """JSON schema of the result; None: any."""
    check_output: Callable[[str], str] | None = None
    """What is wrong with a result, given as JSON; empty: nothing."""
    version: str = ""
    requires_approval: bool = False
    lookup: Callable[[str, ToolContext], Awaitable[Any]] | None = None
    """Of a queryable tool: the result of the call with this key, NOT_DONE or UNKNOWN."""
    abandon: Callable[[ToolContext], Coroutine[Any, Any, None]] | None = None
    """The response ended while the call ran: let go of what it began."""
    close: Callable[[], None] = lambda: None

    def definition(self) -> dict[str, Any]:
        """As it stands in a chat request."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
                "strict": True,
            },
        }


@dataclass(frozen=True, slots=True)
class Marker:
    """What `@tool` notes on a function."""

    kind: ToolKind = "unsafe"
    limits: ToolLimits = ToolLimits()
    version: str = ""
    requires_approval: bool = False
    lookup: Callable[..., Any] | None = None


def tool(
    *,
    kind: ToolKind,
    timeout_s: float | None = None,
    at_once: int | None = None,
    per_minute: float | None = None,
    version: str = "",
    requires_approval: bool = False,
    lookup: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Say how a tool behaves when a call is repeated, and within which limits it may be used."""
    limits = ToolLimits(timeout_s, at_once, per_minute)
    marker = Marker(kind, limits, version, requires_approval, lookup)

    def mark(function: F) -> F:
        function.__warmloop_tool__ = marker  # type: ignore[attr-defined]
        return function

    return mark


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A call whose arguments are valid."""

    call: Call
    tool: Tool
    arguments: dict[str, Any]


def schema_check(name: str, parameters: dict[str, Any]) -> Check:
    """The `check` of a tool that is known by its schema alone. Raises SchemaRefused."""
    registered = register(parameters)

    def check(arguments: str) -> dict[str, Any] | Refused:
        if problems := registered.problems(arguments or "{}"):
            said = f"{name}: {'; '.join(problems)}"
            return Refused(error_text(INVALID_ARGUMENTS, said[:2000]))
        found: dict[str, Any] = msgspec.json.decode(arguments or "{}")
        return found

    return check
