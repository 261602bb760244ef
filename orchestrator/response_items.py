"""The items and tools that a client may send, checked, and in the one form that the log keeps.

    {"role": "user", "content": "hi"}
        -> {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}

Text only: a picture that is dropped silently would change what was asked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from orchestrator.events import Item
from orchestrator.inbound import Inbound, unsupported, wrong
from serving.reply import REPLY


class TextPart(Inbound):
    """A piece of text."""

    type: Literal["input_text", "output_text", "text"]
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _text_only(cls, value: Any) -> Any:
        if value in ("input_image", "input_file", "input_audio"):
            unsupported(f"{value!r} is not supported: agents here read text")
        return value


def as_parts(value: Any) -> Any:
    """A text may be written as a string, or as a list of parts."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        wrong("send a text, or a list of parts {'type': 'input_text', 'text': ...}")
    return value


class MessageItem(Inbound):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: list[TextPart]

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: Any) -> Any:
        return as_parts(value)

    def normal(self) -> Item:
        kind = "output_text" if self.role == "assistant" else "input_text"
        content = [{"type": kind, "text": part.text} for part in self.content]
        return {"type": "message", "role": self.role, "content": content}


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
    output: list[TextPart]

    @field_validator("output", mode="before")
    @classmethod
    def _as_parts(cls, value: Any) -> Any:
        return as_parts(value)

    def normal(self) -> Item:
        output = "".join(part.text for part in self.output)
        return {"type": "function_call_output", "call_id": self.call_id, "output": output}


class ReasoningItem(Inbound):
    """Clients send back all items they got, from other servers too; ours make no use of these."""

    type: Literal["reasoning"]

    def normal(self) -> None:
        return None


AnyItem = Annotated[
    MessageItem | CallItem | CallOutputItem | ReasoningItem, Field(discriminator="type")
]


def as_items(value: Any) -> Any:
    """An input may be a text, or items; a message may leave its type out."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}] if value else []
    if not isinstance(value, list):
        wrong("send a text or a list of items")
    if not value:
        wrong("is empty; send a text or a list of items")
    return [{"type": "message", **item} if isinstance(item, dict) else item for item in value]


def normal(items: list[AnyItem]) -> list[Item]:
    """The items as the log keeps them."""
    found = (item.normal() for item in items)
    return [item for item in found if item is not None]


class FunctionTool(Inbound):
    """A function that the client runs."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _functions_only(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "function":
            unsupported(f"{value!r} tools are not available; 'function' tools are")
        return value

    @field_validator("name")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value == REPLY:
            unsupported(f"{REPLY!r} is the name of a built-in tool; choose another")
        return value


class NamedTool(Inbound):
    type: Literal["function"]
    name: str
