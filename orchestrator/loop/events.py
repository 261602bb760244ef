"""Every event that a conversation's log can hold, on one page.

The log of a conversation is append-only; its state is a fold over these values
(`machine.py`). One log is the checkpoint, the audit trail, the SSE replay buffer and the cost
record. Fields are only ever added, with defaults: a log of any release must still fold.

A response (one user request to an agent) reads in the log as

    ResponseAccepted
      ToolsListed*  ToolsOffered*
      Notice*  ModelIntent  ModelRouted  OutputDelta*  ModelResult     one turn = one `step`
      ToolIntent*  ToolResult*                                the calls of that turn
        ToolFailed  TimerSet  ApprovalRequested               what may come between the two
      ModelIntent  ...
    ResponseFinished

Intent is written before the effect, the result after. `at` is Unix time in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from orchestrator.mcp.offer import Listing
from serving.config.router import TurnType

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
Item = dict[str, Any]
"""An OpenAI Responses item: message, function_call, function_call_output, ..."""


class Event(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    """Base of all events; the tag is the class's name. Values without cycles: `gc=False` keeps the
    garbage collector from walking every history again and again."""


class ConversationStarted(Event, frozen=True, tag="conversation_started", omit_defaults=True):
    agent: str
    """`name@version`, or a bare model name for a conversation without an agent. Empty: its first
    response settles it, in a second event of this type."""
    at: float
    tenant: str = ""
    metadata: dict[str, str] = {}


class HistoryImported(Event, frozen=True, tag="history_imported", omit_defaults=True):
    """The items of another conversation up to a response: this one is a fork of it."""

    source: str
    response_id: str
    items: list[Item]


class HistoryReplaced(Event, frozen=True, tag="history_replaced", omit_defaults=True):
    """A client deleted items: from here on the model sees these."""

    at: float
    items: list[Item]
    deleted: list[str] = []
    """Ids of the items, as clients see them."""


class ConversationUpdated(Event, frozen=True, tag="conversation_updated", omit_defaults=True):
    at: float
    metadata: dict[str, str] = {}


class ToolsListed(Event, frozen=True, tag="tools_listed", omit_defaults=True):
    """The tools of an MCP server that this conversation has, whatever the server lists later: they
    stand before the messages of every prompt. A server's first list counts from here on, any other
    from the next Compacted on."""

    server: str
    """As the configuration names it."""
    at: float
    listing: Listing


class ToolsOffered(Event, frozen=True, tag="tools_offered", omit_defaults=True):
    """What a request's tool of type `mcp` comes to: the tools of a server that this response has
    from here on, in place of those that its agent may have of that server."""

    server: str
    at: float
    asked: dict[str, Any] = {}
    """The tool as the request has it."""
    names: dict[str, str] = {}
    """What the model calls each tool → the server's own name of it."""
    approvals: list[str] = []
    """Those, as the model calls them, whose calls wait for a person."""


class ResponseAccepted(Event, frozen=True, tag="response_accepted", omit_defaults=True):
    """A request was taken on; what it asks is all that its run may depend on."""

    response_id: str
    at: float
    input: list[Item]
    request: dict[str, Any] = {}
    """The validated request without its input: model, tools, metadata, limits, flags."""
    previous_response_id: str = ""
    idempotency_key: str = ""
    tenant: str = ""
    """Whose it is: nobody else sees it. Empty where no tenants are configured."""


class ModelIntent(Event, frozen=True, tag="model_intent", omit_defaults=True):
    """A model is about to be asked.

    `step` counts from 1 through the whole conversation, `attempt` from 1 within the step.
    """

    step: int
    attempt: int
    at: float
    turn_type: TurnType = "tool-call"
    prompt_sha256: str = ""


class ModelRouted(Event, frozen=True, tag="model_routed", omit_defaults=True):
    step: int
    attempt: int
    model: str
    replica: str
    reason: str
    predicted_cached_tokens: int = 0


class OutputDelta(Event, frozen=True, tag="output_delta", omit_defaults=True):
    """A batch of streamed output, journaled before it is sent on; needs no fsync of its own.

    `text` holds a piece of the answer's text, `call` opens a tool call (`call_id`, `name`, and in
    `text` the first piece of its arguments), `arguments` continues it; `reasoning` is what the
    model thinks before. The built-in `reply` tool appears as `text` only. Joined, the deltas of an
    attempt are a beginning of its ModelResult: what was not yet written when the answer became
    whole is only there.
    """

    step: int
    attempt: int
    kind: Literal["text", "call", "arguments", "reasoning"]
    text: str = ""
    call_id: str = ""
    name: str = ""


class Call(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A tool call as the model wrote it; `arguments` is JSON text, kept byte for byte."""

    call_id: str
    name: str
    arguments: str


class ModelResult(Event, frozen=True, tag="model_result", omit_defaults=True):
    """A model's whole answer. Tokens as the engine's own usage reports them.

    `text` is what the client was shown. An answer that came through the built-in `reply` tool has
    its text here too, and its call in `calls` (kept byte for byte for the next prompt; not an item
    that a client sees).
    """

    step: int
    attempt: int
    at: float
    text: str = ""
    calls: list[Call] = []
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    uncached_cost_usd: float = 0.0
    """What the same turn costs when nothing is cached."""
    seconds: float = 0.0
    """From the intent."""
    stored_s: float = 0.0
    """Of `seconds`: until the intent was stored, and the model could be asked."""
    first_token_s: float = 0.0
    reasoning: str = ""
    """What the model thought; its chat template gets it back."""
    reasoning_tokens: int = 0
    """Of the output."""


class ModelFailed(Event, frozen=True, tag="model_failed", omit_defaults=True):
    """An attempt ended without an answer, or (`superseded`) its process died meanwhile."""

    step: int
    attempt: int
    at: float
    error: str
    code: str = ""
    retry: bool = False
    superseded: bool = False
    wasted_tokens: int = 0


class CallReady(Event, frozen=True, tag="call_ready", omit_defaults=True):
    """A call is whole while its turn is still being written, and is about to run.

    From here on the attempt stands: if it ends without an answer, the calls that are ready are
    the turn's result.
    """

    step: int
    attempt: int
    call: Call


class ToolIntent(Event, frozen=True, tag="tool_intent", omit_defaults=True):
    """A call is about to run. `key` = conversation:step:call is the idempotency key.

    A call that is refused before it reaches a tool (unknown tool, invalid arguments) has no intent,
    only a result. `attempt` above 1: a crash left it in doubt, and it runs again with its key.
    """

    step: int
    call_id: str
    key: str
    at: float
    attempt: int = 1
    version: str = ""
    """Of the tool, as its author numbers it."""
    traceparent: str = ""
    """W3C trace context that the tool was given."""


class ToolFailed(Event, frozen=True, tag="tool_failed", omit_defaults=True):
    """An attempt failed for a reason that may pass, and nothing happened: the call runs again with
    its key, at `retry_at` (Unix seconds) or later, whichever process is there then."""

    step: int
    call_id: str
    at: float
    attempt: int
    error: str
    """As the model would read it."""
    code: str = ""
    retry_at: float = 0.0


class TimerSet(Event, frozen=True, tag="timer_set", omit_defaults=True):
    """A call's answer is known, and the model hears of it at `until` (Unix seconds)."""

    step: int
    call_id: str
    at: float
    until: float
    output: str = ""


class ToolProgress(Event, frozen=True, tag="tool_progress", omit_defaults=True):
    """What a tool shows to whoever watches while it runs; the model does not see it."""

    step: int
    call_id: str
    at: float
    value: str


class ApprovalRequested(Event, frozen=True, tag="approval_requested", omit_defaults=True):
    """A call waits for a person: because its tool asks for that (`required`), or because the
    process died inside it and nobody can tell what it did (`outcome_unknown`)."""

    step: int
    call_id: str
    approval_id: str
    at: float
    reason: Literal["required", "outcome_unknown"] = "required"
    name: str = ""
    arguments: str = ""


class ApprovalDecided(Event, frozen=True, tag="approval_decided", omit_defaults=True):
    """A person's word on a call, stored together with the ResponseAccepted that brought it.

    `approve` of a call in doubt means: run it again.
    """

    approval_id: str
    call_id: str
    at: float
    approve: bool
    reason: str = ""
    name: str = ""
    arguments: str = ""
    """Of the call."""
    server: str = ""
    """That the request named in which the call was made: it is shown as that server's."""


class ResultKept(Event, frozen=True, tag="result_kept", omit_defaults=True):
    """A result that was too long to be shown, whole. Its handle is the call's id."""

    step: int
    call_id: str
    text: str


class ToolResult(Event, frozen=True, tag="tool_result", omit_defaults=True):
    """What the model is told a call gave; `outcome_unknown` after a crash inside the tool."""

    step: int
    call_id: str
    at: float
    output: str
    outcome: Literal["ok", "error", "timeout", "refused", "outcome_unknown"] = "ok"
    seconds: float = 0.0
    """Since the tool began; in older logs since its intent was written, storing it included."""
    code: str = ""
    """Of a failure: what kind."""
    cost_usd: float = 0.0
    quota: dict[str, float] = {}
    """What the tool says is left of an allowance."""
    partial: bool = False
    """Some parts of the work failed; the output says which."""
    agents_usd: float = 0.0
    """Of the cost, what agents have spent that were asked: their own logs have it, too."""


LimitKind = Literal[
    "turns",
    "tool_calls",
    "tokens",
    "seconds",
    "cost",
    "same_call",
    "same_state",
    "storm",
    "overflow",
]
Scope = Literal["response", "conversation", "tenant"]
"""Whose limit: of one response, of the whole conversation, of the tenant in its window."""


class LimitReached(Event, frozen=True, tag="limit_reached", omit_defaults=True):
    """A limit ended the response: cut it, or (`answered`) let it give a last answer first."""

    kind: LimitKind
    value: float
    limit: float
    at: float
    scope: Scope = "response"
    answered: bool = False


class Notice(Event, frozen=True, tag="notice", omit_defaults=True):
    """Something that the loop tells the model, shown at the end of the prompt and there for good.

    `step` is the turn that sees it first. `last`: that turn has no tools, and its answer ends the
    response. Written before the turn's intent, so that the same prompt is asked after a crash.
    """

    step: int
    kind: LimitKind | Literal["drift"]
    text: str
    at: float
    scope: Scope = "response"
    value: float = 0.0
    limit: float = 0.0
    last: bool = False


class Compacted(Event, frozen=True, tag="compacted", omit_defaults=True):
    """The prompt is rewritten: from here on the model sees this in place of all before the turn
    `keep_from`, and then what it saw since. The events themselves stay, for audit."""

    step: int
    at: float
    keep_from: int
    strategy: Literal["window", "summary"]
    why: Literal["priced", "overflow", "refused"]
    """It pays; the context is nearly full; the engine refused the prompt as too long."""
    reason: str = ""
    """The figures of the decision."""
    text: str = ""
    """The summary of what left."""
    prompt_tokens: int = 0
    kept_tokens: int = 0
    """Both estimated, before and after."""
    as_it_is_usd: float = 0.0
    rewritten_usd: float = 0.0
    summary_tokens: int = 0
    """Read and written by the side turn."""
    cost_usd: float = 0.0


class Warmed(Event, frozen=True, tag="warmed", omit_defaults=True):
    """In a pause an engine has read the prompt again, so that the next turn finds it in the cache.

    No turn: its one token of an answer is nobody's, and the prompt is what it was. Tokens as the
    engine's usage reports them; `cached_tokens` tells how much of the prompt was there still.
    """

    step: int
    """The newest turn's."""
    at: float
    model: str = ""
    replica: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


class CancelRequested(Event, frozen=True, tag="cancel_requested", omit_defaults=True):
    response_id: str
    at: float


class ResponseFinished(Event, frozen=True, tag="response_finished", omit_defaults=True):
    response_id: str
    at: float
    status: Status
    code: str = ""
    """Error code of `failed`, reason of `incomplete`."""
    message: str = ""


class Purged(Event, frozen=True, tag="purged", omit_defaults=True):
    """A tombstone: an event of type `of` was here, and its content is gone for good.

    What remains says how much there was, never what: `facts` are its numbers (tokens, cost, times).
    """

    of: str
    step: int = 0
    """The newest step's number after it: keys of calls must never come twice."""
    facts: dict[str, float] = {}


AnyEvent = (
    ConversationStarted
    | HistoryImported
    | HistoryReplaced
    | ConversationUpdated
    | ToolsListed
    | ToolsOffered
    | ResponseAccepted
    | ModelIntent
    | ModelRouted
    | OutputDelta
    | ModelResult
    | ModelFailed
    | CallReady
    | ToolIntent
    | ToolFailed
    | TimerSet
    | ToolProgress
    | ApprovalRequested
    | ApprovalDecided
    | ResultKept
    | ToolResult
    | LimitReached
    | Notice
    | Compacted
    | Warmed
    | CancelRequested
    | ResponseFinished
    | Purged
)

_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


encode: Callable[[AnyEvent], bytes] = msgspec.json.Encoder().encode
"""The event as one JSON object, as every journal stores it."""


def decode(payload: bytes | str) -> AnyEvent:
    """The event that `encode` wrote; fields of later releases are ignored."""
    return _decoder.decode(payload)
