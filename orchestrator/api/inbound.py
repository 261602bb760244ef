"""Turning bytes into a trusted value, and pydantic's complaints into OpenAI's envelope.

    {"error": {"message": "input[0].role: ...", "param": "input[0].role", "code": "invalid_type"}}

Only the first mistake is said, as OpenAI does. Messages name the field and what it should be, and
never repeat what the client wrote in it, but for names of types and tools.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from orchestrator.api.sealing import KeyOf, open_to_all
from serving.errors import BadRequest


class Inbound(BaseModel):
    """Base of what comes in: strict types, unknown fields ignored, since clients send items back
    with whatever other servers wrote into them."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Strict(Inbound):
    """What a client asks for: a field that nobody knows is refused by name."""

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)


def an_object(body: Any) -> Any:
    """The body itself. Raises ValueError for anything but a JSON object."""
    if not isinstance(body, dict):
        wrong("send one JSON object")
    return body


class Body(Strict):
    """All of a request's body."""

    @model_validator(mode="before")
    @classmethod
    def _an_object(cls, body: Any) -> Any:
        return an_object(body)


class WrittenAs:
    """In the OpenAPI schema: a value may also be written in this form."""

    def __init__(self, also: Mapping[str, Any], **limits: Any) -> None:
        self._also = dict(also)
        self._limits = limits

    def __get_pydantic_json_schema__(
        self, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [self._also, {**handler(core), **self._limits}]}


M = TypeVar("M", bound=BaseModel)


def validate(
    kind: type[M], body: bytes, media_hosts: Collection[str] = (), key: bytes | None = None
) -> M:
    """The trusted value of a JSON body. Raises BadRequest naming the first mistake.

    `media_hosts`: whose URLs of pictures are taken. `key`: opens what was sealed for the tenant.
    """
    context = {"media_hosts": media_hosts, "key": key}
    try:
        return kind.model_validate_json(body or b"{}", context=context)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)) from None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the bodies that tenants send."""

    media_hosts: Collection[str] = ()
    key_of: KeyOf = open_to_all

    def read(self, kind: type[M], body: bytes, tenant: str) -> M:
        """Raises BadRequest naming the first mistake."""
        return validate(kind, body, self.media_hosts, self.key_of(tenant))


def wrong(message: str) -> NoReturn:
    """Refuse a field's value inside its validator; its path is added."""
    raise PydanticCustomError("invalid_value", "{reason}", {"reason": message})


def unsupported(message: str) -> NoReturn:
    """Refuse, inside a field's validator, what is valid elsewhere but not to be had here."""
    raise PydanticCustomError("unsupported_value", "{reason}", {"reason": message})


def wrong_at(param: str, message: str, code: str = "invalid_value") -> PydanticCustomError:
    """A mistake that lies between fields; `param` is the one to change."""
    return PydanticCustomError(code, "{reason}", {"reason": message, "param": param})


def _refusal(mistakes: list[ErrorDetails]) -> BadRequest:
    first = mistakes[0]
    # Where a value may have one of several types, the complaint that goes deepest is the telling.
    same = [mistake for mistake in mistakes if mistake["loc"][:1] == first["loc"][:1]]
    mistake = max(same, key=lambda each: len(each["loc"]))
    context: dict[str, Any] = mistake.get("ctx", {})
    kind = mistake["type"]
    if kind == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {mistake['msg']}", code="invalid_json")
    param = context.get("param") or _path(mistake["loc"])
    message = context.get("reason") or mistake["msg"]
    if kind == "missing":
        message = "is missing; add it"
    elif kind == "extra_forbidden":
        message = "is not a known parameter; leave it out"
    said = f"{param}: {message}" if param else str(message)
    return BadRequest(said, param=param or None, code=_code(kind))


_CODES = {
    "missing": "missing_required_parameter",
    "missing_required_parameter": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "unsupported_value": "unsupported_value",
    "invalid_json_schema": "invalid_json_schema",
}


def _code(kind: str) -> str:
    if kind in _CODES:
        return _CODES[kind]
    return "invalid_type" if kind.endswith("_type") else "invalid_value"


TAGS = frozenset(
    {"message", "function_call", "function_call_output", "reasoning", "compaction"}
    | {"mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools"}
    | {"input_text", "output_text", "text", "refusal", "input_image"}
)
"""Names of union members that pydantic puts into a location, behind a place in a list."""


def _path(loc: tuple[int | str, ...]) -> str:
    """`input[0].content` of a location; names of types that pydantic tried are left out."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in TAGS and path.endswith("]"):
            continue
        elif part.isidentifier() and not part[:1].isupper():
            path += f".{part}" if path else part
        elif path and not path.endswith("]") and "[" not in part and not part[:1].isupper():
            path += f".{part[:80]}"  # a key of metadata, an unknown parameter
        elif not path:
            path = part[:80]
    return path
