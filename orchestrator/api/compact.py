"""POST /v1/responses/compact: a long conversation → a short window that goes on in its place.

    history of previous_response_id, then input
        ──► messages of people and developers, as they are; one `compaction` item for all the rest

The item carries a summary, which a side response wrote: an ordinary response that is not stored, so
it is journaled, limited and charged like any other. The summary is sealed (`sealing.py`): the
client gives the item back as input, in this tenant's requests only, and the model then reads it
where the item stands. Nothing of the conversation itself changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field, model_validator

from orchestrator.agents import Agent
from orchestrator.api.conversation_view import with_ids
from orchestrator.api.inbound import Body, Reader, validate, wrong_at
from orchestrator.api.intake import Caller, Intake, new_id
from orchestrator.api.open_calls import open_calls
from orchestrator.api.response_items import normal
from orchestrator.api.response_request import (
    CacheOptions,
    CacheRetention,
    CreateRequest,
    Items,
    ServiceTier,
)
from orchestrator.api.response_stream import at_end
from orchestrator.api.sealing import seal
from orchestrator.canonical import canonical
from orchestrator.clock import Clock
from orchestrator.journal.base import Journal
from orchestrator.loop.context_rules import TOO_LONG
from orchestrator.loop.events import Compacted, Item, Notice
from orchestrator.loop.history import items_of
from orchestrator.loop.state import Shown
from orchestrator.worker import summary
from serving.errors import BadRequest, UpstreamError

BYTES_PER_TOKEN = 3
"""Of a transcript, which has more marks than prose has."""


class CompactRequest(Body):
    """The body of POST /v1/responses/compact."""

    model: str = Field(min_length=1)
    input: Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, min_length=1)
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: CacheRetention | None = None
    service_tier: ServiceTier | None = None

    @model_validator(mode="after")
    def _something(self) -> CompactRequest:
        if self.input is None and self.previous_response_id is None:
            raise wrong_at("input", "send what is to be compacted, or previous_response_id")
        return self


class Compaction:
    """Makes the window. `context_tokens` gives what a model's prompt may have; 0: not known."""

    def __init__(
        self,
        journal: Journal,
        intake: Intake,
        clock: Clock,
        reader: Reader,
        context_tokens: Callable[[str], int],
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._clock = clock
        self._reader = reader
        self._context_tokens = context_tokens

    async def compact(self, body: bytes, caller: Caller) -> dict[str, Any]:
        """The CompactedResponse. Raises BadRequest, NotFound, Conflict, UpstreamError, and what
        accepting a response raises."""
        request = self._reader.read(CompactRequest, body, caller.name)
        agent = self._intake.agent(request.model, caller)
        given = normal(request.input or [])
        before: list[Shown] = []
        if request.previous_response_id is not None:
            state = await self._intake.state_after(request.previous_response_id, caller)
            # What the loop told the model was for a turn that is over.
            before = [each for each in state.history if not isinstance(each, Notice)]
        items = [*items_of(before, as_calls=False), *given]
        if waiting := open_calls(items):
            raise BadRequest(
                f"input: the call {waiting[0]} has no output yet, and a summary would lose it; "
                "send its function_call_output, or the decision that it waits for, first",
                param="input",
            )
        if request.instructions:
            part = {"type": "input_text", "text": request.instructions}
            items.insert(0, {"type": "message", "role": "system", "content": [part]})
        text, response = await self._summary(agent, items, caller, request.service_tier)
        stem = new_id("").removeprefix("_")
        said = [each for each in before if not isinstance(each, Compacted)]
        kept = [each for each in [*items_of(said, as_calls=False), *given] if _is_kept(each)]
        sealed = seal(text, self._reader.key_of(caller.name))
        compaction = {"type": "compaction", "encrypted_content": sealed}
        return {
            "id": response["id"],
            "object": "response.compaction",
            "created_at": int(self._clock.now()),
            "output": with_ids([*kept, compaction], stem),
            "usage": response["usage"],
        }

    async def _summary(
        self, agent: Agent, items: Sequence[Item], caller: Caller, tier: ServiceTier | None
    ) -> tuple[str, dict[str, Any]]:
        context = agent.context
        # A bare model sums up its own; an agent says which model does.
        model = agent.model if agent.version is None else context.summary_model
        room = self._context_tokens(model) - 2 * context.summary_tokens
        most = min(summary.MAX_BYTES, room * BYTES_PER_TOKEN) if room > 0 else summary.MAX_BYTES
        body = canonical(
            {
                "model": model,
                "input": summary.asked(items, most),
                "store": False,
                "temperature": 0.0,
                "max_output_tokens": context.summary_tokens,
                "service_tier": tier,
            }
        )
        asked = validate(CreateRequest, body)
        ref = await self._intake.beside(asked, caller, len(body))
        response = await at_end(self._journal, ref)
        messages = (each for each in response["output"] if each["type"] == "message")
        text = "".join(part["text"] for each in messages for part in each["content"]).strip()
        if text and response["status"] in ("completed", "incomplete"):
            return text, response
        error = response["error"] or response["incomplete_details"] or {}
        if error.get("type") == TOO_LONG:
            raise BadRequest(f"input: {error['message']}", param="input", code=TOO_LONG)
        why = error.get("message") or f"it ended as {response['status']}, without text"
        raise UpstreamError(f"{model!r} gave no summary: {why}; nothing has changed, try again")


def _is_kept(item: Item) -> bool:
    return item.get("type") == "message" and item.get("role") != "assistant"
