"""A conversation as clients see it: a pure function of its log.

    log ──read──► who and what it is, and its items in order: imported, each response's input,
                  each response's output

Items have the same ids each time: those of a response come from the response, imported ones from
their place in the log. Nothing of it is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.api.projection import Projection
from orchestrator.journal.base import Recorded
from orchestrator.loop.events import (
    ConversationStarted,
    ConversationUpdated,
    HistoryImported,
    HistoryReplaced,
    Item,
    Purged,
    ResponseAccepted,
)

PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "mcp_approval_response": "mcprr",
    "mcp_approval_request": "mcpr",
    "compaction": "cmp",
    "mcp_call": "mcp",
}


STATELESS = ("reasoning", "compaction", "mcp_approval_response", "mcp_approval_request")


def with_ids(items: Iterable[Item], stem: str) -> list[Item]:
    """Input items with ids; the same ids each time."""
    return [
        {"id": f"{PREFIXES.get(item['type'], 'item')}_{stem}_{index}", **_shown(item)}
        for index, item in enumerate(items)
    ]


def _distinct(items: Iterable[Item]) -> list[Item]:
    """The items, each with an id that none before it has: an `mcp_call` that a client sends back
    brings the one that it had."""
    taken: dict[str, int] = {}
    found: list[Item] = []
    for item in items:
        item_id = first = item["id"]
        while item_id in taken:
            taken[first] += 1
            item_id = f"{first}.{taken[first]}"
        taken[item_id] = 0
        found.append(item if item_id == first else {**item, "id": item_id})
    return found


def _shown(item: Item) -> Item:
    return item if item["type"] in STATELESS else {"status": "completed", **item}


@dataclass
class ConversationView:
    """What a log says of its conversation."""

    conversation: str
    started: ConversationStarted | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    responses: list[str] = field(default_factory=list)
    busy: bool = False
    """A response is in progress."""
    purged: bool = False
    _parts: list[list[Item] | Projection] = field(default_factory=list)
    _deleted: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, conversation: str, log: Iterable[Recorded]) -> ConversationView:
        view = cls(conversation)
        for recorded in log:
            view._feed(recorded)
        return view

    def _feed(self, recorded: Recorded) -> None:
        event = recorded.event
        match event:
            case ConversationStarted():
                if self.started is None:
                    self.started, self.metadata = event, event.metadata
            case ConversationUpdated():
                self.metadata = event.metadata
            case HistoryImported():
                stem = f"{self.conversation.removeprefix('conv_')}_{recorded.seq}"
                self._parts.append(with_ids(event.items, stem))
            case HistoryReplaced():
                self._deleted.update(event.deleted)
            case ResponseAccepted():
                self.responses.append(event.response_id)
                self._parts.append(input_items_of(event))
                projection = Projection(event.response_id, self.conversation)
                projection.feed(event)
                self._parts.append(projection)
            case Purged():
                self.purged = self.purged or event.of == "conversation_started"
            case _:
                if self._parts and isinstance(running := self._parts[-1], Projection):
                    running.feed(event)
        last = self._parts[-1] if self._parts else None
        self.busy = isinstance(last, Projection) and not last.finished

    def belongs_to(self, tenant: str) -> bool:
        return self.started is not None and not self.purged and self.started.tenant == tenant

    def items(self) -> list[Item]:
        """All items, the oldest first."""
        found: list[Item] = []
        for part in self._parts:
            found += part.items() if isinstance(part, Projection) else part
        return [item for item in _distinct(found) if item["id"] not in self._deleted]

    def describe(self) -> dict[str, Any]:
        """The Conversation object."""
        return {
            "id": self.conversation,
            "object": "conversation",
            "created_at": int(self.started.at) if self.started else 0,
            "metadata": self.metadata,
        }


def input_items_of(accepted: ResponseAccepted) -> list[Item]:
    """The input of a response, as clients see it."""
    stem = f"{accepted.response_id.removeprefix('resp_')}_in"
    return _distinct(with_ids(accepted.input, stem))
