"""The bodies of the Responses and Conversations API's answers, as its OpenAPI schema tells them.

They describe and never serialise: answers come from the projection (`projection.py`). What holds
them to it is the fuzzing of the running API from this schema.
"""

from __future__ import annotations

from typing import Any, Literal

from orchestrator.api.inbound import Strict
from orchestrator.api.response_format import TextConfig
from orchestrator.api.response_request import Reasoning
from orchestrator.api.response_tools import AnyTool, ToolChoice
from router.http import described
from router.http.described import Told


class OutputItem(Told):
    """An item; its type says what else is in it."""

    type: str
    id: str


class Tokens(Told):
    cached_tokens: int


class OutputTokens(Told):
    reasoning_tokens: int


class Usage(Told):
    input_tokens: int
    input_tokens_details: Tokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class Failure(Told):
    code: str
    message: str


class Incomplete(Told):
    reason: str


class ConversationRef(Told):
    id: str


class ResponseBody(Told):
    """A Response object."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
    background: bool
    conversation: ConversationRef
    error: Failure | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    presence_penalty: float
    frequency_penalty: float
    prompt_cache_key: str | None
    reasoning: Reasoning
    safety_identifier: str | None
    service_tier: Literal["default", "flex"]
    store: bool
    temperature: float
    text: TextConfig
    tool_choice: ToolChoice
    tools: list[AnyTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: Usage | None
    user: str | None
    warmloop: dict[str, Any]
    """What each turn took: model, replica, tokens, seconds, cost."""


class ItemList(Told):
    object: Literal["list"]
    data: list[OutputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CompactedBody(Told):
    """Messages as they were, then one `compaction` item."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[OutputItem]
    usage: Usage


class TokenCount(Told):
    object: Literal["response.input_tokens"]
    input_tokens: int
    warmloop: dict[str, Any]
    """Whose tokenizer counted."""


class ConversationBody(Told):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class DeletedResponse(Told):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class DeletedConversation(Told):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


def body(model: type[Strict], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself."""
    return described.body(model.model_json_schema(mode="validation"), required=required)


class Approval(Told):
    """A call that waits for a person."""

    id: str
    object: Literal["warmloop.approval"]
    conversation: str
    response_id: str
    tenant: str
    agent: str
    name: str
    arguments: str
    reason: Literal["required", "outcome_unknown"]
    requested_at: float


class ApprovalList(Told):
    object: Literal["list"]
    data: list[Approval]
    next: str | None
    """Where to go on, as `after`."""


class PurgedCount(Told):
    purged: int
    """Conversations; ask again until it is 0."""
