"""The calls that wait for a person, over all conversations, for whoever has to decide.

    GET /v1/warmloop/approvals?after=CONVERSATION      a page of conversations, the oldest first

A tenant sees its own, the operator all. What waits is what the log says, not an index beside it:
the store only names the conversations that asked for more than was decided. What an agent asks that
was itself asked as a tool is passed up, and waits in its caller's conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.api.approvals import waiting_calls
from orchestrator.journal.base import Journal, Recorded
from orchestrator.loop.events import ApprovalRequested, ResponseAccepted
from orchestrator.loop.machine import fold_all
from router.tenancy.tenants import Tenant

PAGE = 100
"""Conversations in one answer."""


async def page(journal: Journal, tenant: Tenant, after: str = "") -> dict[str, Any]:
    """What waits in the next conversations after that one; `next` is where to go on."""
    names = await journal.asking(after, PAGE)
    found: list[dict[str, Any]] = []
    for name in names:
        found += waiting_in(name, await journal.read(name), tenant)
    return {"object": "list", "data": found, "next": names[-1] if len(names) == PAGE else None}


def waiting_in(conversation: str, log: Sequence[Recorded], tenant: Tenant) -> list[dict[str, Any]]:
    """The calls of one conversation that a person can decide on now."""
    state = fold_all(log)
    if state.tenant != tenant.name and not tenant.is_operator:
        return []
    waiting = set(waiting_calls(state).values()) if state.run is None else set()
    response_id, depth, found = "", 0, []
    for event in (each.event for each in log):
        if isinstance(event, ResponseAccepted):
            response_id, depth = event.response_id, event.request.get("depth", 0)
        elif isinstance(event, ApprovalRequested) and event.approval_id in waiting and not depth:
            found.append(
                {
                    "id": event.approval_id,
                    "object": "warmloop.approval",
                    "conversation": conversation,
                    "response_id": response_id,
                    "tenant": state.tenant,
                    "agent": state.agent,
                    "name": event.name,
                    "arguments": event.arguments,
                    "reason": event.reason,
                    "requested_at": event.at,
                }
            )
    return found
