"""Calls that the client runs: each needs its output in the next request, and none else has one.

An answer that is missing breaks the model's template, and one that nobody asked for confuses the
model; OpenAI refuses both, in these words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.events import Item
from serving.errors import BadRequest


def open_calls(items: Iterable[Item]) -> list[str]:
    """Ids of calls without an output, in order."""
    found: dict[str, None] = {}
    for item in items:
        if item.get("type") == "function_call":
            found[item["call_id"]] = None
        elif item.get("type") == "function_call_output":
            found.pop(item["call_id"], None)
    return list(found)


def check_outputs(history: Sequence[Item], given: Sequence[Item]) -> None:
    """Raises BadRequest unless `given` answers every open call of `history`, and only those."""
    waiting = set(open_calls(history))
    for index, item in enumerate(given):
        if item.get("type") == "function_call":
            waiting.add(item["call_id"])
        elif item.get("type") == "function_call_output":
            if item["call_id"] not in waiting:
                raise BadRequest(
                    f"No tool call found for function call output with call_id {item['call_id']}.",
                    param=f"input[{index}].call_id",
                )
            waiting.discard(item["call_id"])
    if waiting:
        raise BadRequest(f"No tool output found for function call {min(waiting)}.", param="input")
