"""What `/openapi.json` says of routes whose bodies FastAPI neither reads nor writes.

Bodies are read by our own validators, since those name the field, the value and the fix. So the
schema is said beside them, and what holds the two together is the fuzzing of the running API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Told(BaseModel):
    """Base of answers: more may be in them than is told."""

    model_config = ConfigDict(extra="allow")


class ErrorBody(Told):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Told):
    """OpenAI's error envelope."""

    error: ErrorBody


_SAID: dict[int | str, str] = {
    400: "A field is wrong or not supported; the error names it.",
    404: "It is not there, or not yours.",
    409: "Something is in progress, or a name or an Idempotency-Key is in use.",
    413: "The body is too large.",
    429: "A limit is reached; Retry-After says when to come back.",
    502: "An engine failed.",
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


def body(schema: Mapping[str, Any], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself; `schema` as pydantic or msgspec
    write it."""
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
