"""What an agent can be asked over chat completions, as one trusted value.

The agent's tools, its output and its loop are its own: a request that brings tools, or turns of
tools, is refused, since dropping them silently would change what was asked.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from orchestrator.api.inbound import Inbound, wrong
from orchestrator.api.response_items import MessageItem
from orchestrator.api.response_request import CreateRequest


class StreamOptions(Inbound):
    include_usage: bool | None = None


class ChatRequest(Inbound):
    """What an agent can be asked over chat; its tools are its own."""

    model: str
    messages: list[MessageItem] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: Literal[1] | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _of_people(cls, value: Any) -> Any:
        for message in value if isinstance(value, list) else ():
            if isinstance(message, dict) and (
                message.get("role") == "tool" or message.get("tool_calls")
            ):
                wrong("an agent runs its own tools; send user and assistant messages only")
        if not isinstance(value, list):
            return value
        return [{**m, "type": "message"} if isinstance(m, dict) else m for m in value]

    @field_validator("tools", "response_format")
    @classmethod
    def _its_own(cls, value: Any) -> Any:
        if value and value != {"type": "text"}:
            wrong("an agent's tools and output are its own; leave this out, or use /v1/responses")
        return value

    def as_response(self) -> CreateRequest:
        return CreateRequest(
            model=self.model,
            input=list(self.messages),
            temperature=self.temperature,
            top_p=self.top_p,
            max_output_tokens=self.max_completion_tokens or self.max_tokens,
        )
