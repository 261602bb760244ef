"""The items that a client may send, checked, and in the one form that the log keeps.

    {"role": "user", "content": "hi"}
        -> {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}

Pictures come inside the request (`data:` URLs), for models that read them: no engine of ours
fetches what a stranger's URL points at.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from orchestrator.api.approvals import ApprovalRequestItem, ApprovalResponseItem
from orchestrator.api.inbound import Inbound, WrittenAs, unsupported, wrong
from orchestrator.api.sealing import BadSeal, opened
from orchestrator.loop.events import Item
from router import media


class TextPart(Inbound):
    """A piece of text."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(Inbound):
    """Words of another server's model, which declined."""

    type: Literal["refusal"]
    refusal: str


class ImagePart(Inbound):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["low", "high", "auto", "original"] | None = None

    @field_validator("image_url")
    @classmethod
    def _inside(cls, value: str, info: ValidationInfo) -> str:
        if why := media.refusal(value, (info.context or {}).get("media_hosts", ())):
            unsupported(why)
        if value.startswith("data:") and not value.startswith("data:image/"):
            unsupported("only images are read; send a URL that begins with data:image/")
        return value


def _known(value: Any) -> Any:
    """Refuse other kinds of parts by name."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "input_image" and value.get("file_id") is not None:
        unsupported("file_id: files are not kept here; send image_url with a data: URL")
    if kind in ("input_file", "input_audio", "computer_screenshot", "input_video"):
        unsupported(f"{kind!r} is not supported: send text or, to models that read them, images")
    return value


Part = Annotated[
    Annotated[TextPart | RefusalPart | ImagePart, Field(discriminator="type")],
    BeforeValidator(_known),
]


def as_parts(value: Any) -> Any:
    """A text may be written as a string, or as a list of parts."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        wrong("send a text, or a list of parts {'type': 'input_text', 'text': ...}")
    return value


Parts = Annotated[list[Part], BeforeValidator(as_parts), WrittenAs({"type": "string"})]


class MessageItem(Inbound):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts

    @field_validator("content")
    @classmethod
    def _people_show_pictures(cls, value: list[Part], info: Any) -> list[Part]:
        for part in value:
            if isinstance(part, ImagePart) and info.data.get("role") != "user":
                wrong("images stand in messages of the role user")
        return value

    def normal(self) -> Item:
        kind = "output_text" if self.role == "assistant" else "input_text"
        content = [_part(part, kind) for part in self.content]
        return {"type": "message", "role": self.role, "content": content}


def _part(part: Part, kind: str) -> Item:
    if isinstance(part, ImagePart):
        return {
            "type": "input_image",
            "detail": part.detail or "auto",
            "image_url": part.image_url,
        }
    text = part.refusal if isinstance(part, RefusalPart) else part.text
    return {"type": kind, "text": text}


class CallItem(Inbound):
    type: Literal["function_call"]
    call_id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    arguments: str

    def normal(self) -> Item:
        return self.model_dump()


class CallOutputItem(Inbound):
    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: Parts

    @field_validator("output")
    @classmethod
    def _text_only(cls, value: list[Part]) -> list[Part]:
        if any(isinstance(part, ImagePart) for part in value):
            unsupported("the output of a call is text; send pictures in a user's message")
        return value

    def normal(self) -> Item:
        output = "".join(_part(part, "text")["text"] for part in self.output)
        return {"type": "function_call_output", "call_id": self.call_id, "output": output}


class ReasoningPart(Inbound):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Inbound):
    """What a model thought before it answered. Ours comes back as it was; summaries and encrypted
    reasoning of other servers say nothing to our models and are left out."""

    type: Literal["reasoning"]
    content: list[ReasoningPart] | None = None

    def normal(self) -> Item | None:
        if not self.content:
            return None
        content = [{"type": "reasoning_text", "text": part.text} for part in self.content]
        return {"type": "reasoning", "summary": [], "content": content}


class Opened(NamedTuple):
    """What was sealed, and as it was."""

    sealed: str
    text: str


def _open(value: Any, info: ValidationInfo) -> Opened:
    key = (info.context or {}).get("key")
    if not isinstance(value, str) or key is None:
        wrong("send the string that /v1/responses/compact gave")
    try:
        return Opened(value, opened(value, key))
    except BadSeal:
        wrong(
            "is not what /v1/responses/compact of this server gave you, or was changed; send the "
            "item as it came, or the items that it stands for"
        )


class CompactionItem(Inbound):
    """What stands for the items that /v1/responses/compact left out."""

    type: Literal["compaction"]
    encrypted_content: Annotated[
        Opened, PlainValidator(_open), WithJsonSchema({"type": "string", "minLength": 1})
    ]

    def normal(self) -> Item:
        """With the text beside it, which the model reads and clients are not shown."""
        sealed, text = self.encrypted_content
        return {"type": "compaction", "encrypted_content": sealed, "text": text}


class McpListItem(Inbound):
    """What a server listed; the log knows it."""

    type: Literal["mcp_list_tools"]

    def normal(self) -> None:
        return None


class McpCallItem(Inbound):
    """A call of an MCP server's tool and what it gave, in one."""

    type: Literal["mcp_call"]
    id: str = Field(min_length=1, max_length=256)
    server_label: str = Field(min_length=1, max_length=256)
    name: str = Field(min_length=1)
    arguments: str
    output: str | None = None
    error: dict[str, Any] | str | None = None
    approval_request_id: str | None = None

    def normal(self) -> Item | None:
        """None for one that was cut: it says nothing of what it gave."""
        if self.output is None and self.error is None:
            return None
        status = "completed" if self.error is None else "failed"
        return {**self.model_dump(exclude_none=True), "status": status}


def _supported(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "item_reference":
        unsupported("'item_reference': send the item itself, or previous_response_id")
    return value


AnyItem = Annotated[
    Annotated[
        MessageItem
        | CallItem
        | CallOutputItem
        | ReasoningItem
        | CompactionItem
        | McpListItem
        | McpCallItem
        | ApprovalRequestItem
        | ApprovalResponseItem,
        Field(discriminator="type"),
    ],
    BeforeValidator(_supported),
]


def as_items(value: Any) -> Any:
    """An input may be a text, or items; a message may leave its type out."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}] if value else []
    if not isinstance(value, list):
        wrong("send a text or a list of items")
    if not value:
        wrong("is empty; send a text or a list of items")
    return typed(value)


def typed(value: Any) -> Any:
    """A message may leave its type out."""
    if not isinstance(value, list):
        return value
    return [{"type": "message", **item} if isinstance(item, dict) else item for item in value]


def normal(items: list[AnyItem]) -> list[Item]:
    """The items as the log keeps them."""
    found = (item.normal() for item in items)
    return [item for item in found if item is not None]
