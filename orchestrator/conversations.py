"""POST and GET /v1/conversations: a log that waits for its first response.

A conversation begins without an agent; the first response in it settles which one it belongs to.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from orchestrator.clock import Clock
from orchestrator.events import AnyEvent, ConversationStarted, HistoryImported
from orchestrator.inbound import Inbound, validate, wrong
from orchestrator.intake import new_id, unknown_conversation
from orchestrator.journal import Journal
from orchestrator.open_calls import check_outputs
from orchestrator.response_items import AnyItem, as_items, normal
from orchestrator.response_request import Metadata

LEASE_S = 30.0


class CreateConversation(Inbound):
    items: list[AnyItem] = Field(default=[], max_length=20)
    metadata: Metadata | None = None

    @field_validator("items", mode="before")
    @classmethod
    def _as_items(cls, value: Any) -> Any:
        if isinstance(value, str):
            wrong("send a list of items")
        return as_items(value) if value else []


class Conversations:
    """Creates and describes conversations."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    async def create(self, body: bytes, tenant: str = "") -> dict[str, Any]:
        request = validate(CreateConversation, body)
        items = normal(request.items)
        check_outputs((), items)
        conversation = new_id("conv")
        started = ConversationStarted(
            "", self._clock.now(), tenant=tenant, metadata=request.metadata or {}
        )
        events: list[AnyEvent] = [started]
        if items:
            events.append(HistoryImported("", "", items))
        lease = await self._journal.lease(conversation, new_id("intake"), LEASE_S)
        assert lease is not None  # noqa: S101  nobody else knows the id
        await self._journal.append(lease, events)
        await self._journal.release(lease)
        return _describe(conversation, started)

    async def retrieve(self, conversation: str, tenant: str = "") -> dict[str, Any]:
        """Raises NotFound, also for one of another tenant."""
        for recorded in await self._journal.read(conversation):
            event = recorded.event
            if isinstance(event, ConversationStarted):
                if event.tenant != tenant:
                    break
                return _describe(conversation, event)
        raise unknown_conversation(conversation)


def _describe(conversation: str, started: ConversationStarted) -> dict[str, Any]:
    return {
        "id": conversation,
        "object": "conversation",
        "created_at": int(started.at),
        "metadata": started.metadata,
    }
