"""A person's word on a call: how it is asked for, how it is given, and that it counts once.

    mcp_approval_request   an item of the response's output: what waits, and its id
    mcp_approval_response  an item of a later request's input: its id, approve, reason

The form is OpenAI's for MCP tools; here it serves every tool (`server_label` says whose). A request
that does nothing but decide may leave other calls waiting; one with new input must answer all that
is open, since the model would otherwise see calls without results.

The decision is stored with the request that brings it, under the conversation's lease: of two that
come at once one is stored, the other gets 409.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from orchestrator.api.inbound import Inbound
from orchestrator.canonical import canonical
from orchestrator.loop.call_rules import DECISION
from orchestrator.loop.events import ApprovalDecided, ApprovalRequested, Item, ToolResult
from orchestrator.loop.state import State
from serving.errors import BadRequest, Conflict

SERVER_LABEL = "warmloop"
REQUEST: Literal["mcp_approval_request"] = "mcp_approval_request"


class ApprovalRequestItem(Inbound):
    """Clients send back all items they got; the log knows what it asked for."""

    type: Literal["mcp_approval_request"]

    def normal(self) -> None:
        return None


class ApprovalResponseItem(Inbound):
    """A decision."""

    type: Literal["mcp_approval_response"]
    approval_request_id: str = Field(min_length=1, max_length=256)
    approve: bool
    reason: str | None = Field(default=None, max_length=2000)

    def normal(self) -> Item:
        return self.model_dump(exclude_none=True)


def request_item(event: ApprovalRequested, label: str = SERVER_LABEL, name: str = "") -> Item:
    """What a client sees: a tool by its server, and the name that it has there. Of a call in doubt
    the arguments say so, and what approving means."""
    arguments = event.arguments
    if event.reason == "outcome_unknown":
        doubt = "the process died inside this call; whether it took effect is unknown"
        said = {"arguments": arguments, "in_doubt": doubt, "to_approve_is": "to run it again"}
        arguments = canonical(said).decode()
    return {
        "id": event.approval_id,
        "type": REQUEST,
        "server_label": label,
        "name": name or event.name,
        "arguments": arguments,
    }


def in_words(item: Item) -> str:
    """What waits, for clients that know no such items."""
    call = f"{item['name']}({item['arguments']})"
    return f"\n[waits for a person: {call}; warmloop approve {item['id']}]\n"


def has_decision(items: Iterable[Item]) -> bool:
    """Does this input decide on anything?"""
    return any(item.get("type") == DECISION for item in items)


def decisions(state: State, items: Sequence[Item], at: float) -> list[ApprovalDecided]:
    """The decisions in a request's input. Raises Conflict for what was decided before, BadRequest
    for what was never asked, or is decided twice."""
    waiting = {each.approval_id: call_id for call_id, each in state.waiting.items()}
    found: list[ApprovalDecided] = []
    for index, item in enumerate(items):
        if item.get("type") != DECISION:
            continue
        approval_id = item["approval_request_id"]
        param = f"input[{index}].approval_request_id"
        call_id = waiting.pop(approval_id, None)
        if call_id is None:
            _refuse(state, approval_id, param)
        else:
            asked = state.waiting[call_id]
            found.append(
                ApprovalDecided(
                    approval_id,
                    call_id,
                    at,
                    item["approve"],
                    item.get("reason", ""),
                    asked.call.name,
                    asked.call.arguments,
                    asked.offered.server if asked.offered is not None else "",
                )
            )
    return found


def waiting_calls(state: State) -> dict[str, str]:
    """Calls that wait for a person → ids of what asks for it."""
    return {call_id: each.approval_id for call_id, each in state.waiting.items() if each.approval}


def _refuse(state: State, approval_id: str, param: str) -> None:
    """Raises what fits."""
    answered = [event.call_id for event in state.history if isinstance(event, ToolResult)]
    running = state.run.calls if state.run else ()
    if any(approval_id.endswith(f"_{call_id}") for call_id in (*answered, *running)):
        raise Conflict(
            f"{param}: {approval_id[:80]!r} has been decided; a decision counts once",
            param=param,
            code="approval_already_decided",
        )
    raise BadRequest(
        f"{param}: no approval request {approval_id[:80]!r} waits in this conversation; send the "
        "previous_response_id or the conversation of the response that asked",
        param=param,
        code="approval_not_found",
    )
