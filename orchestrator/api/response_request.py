"""What a client may ask of POST /v1/responses, as one trusted value.

Three kinds of parameters:
- understood ones are fields below; a wrong type or value is refused, never bent into shape;
- those that ask for nothing that an engine of one's own has (cache hints, ids for abuse reports)
  are shown again in the response, and that is all;
- those whose silence would be a lie (hosted tools, prompt templates, log probabilities) are
  refused with the reason, and so is a parameter that nobody knows.

What depends on the agent or the model (names of its tools, pictures) is checked in `intake.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.api.inbound import Strict, WrittenAs, an_object, unsupported, wrong_at
from orchestrator.api.response_format import TextConfig
from orchestrator.api.response_items import AnyItem, as_items, normal
from orchestrator.api.response_tools import (
    AnyTool,
    FunctionTool,
    McpTool,
    NamedTool,
    ToolChoice,
    check_servers,
    chosen,
    refuse_credentials,
)
from orchestrator.loop.events import Item
from orchestrator.loop.state import functions_of

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
ServiceTier = Literal["auto", "default", "fast", "flex", "priority"]
CacheRetention = Literal["in_memory", "in-memory", "24h"]
INCLUDABLE = (
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
"""What `include` may name. Parts of hosted tools' items can be asked for in vain, as at OpenAI;
reasoning and pictures are whole in any case."""


def _id_of(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


ConversationId = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(_id_of),
    WrittenAs(
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    ),
]
Items = Annotated[
    list[AnyItem],
    BeforeValidator(as_items),
    WrittenAs({"type": "string", "minLength": 1}, minItems=1),
]


class Reasoning(Strict):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """Passed on to models that have a reasoning parser."""
    summary: Literal["auto", "concise", "detailed"] | None = None
    """Reasoning is shown whole, so there is nothing to sum up."""


class StreamOptions(Strict):
    include_obfuscation: bool | None = None
    """Pads events against an eavesdropper who counts bytes; not done here."""


class CacheOptions(Strict):
    """Where a cache elsewhere may cut: here the whole prefix is kept as long as there is room."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m"] | None = None


class CreateRequest(Strict):
    """The body of POST /v1/responses."""

    model: str = Field(min_length=1)
    input: Items
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, min_length=1)
    conversation: ConversationId | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=2**31)
    max_tool_calls: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    tools: list[AnyTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """`auto`: the oldest turns leave a prompt that is too long, whatever the agent's `context`."""
    include: list[str] | None = None
    top_logprobs: Literal[0] | None = None
    service_tier: ServiceTier | None = None
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: CacheRetention | None = None
    safety_identifier: str | None = Field(default=None, max_length=128)
    user: str | None = Field(default=None, max_length=512)

    @model_validator(mode="before")
    @classmethod
    def _nothing_silently_dropped(cls, body: Any) -> Any:
        refuse_unsupported(an_object(body))
        return body

    @field_validator("include")
    @classmethod
    def _includable(cls, names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if name not in INCLUDABLE:
                unsupported(f"{name[:80]!r} is not available; valid: {', '.join(INCLUDABLE)}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> CreateRequest:
        if self.previous_response_id is not None and self.conversation is not None:
            raise wrong_at("previous_response_id", "cannot be used together with conversation")
        if self.background and self.store is False:
            raise wrong_at("background", "a background response must be stored; leave store out")
        if self.stream_options is not None and not self.stream:
            raise wrong_at("stream_options", "goes with stream: true")
        functions = [tool.name for tool in self.tools or () if isinstance(tool, FunctionTool)]
        for names, said in ((functions, "tools are called"), (self.servers, "'mcp' tools name")):
            if twice := sorted(name for name, count in Counter(names).items() if count > 1):
                raise wrong_at("tools", f"two {said} {twice[0]!r}")
        check_servers(self.tool_choice, self.servers)
        return self

    @property
    def servers(self) -> list[str]:
        """The MCP servers whose tools it brings."""
        return [tool.server_label for tool in self.tools or () if isinstance(tool, McpTool)]

    @property
    def forced(self) -> tuple[str, ...]:
        """The names of tools that `tool_choice` speaks of."""
        return tuple(each.name for each in chosen(self.tool_choice) if isinstance(each, NamedTool))

    def items(self) -> list[Item]:
        """The input as items, as the log keeps them."""
        return normal(self.input)

    def facts(self) -> dict[str, Any]:
        """All but the input and the way of delivery, as the log keeps it: what was not said is
        not there."""
        elsewhere = ("input", "previous_response_id", "conversation", "stream", "stream_options")
        return stated(self, *elsewhere)


def stated(request: Strict, *elsewhere: str) -> dict[str, Any]:
    """What a request says, but for these fields."""
    found = request.model_dump(by_alias=True, exclude={*elsewhere}, exclude_none=True)
    for tool in functions_of(found):
        tool.setdefault("parameters", None)
        tool.setdefault("strict", None)
    return found


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raises for parameters that are known elsewhere and would silently be missing here."""
    refuse_credentials(body.get("tools"))
    include = body.get("include")
    logprobs = "message.output_text.logprobs"
    refusals = {
        "include": (
            isinstance(include, list) and logprobs in include,
            f"{logprobs!r} is not available: log probabilities are not kept",
        ),
        "top_logprobs": (
            body.get("top_logprobs") not in (None, 0),
            "log probabilities are not kept; use /v1/chat/completions for them",
        ),
        "prompt": (
            body.get("prompt") is not None,
            "prompt templates are not kept here; name an agent as the model, or send instructions",
        ),
        "context_management": (
            bool(body.get("context_management")),
            "is set by the agent's configuration",
        ),
        "moderation": (body.get("moderation") is not None, "is not available"),
    }
    for param, (refused, why) in refusals.items():
        if refused:
            raise wrong_at(param, why, "unsupported_parameter")
    for param in refusals:
        if param not in CreateRequest.model_fields and param in body and isinstance(body, dict):
            del body[param]
