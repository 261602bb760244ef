"""A conversation's history as Responses items: what a fork of it begins with.

The items are those from which `prompt.py` renders the same bytes as the original conversation has,
so that the fork starts warm: calls of the `reply` tool stay calls where the agent is the same
(`as_calls`), and become messages for another.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.journal.base import Recorded
from orchestrator.loop.call_rules import DECISION
from orchestrator.loop.events import (
    Call,
    Compacted,
    HistoryImported,
    Item,
    ModelResult,
    Notice,
    ResponseAccepted,
    ResponseFinished,
    ToolResult,
)
from orchestrator.loop.prompt import NOT_RUN, compacted_message, notice_message
from orchestrator.loop.state import Shown, replies
from serving import reply


def upto(log: Sequence[Recorded], response_id: str) -> list[Recorded]:
    """The log up to and with the end of that response."""
    for place, recorded in enumerate(log):
        event = recorded.event
        if isinstance(event, ResponseFinished) and event.response_id == response_id:
            return list(log[: place + 1])
    return list(log)


def items_of(history: Sequence[Shown], *, as_calls: bool = True) -> list[Item]:
    """What the model has seen, in its order."""
    return [item for event in history for item in _items(event, as_calls=as_calls)]


def _items(event: Shown, *, as_calls: bool) -> list[Item]:
    match event:
        case HistoryImported():
            return event.items
        case ResponseAccepted():
            instructions = event.request.get("instructions")
            said = [item for item in event.input if item.get("type") != DECISION]
            return [*([_message("system", instructions)] if instructions else []), *said]
        case ToolResult():
            return [_output(event.call_id, event.output)]
        case ModelResult():
            return _answer(event, as_calls=as_calls)
        case Notice():
            message = notice_message(event)
            return [_message(message["role"], message["content"])]
        case Compacted():
            message = compacted_message(event)
            return [_message(message["role"], message["content"])]


def _answer(result: ModelResult, *, as_calls: bool) -> list[Item]:
    return [*_reasoning(result), *_said(result, as_calls=as_calls)]


def _reasoning(result: ModelResult) -> list[Item]:
    if not result.reasoning:
        return []
    content = [{"type": "reasoning_text", "text": result.reasoning}]
    return [{"type": "reasoning", "summary": [], "content": content}]


def _said(result: ModelResult, *, as_calls: bool) -> list[Item]:
    if replies(result) and as_calls:
        outputs = [
            (c, reply.ACKNOWLEDGED if c.name == reply.REPLY else NOT_RUN) for c in result.calls
        ]
        return [
            *(_call(call) for call in result.calls),
            *(_output(call.call_id, said) for call, said in outputs if said),
        ]
    said = [_message("assistant", result.text)] if result.text else []
    return said if replies(result) else [*said, *(_call(call) for call in result.calls)]


def _message(role: str, text: str) -> Item:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def _call(call: Call) -> Item:
    return {
        "type": "function_call",
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _output(call_id: str, output: str) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}
