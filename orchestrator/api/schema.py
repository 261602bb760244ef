"""The bodies of the Responses and Conversations API's answers, as its OpenAPI schema tells them.

They describe and never serialise: answers come from the projection (`projection.py`). What holds
them to it is the fuzzing of the running API from this schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from orchestrator.api.inbound import Strict
from orchestrator.api.response_format import TextConfig
from orchestrator.api.response_request import Reasoning
from orchestrator.api.response_tools import FunctionTool, ToolChoice


class Told(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorBody(Told):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Told):
    """OpenAI's error envelope."""

    error: ErrorBody


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
    tools: list[FunctionTool]
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


_SAID: dict[int | str, str] = {
    400: "A field is wrong or not supported; the error names it.",
    404: "It is not there, or not yours.",
    409: "Something is in progress, or an Idempotency-Key was used with another body.",
    413: "The body is too large.",
    429: "A limit is reached; Retry-After says when to come back.",
    503: "The journal or an engine cannot be used now; nothing was accepted.",
    "4XX": "Any other refusal.",
}


_TEXT = {"type": "string"}
SERVER_SENT_EVENT = {
    "type": "object",
    "properties": {"event": _TEXT, "id": _TEXT, "data": _TEXT},
    "required": ["event", "data"],
}
"""One event of a stream; `data` is JSON with `type` and `sequence_number`."""


def answers(
    model: type[BaseModel], *refusals: int, stream: bool = False
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route."""
    found: dict[int | str, dict[str, Any]] = {200: {"model": model, "description": "As asked."}}
    if stream:
        found[200]["content"] = {"text/event-stream": {"schema": SERVER_SENT_EVENT}}
    every: tuple[int | str, ...] = (*refusals, 429, 503, "4XX")
    for status in every:
        found[status] = {"model": ErrorAnswer, "description": _SAID[status]}
    return found


def body(model: type[Strict], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself."""
    schema = model.model_json_schema(mode="validation")
    whole = _inlined(schema, schema.get("$defs", {}))
    content = {"application/json": {"schema": whole}}
    return {"requestBody": {"required": required, "content": content}}


def _inlined(value: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema without references: they would point into the OpenAPI document."""
    if isinstance(value, list):
        return [_inlined(each, definitions) for each in value]
    if not isinstance(value, dict):
        return value
    if name := value.get("$ref"):
        return _inlined(definitions[name.removeprefix("#/$defs/")], definitions)
    skipped = ("$defs", "discriminator")
    return {k: _inlined(v, definitions) for k, v in value.items() if k not in skipped}
