"""POST /v1/responses/input_tokens: how long would the prompt of this request be?

    the same prompt as `create` would make ─► the engine's own tokenizer ─► {"input_tokens": N}

Nothing is stored, and no model is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from orchestrator.api.inbound import Body, Reader, wrong_at
from orchestrator.api.intake import Caller, Intake
from orchestrator.api.response_format import TextConfig
from orchestrator.api.response_items import normal
from orchestrator.api.response_request import ConversationId, Items, Reasoning, stated
from orchestrator.api.response_tools import FunctionTool, ToolChoice, check_servers
from orchestrator.loop.events import HistoryImported, Item, ResponseAccepted
from orchestrator.worker.turn_settings import overrides
from router.counting import Counted

Count = Callable[[bytes], Awaitable[Counted]]
"""Of a chat request."""


class CountRequest(Body):
    """The body of POST /v1/responses/input_tokens."""

    model: str = Field(min_length=1)
    input: Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, min_length=1)
    conversation: ConversationId | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """A prompt is counted whole, whatever would leave it."""

    @model_validator(mode="after")
    def _consistent(self) -> CountRequest:
        if self.previous_response_id is not None and self.conversation is not None:
            raise wrong_at("previous_response_id", "cannot be used together with conversation")
        if self.input is None and self.previous_response_id is None and self.conversation is None:
            raise wrong_at("input", "send what is to be counted")
        check_servers(self.tool_choice, ())
        return self


class InputTokens:
    """Counts."""

    def __init__(self, intake: Intake, reader: Reader, count: Count) -> None:
        self._intake = intake
        self._reader = reader
        self._count = count

    async def count(self, body: bytes, caller: Caller) -> dict[str, Any]:
        """Raises BadRequest, NotFound, Conflict, Unavailable."""
        request = self._reader.read(CountRequest, body, caller.name)
        agent = self._intake.agent(request.model, caller)
        before: list[Item] = []
        if request.previous_response_id is not None:
            before = await self._intake.history(request.previous_response_id, agent, caller)
        elif request.conversation is not None:
            before = await self._intake.items_in(request.conversation, agent, caller)
        facts = stated(request, "input", "previous_response_id", "conversation", "truncation")
        prompt = agent.prompt()
        prompt.extend(
            [
                HistoryImported("", "", before),
                ResponseAccepted("", 0.0, normal(request.input or []), facts),
            ]
        )
        counted = await self._count(prompt.body(overrides(agent.settings, facts)))
        return {
            "object": "response.input_tokens",
            "input_tokens": counted.tokens,
            "warmloop": {"model": counted.model},
        }
