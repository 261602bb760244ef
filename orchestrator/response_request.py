"""What a client may ask of POST /v1/responses, as one trusted value.

Three kinds of parameters:
- understood ones are fields below; a wrong type or value is refused, never bent into shape;
- those without meaning here (cache hints, service tier, ids for abuse reports) are ignored, and
  so are parameters that nobody knows;
- those whose silence would be a lie (`truncation: auto`, `reasoning.effort`, pictures, hosted
  tools, JSON output) are refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.events import Item
from orchestrator.inbound import Inbound, wrong, wrong_at
from orchestrator.response_items import AnyItem, FunctionTool, NamedTool, as_items, normal

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class CreateRequest(Inbound):
    """The body of POST /v1/responses."""

    model: str = Field(min_length=1)
    input: list[AnyItem]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _as_items(cls, value: Any) -> Any:
        return as_items(value)

    @field_validator("conversation", mode="before")
    @classmethod
    def _id_of(cls, value: Any) -> Any:
        return value.get("id") if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _nothing_silently_dropped(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            wrong("send one JSON object")
        refuse_unsupported(body)
        return body

    @model_validator(mode="after")
    def _consistent(self) -> CreateRequest:
        if self.previous_response_id is not None and self.conversation is not None:
            raise wrong_at("previous_response_id", "cannot be used together with conversation")
        if self.background and self.store is False:
            raise wrong_at("background", "a background response must be stored; leave store out")
        names = [tool.name for tool in self.tools or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise wrong_at("tools", f"two tools are called {twice[0]!r}")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.name not in names:
            raise wrong_at("tool_choice", f"{self.tool_choice.name!r} is not among the tools")
        if self.tool_choice == "required" and not names:
            raise wrong_at("tool_choice", "'required' needs at least one tool")
        return self

    def items(self) -> list[Item]:
        """The input as items, as the log keeps them."""
        return normal(self.input)

    def facts(self) -> dict[str, Any]:
        """All but the input and the way of delivery, as the log keeps it: what was not said is
        not there."""
        found = self.model_dump(
            exclude={"input", "previous_response_id", "conversation", "stream"}, exclude_none=True
        )
        for tool in found.get("tools", ()):
            tool.setdefault("parameters", None)
            tool.setdefault("strict", None)
        return found


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raises for parameters whose effect would silently be missing."""
    reasoning, text = body.get("reasoning"), body.get("text")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else reasoning
    output = text.get("format") if isinstance(text, dict) else text
    kind = output.get("type") if isinstance(output, dict) else output
    include = body.get("include")
    logprobs = "message.output_text.logprobs"
    refusals = {
        "truncation": (
            body.get("truncation") not in (None, "disabled"),
            "history is never cut silently; leave it out or send 'disabled'",
        ),
        "reasoning.effort": (effort not in (None, "none"), "these models have no such setting"),
        "text.format": (
            kind not in (None, "text"),
            "structured output is not available here yet; use a function tool with strict: true",
        ),
        "include": (
            isinstance(include, list) and logprobs in include,
            f"{logprobs!r} is not available",
        ),
        "top_logprobs": (bool(body.get("top_logprobs")), "log probabilities are not available"),
        "prompt": (body.get("prompt") is not None, "prompt templates are not kept here"),
        "max_tool_calls": (
            body.get("max_tool_calls") is not None,
            "is set by the agent's limits (agents.NAME.limits.max_tool_calls)",
        ),
        "context_management": (bool(body.get("context_management")), "is not available yet"),
        "moderation": (body.get("moderation") is not None, "is not available"),
    }
    for param, (refused, why) in refusals.items():
        if refused:
            raise wrong_at(param, why, "unsupported_parameter")
