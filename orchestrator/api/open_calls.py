"""Calls that are open between responses: each needs its answer in the next request, and none else.

An answer that is missing breaks the model's template, and one that nobody asked for confuses the
model; OpenAI refuses both, in these words. Calls that wait for a person may go on waiting while a
request does nothing but decide on others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.loop.call_rules import DECISION
from orchestrator.loop.events import Item
from serving.errors import BadRequest

NONE: Mapping[str, str] = {}


def open_calls(items: Iterable[Item]) -> list[str]:
    """Ids of calls without an output, in order."""
    found: dict[str, None] = {}
    for item in items:
        if item.get("type") == "function_call":
            found[item["call_id"]] = None
        elif item.get("type") == "function_call_output":
            found.pop(item["call_id"], None)
    return list(found)


def check_outputs(
    history: Sequence[Item], given: Sequence[Item], approvals: Mapping[str, str] = NONE
) -> None:
    """Raises BadRequest unless `given` answers every open call of `history`, and only those.

    `approvals`: calls that wait for a person → ids of what asks for it.
    """
    if given and all(item.get("type") == DECISION for item in given):
        return
    waiting = {*open_calls(history)} - approvals.keys()
    undecided = dict.fromkeys(approvals.values())
    for index, item in enumerate(given):
        if item.get("type") == "function_call":
            waiting.add(item["call_id"])
        elif item.get("type") == DECISION:
            undecided.pop(item["approval_request_id"], None)
        elif item.get("type") == "function_call_output":
            if item["call_id"] not in waiting:
                raise BadRequest(
                    f"No tool call found for function call output with call_id {item['call_id']}. "
                    "Send outputs of calls that wait for one, each once.",
                    param=f"input[{index}].call_id",
                )
            waiting.discard(item["call_id"])
    if waiting:
        raise BadRequest(
            f"No tool output found for function call {min(waiting)}. "
            "Send a function_call_output item with that call_id before other input.",
            param="input",
        )
    if undecided:
        raise BadRequest(
            f"No decision found for approval request {min(undecided)}; send an "
            f"{DECISION} item for it before other input.",
            param="input",
        )
