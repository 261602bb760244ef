"""/v1/conversations: a log that waits for its first response, and what it holds.

A conversation begins without an agent; the first response in it settles which one it belongs to.
Items that are added are history that the next turn sees. An item that is deleted is gone from
what the model sees: the one way, besides compaction, in which a prompt is written anew. (A call
and its output go together: a model's template cannot show one without the other. A call that still
waits for a person, or for the client's output, stays.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from orchestrator.api.approvals import waiting_calls
from orchestrator.api.conversation_view import ConversationView
from orchestrator.api.inbound import Reader, Strict, validate
from orchestrator.api.intake import new_id, unknown_conversation
from orchestrator.api.listing import Page, told
from orchestrator.api.open_calls import check_outputs, open_calls
from orchestrator.api.response_items import AnyItem, normal, typed
from orchestrator.api.response_request import Metadata
from orchestrator.api.responses import Runs
from orchestrator.clock import Clock
from orchestrator.journal.base import Journal, Lease, Recorded
from orchestrator.loop.call_rules import DECISION, NOT_RUN
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ConversationStarted,
    ConversationUpdated,
    HistoryImported,
    HistoryReplaced,
    Item,
    ModelResult,
    ResponseAccepted,
)
from orchestrator.loop.machine import fold_all
from orchestrator.loop.mcp_calls import MCP_CALL, item_id
from orchestrator.loop.state import OpenCall
from serving.errors import BadRequest, Conflict, NotFound

LEASE_S = 30.0
TOGETHER = (MCP_CALL, "function_call", "function_call_output")
"""Items of which a prompt has no others in between."""
AnyItems = Annotated[list[AnyItem], BeforeValidator(typed)]


class CreateConversation(Strict):
    """The body of POST /v1/conversations."""

    items: AnyItems | None = Field(default=None, max_length=20)
    metadata: Metadata | None = None


class UpdateConversation(Strict):
    metadata: Metadata


class CreateItems(Strict):
    items: AnyItems = Field(min_length=1, max_length=20)


class Conversations:
    """Creates, describes, changes and deletes conversations."""

    def __init__(self, journal: Journal, worker: Runs, clock: Clock, reader: Reader) -> None:
        self._journal = journal
        self._worker = worker
        self._clock = clock
        self._reader = reader

    async def create(self, body: bytes, tenant: str = "") -> dict[str, Any]:
        request = self._reader.read(CreateConversation, body, tenant)
        items = normal(request.items or [])
        check_outputs((), items)
        conversation = new_id("conv")
        started = ConversationStarted(
            "", self._clock.now(), tenant=tenant, metadata=request.metadata or {}
        )
        events: list[AnyEvent] = [started]
        if items:
            events.append(HistoryImported("", "", items))
        async with self._writing(conversation) as lease:
            await self._journal.append(lease, events)
        return ConversationView(conversation, started, started.metadata).describe()

    async def retrieve(self, conversation: str, tenant: str = "") -> dict[str, Any]:
        """Raises NotFound, also for one of another tenant."""
        return (await self._view(conversation, tenant)).describe()

    async def update(self, conversation: str, body: bytes, tenant: str = "") -> dict[str, Any]:
        request = validate(UpdateConversation, body)
        await self._view(conversation, tenant)
        async with self._writing(conversation) as lease:
            event = ConversationUpdated(self._clock.now(), request.metadata)
            await self._journal.append(lease, [event])
        return (await self._view(conversation, tenant)).describe()

    async def delete(self, conversation: str, tenant: str = "") -> dict[str, Any]:
        await self._view(conversation, tenant)
        await self._worker.purge_conversation(conversation)
        return {"id": conversation, "object": "conversation.deleted", "deleted": True}

    async def list_items(self, conversation: str, page: Page, tenant: str = "") -> dict[str, Any]:
        return page.of((await self._view(conversation, tenant)).items())

    async def add_items(self, conversation: str, body: bytes, tenant: str = "") -> dict[str, Any]:
        items = normal(self._reader.read(CreateItems, body, tenant).items)
        view = await self._view(conversation, tenant)
        async with self._writing(conversation) as lease:
            view = _idle(await self._view(conversation, tenant))
            before = view.items()
            approvals = waiting_calls(fold_all(await self._journal.read(conversation)))
            _no_decisions(items, approvals.values())
            check_outputs(before, items, approvals)
            await self._journal.append(lease, [HistoryImported("", "", items)])
        added = (await self._view(conversation, tenant)).items()[len(before) :]
        return Page(limit=len(added), order="asc").of(added)

    async def item(self, conversation: str, item_id: str, tenant: str = "") -> Item:
        return told(_item(await self._view(conversation, tenant), item_id))

    async def delete_item(
        self, conversation: str, item_id: str, tenant: str = ""
    ) -> dict[str, Any]:
        _item(await self._view(conversation, tenant), item_id)
        async with self._writing(conversation) as lease:
            view = _idle(await self._view(conversation, tenant))
            item, items = _item(view, item_id), view.items()
            log = await self._journal.read(conversation)
            waiting = fold_all(log).waiting
            _not_waited_for(item, [*open_calls(items), *_unseen(waiting)], waiting)
            gone = _with_its_other_half(items, item)
            left = [each for each in items if each["id"] not in gone]
            rest = _history(left, waiting, _called(log))
            await self._journal.append(lease, [HistoryReplaced(self._clock.now(), rest, gone)])
        return view.describe()

    async def _view(self, conversation: str, tenant: str) -> ConversationView:
        log = await self._journal.read(conversation)
        view = ConversationView.of(conversation, log)
        if not view.belongs_to(tenant):
            raise unknown_conversation(conversation)
        return view

    @asynccontextmanager
    async def _writing(self, conversation: str) -> AsyncIterator[Lease]:
        """The right to write to a conversation in which nothing runs. Raises Conflict."""
        lease = await self._journal.lease(conversation, new_id("intake"), LEASE_S)
        if lease is None:
            raise _busy(conversation)
        try:
            yield lease
        finally:
            await self._journal.release(lease)


def _idle(view: ConversationView) -> ConversationView:
    if view.busy:
        raise _busy(view.conversation)
    return view


def _busy(conversation: str) -> Conflict:
    return Conflict(
        f"conversation {conversation!r} has a response in progress; wait for its end, or cancel it",
        param="conversation_id",
        code="conversation_locked",
        retry_after_s=1,
    )


def _item(view: ConversationView, item_id: str) -> Item:
    for item in view.items():
        if item["id"] == item_id:
            return item
    raise NotFound(f"Item with id '{item_id[:80]}' not found in conversation.", param="item_id")


def _no_decisions(items: Sequence[Item], waiting: Collection[str]) -> None:
    """Raises BadRequest for a person's word on a call that waits: here nothing would run it."""
    for index, item in enumerate(items):
        if item["type"] == DECISION and item["approval_request_id"] in waiting:
            raise BadRequest(
                f"items[{index}]: decides on a call that waits, and items run nothing; send it as "
                "input of POST /v1/responses, with this conversation",
                param=f"items[{index}]",
                code="unsupported_value",
            )


def _unseen(waiting: Mapping[str, OpenCall]) -> dict[str, str]:
    """Calls of MCP servers that wait for a person → what asks for it, the only item they have."""
    return {c: each.approval_id for c, each in waiting.items() if each.offered is not None}


def _not_waited_for(item: Item, unanswered: Sequence[str], waiting: Mapping[str, OpenCall]) -> None:
    """Raises Conflict for what a later request must be able to answer."""
    for call_id, each in waiting.items():
        if call_id not in unanswered or (
            item.get("call_id") != call_id and item["id"] != each.approval_id
        ):
            continue
        decide = f"decide on it: send an mcp_approval_response for {each.approval_id!r}"
        answer = f"send its function_call_output for call_id {call_id!r}"
        raise Conflict(
            f"item_id: {item['id']!r} belongs to a call of {each.call.name!r} that waits; first "
            f"{decide if each.approval else answer}, or delete the whole conversation",
            param="item_id",
            code="call_waits",
        )


def _called(log: Sequence[Recorded]) -> dict[str, str]:
    """Ids of calls as items of MCP servers → what the model has called the tool."""
    found: dict[str, str] = {}
    response = ""
    for event in (each.event for each in log):
        match event:
            case ResponseAccepted():
                response = event.response_id.removeprefix("resp_")
            case ModelResult():
                found |= {item_id(response, call.call_id): call.name for call in event.calls}
            case ApprovalDecided():
                found[item_id(response, event.call_id)] = event.name
            case _:
                pass
    return found


def _history(
    items: Sequence[Item], waiting: Mapping[str, OpenCall], called: Mapping[str, str]
) -> list[Item]:
    """Items as the model shall see them from now on: no call is without its output but those that
    wait. One that was cut while it was written, or never ran, has none."""
    answered = {each["call_id"] for each in items if each["type"] == "function_call_output"}
    unseen = {approval_id: call_id for call_id, approval_id in _unseen(waiting).items()}
    found: list[Item] = []
    for item in items:
        is_call = item["type"] == "function_call"
        if (is_call and item.get("status") == "incomplete") or item["type"] == "mcp_list_tools":
            continue
        if item["type"] == MCP_CALL:
            if item.get("output") is not None or item.get("error") is not None:
                # Its id tells which call it was, and its name is the server's own.
                name = called.get(item["id"].partition(".")[0], item["name"])
                found.append({**item, "name": name})
            continue
        if call_id := unseen.get(item["id"]):
            call = waiting[call_id].call
            told = {"call_id": call_id, "name": call.name, "arguments": call.arguments}
            found.append({"type": "function_call", **told})
            continue
        found.append(_plain(item))
        if is_call and item["call_id"] not in answered and item["call_id"] not in waiting:
            said = {"type": "function_call_output", "call_id": item["call_id"], "output": NOT_RUN}
            found.append(said)
    return _together(found)


def _together(items: Sequence[Item]) -> list[Item]:
    """The items, each output behind the calls of its turn, though what came with a person's
    decision stands between."""
    turns: dict[str, int] = {}
    late: dict[int, list[Item]] = {}
    found: list[Item] = []
    turn = 0
    for item in items:
        if item["type"] not in TOGETHER:
            turn += 1
        elif item["type"] == "function_call":
            turns[item["call_id"]] = turn
        elif item["type"] == "function_call_output":
            its = turns.get(item["call_id"], turn)
            if its != turn:
                late.setdefault(its, []).append(item)
                continue
        found.append(item)
    placed: list[Item] = []
    turn = 0
    for item in found:
        if item["type"] not in TOGETHER:
            placed += late.get(turn, ())
            turn += 1
        placed.append(item)
    return [*placed, *late.get(turn, ())]


def _with_its_other_half(items: Sequence[Item], item: Item) -> list[str]:
    if "call_id" not in item:
        return [item["id"]]
    return [each["id"] for each in items if each.get("call_id") == item["call_id"]]


def _plain(item: Item) -> Item:
    """An item as a request would bring it."""
    return {name: value for name, value in item.items() if name not in ("id", "status")}
