"""What the loop knows, and what it can do next: the values between `fold` and `next_step`.

A State belongs to whoever folds it and is changed in place, O(1) an event, because a worker folds
each event once and a copy of a long history for every event would be quadratic. Steps are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from orchestrator.loop.budgets import Cap, Spent, Totals
from orchestrator.loop.events import (
    Call,
    Compacted,
    HistoryImported,
    LimitReached,
    ModelFailed,
    ModelResult,
    Notice,
    ResponseAccepted,
    Status,
    TimerSet,
    ToolFailed,
    ToolResult,
    ToolsOffered,
)
from orchestrator.mcp.offer import Listing
from serving import reply
from serving.config.context import ContextConfig
from serving.config.model import Prices

REPLY = reply.REPLY
ToolKind = Literal["pure", "idempotent", "queryable", "unsafe"]
"""May a call whose outcome is in doubt run again? `pure` has no effect at all, `idempotent` acts
once for each key, `queryable` can be asked what it did, `unsafe` can do none of these."""

Shown = HistoryImported | ResponseAccepted | ModelResult | ToolResult | Notice | Compacted
"""The events that the model sees, in the order in which it sees them."""

Phase = Literal["ready", "asking", "retry", "given_up", "tools", "answered"]


@dataclass(slots=True)
class OpenCall:
    """A call of the newest turn: how often it was started, and what it gave."""

    call: Call
    attempts: int = 0
    began_at: float = 0.0
    """Unix time of the newest attempt."""
    result: ToolResult | None = None
    failed: ToolFailed | None = None
    """The newest attempt's failure, if it may be tried again."""
    failures: int = 0
    timer: TimerSet | None = None
    approval: Literal["", "asked", "approved", "denied"] = ""
    approval_id: str = ""
    reason: str = ""
    """Why a person was asked."""
    said: str = ""
    """What the person said."""
    offered: ToolsOffered | None = None
    """Of a call that waits: what its request asked of the tool's server."""


@dataclass(slots=True)
class Run:
    """A response in progress."""

    response_id: str
    request: dict[str, Any]
    spent: Spent
    client_tools: frozenset[str] = frozenset()
    """Function tools that the client runs: their calls end the response and stay open."""
    offered: dict[str, ToolsOffered] = field(default_factory=dict)
    """What the request asked of MCP servers, by server."""
    phase: Phase = "ready"
    attempt: int = 0
    failures: int = 0
    """Attempts of this step that failed; attempts that died with their process do not count, nor
    do those that found no engine."""
    waiting_since: float = 0.0
    """Unix seconds of this step's first attempt that found no engine; 0: none did."""
    failed: ModelFailed | None = None
    touches: int = 0
    """How often the prompt was read again since the newest answer."""
    touches_usd: float = 0.0
    """What that has cost in this response."""
    calls: dict[str, OpenCall] = field(default_factory=dict)
    unresolved: int = 0
    answer: ModelResult | None = None
    limit: LimitReached | None = None
    told: set[str] = field(default_factory=set)
    """Names of the notices that the model was given."""
    unsaid: list[Notice] = field(default_factory=list)
    """Notices that came while calls were open: they are shown after the calls' results."""
    compacted_at: int = 0
    """The step before which the prompt was rewritten, in this response; 0: it was not."""
    last: Notice | None = None
    """The next turn's answer is the last one, for this reason."""
    cancel_requested: bool = False
    streamed_chars: int = 0
    """Output of the attempt in progress that is already in the log."""
    streamed_text: list[str] = field(default_factory=list)
    held: ResponseAccepted | None = None
    """The request that brought decisions: shown to the model after the results of their calls."""


@dataclass(slots=True)
class State:
    """A conversation as its log tells it."""

    agent: str = ""
    tenant: str = ""
    seq: int = 0
    step: int = 0
    """The newest step's number; counts through the whole conversation."""
    history: list[Shown] = field(default_factory=list)
    """Append-only, with the results of parallel calls in the order of the calls; a Compacted, and
    nothing else, takes the place of what was before."""
    run: Run | None = None
    waiting: dict[str, OpenCall] = field(default_factory=dict)
    """Calls that stay open between responses: a person decides on them, or the client runs them."""
    offers: dict[str, Listing] = field(default_factory=dict)
    """What MCP servers offer to this conversation, by server."""
    offers_next: dict[str, Listing] = field(default_factory=dict)
    """What takes their place when the prompt is rewritten the next time."""
    last_response_id: str = ""
    last_status: Status | None = None
    turn_at: float = 0.0
    """Unix time of the newest answer, or of reading its prompt again: from then on the engine's
    copy of the prompt ages."""
    turn_tokens: int = 0
    """Of that turn's prompt."""
    turn_model: str = ""
    """That has answered it."""
    read_tokens: int = 0
    """The most that an engine had to compute of a prompt at once."""
    read_s: float = 0.0
    """How long it took for that."""
    held_after_s: float = 0.0
    """The longest pause over which the engine was seen to keep the prompt."""
    lost_after_s: float = 0.0
    """The shortest one over which it was seen to lose it; 0: none."""
    total: Totals = field(default_factory=Totals)
    """What all its responses have used."""
    told: set[str] = field(default_factory=set)
    """Names of the notices about the whole conversation."""
    purged: bool = False
    """Nothing is left of the conversation; it takes no requests."""


class Idle(msgspec.Struct, frozen=True, gc=False):
    """Nothing to do until the next request."""


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Nothing to do before `until` (Unix seconds)."""

    until: float


class CallModel(msgspec.Struct, frozen=True, gc=False):
    """Tell the model those notices and ask it; `supersedes` is an attempt whose process died (0:
    none)."""

    step: int
    attempt: int
    supersedes: int = 0
    notices: list[Notice] = []


class CloseTurn(msgspec.Struct, frozen=True, gc=False):
    """The attempt died after calls of it had begun: they are the turn's result."""

    step: int
    attempt: int


class StartCall(msgspec.Struct, frozen=True, gc=False):
    """Run a call; `attempt` counts from 1, and all attempts have the same key."""

    call: Call
    attempt: int = 1


class LookUpCall(msgspec.Struct, frozen=True, gc=False):
    """Ask the tool what the call did; `attempt` is the next one's number, if it did nothing."""

    call: Call
    attempt: int


class AskPerson(msgspec.Struct, frozen=True, gc=False):
    """Ask whether a call may run (again)."""

    call: Call
    reason: Literal["required", "outcome_unknown"]


class CloseCall(msgspec.Struct, frozen=True, gc=False):
    """A call has its result without being run."""

    call: Call
    outcome: Literal["ok", "refused", "outcome_unknown"]
    output: str


Action = StartCall | LookUpCall | AskPerson | CloseCall


class RunTools(msgspec.Struct, frozen=True, gc=False):
    """Do this for the open calls, and look again at `due` (Unix seconds) if not before."""

    step: int
    actions: list[Action]
    due: float | None = None


class Refuse(msgspec.Struct, frozen=True, gc=False):
    """Close these calls without running them, and tell the model why."""

    step: int
    calls: list[Call]
    said: str
    notice: Notice


class Compact(msgspec.Struct, frozen=True, gc=False):
    """Rewrite the prompt; `replaced` is what leaves it, for a summary."""

    event: Compacted
    replaced: list[Shown]


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The response ends."""

    status: Status
    code: str = ""
    message: str = ""
    limit: LimitReached | None = None


Step = Idle | Wait | CallModel | CloseTurn | RunTools | Refuse | Compact | Finish
IDLE = Idle()


class Around(msgspec.Struct, frozen=True, gc=False):
    """What is not in the conversation's log and yet bounds it."""

    caps: tuple[Cap, ...] = ()
    """Of its tenant."""
    context: ContextConfig = ContextConfig()
    context_tokens: int = 0
    """Of the model; 0: not known."""
    answer_tokens: int = 0
    """Of one answer at most."""
    head_bytes: int = 0
    """Of instructions, examples and tools."""
    prices: Prices = Prices()


ALONE = Around()


def functions_of(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A request's tools that the client itself runs."""
    tools = request.get("tools") or ()
    return [tool for tool in tools if tool.get("type", "function") == "function"]


def is_first_turn(state: State) -> bool:
    """Has the model not yet answered in this response?"""
    for event in reversed(state.history):
        if isinstance(event, ModelResult):
            return False
        if isinstance(event, ResponseAccepted):
            break
    return True


def replies(result: ModelResult) -> bool:
    """Did the model answer through the reply tool? Then the response ends, and calls beside it do
    not run. A reply without usable text is a call like any other that is refused."""
    return any(call.name == REPLY and reply.text_of(call.arguments) for call in result.calls)
