"""An `mcp_call` item as what a model knows: a call, and its output.

    mcp_call  mcp_call  ...      items of one turn, each with what it gave
    call call ... output output  what the prompt shows, byte for byte as when they ran; with the
                                 function calls between them, and their outputs, if these follow

The id of such an item of ours ends in the call's own id (`item_id`), so that a client that sends
its items back gets the prompt that it had, and the engine's cache with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.canonical import canonical

MCP_CALL = "mcp_call"
CALLS = {MCP_CALL: "id", "function_call": "call_id"}
"""Types of items that are calls, and which field says of which turn."""
_OWN = re.compile(r"call_([0-9]{1,9})(?:_[0-9]+)+")


def item_id(response_id: str, call_id: str, again: int = 0) -> str:
    """`again`: how many items that call had before, in the same response."""
    return f"mcp_{response_id}_{call_id}" + (f".{again}" if again else "")


def apart(items: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The items with every `mcp_call` taken apart, among the other calls of its turn."""
    if not any(item.get("type") == MCP_CALL for item in items):
        return items
    found: list[dict[str, Any]] = []
    place = 0
    while place < len(items):
        turn = _turn(items, place)
        place += max(1, len(turn))
        if not any(item["type"] == MCP_CALL for item in turn):
            found += turn or items[place - 1 : place]
            continue
        given = {_call_id(item): _output(item) for item in turn if item["type"] == MCP_CALL}
        awaited = {_call_id(item) for item in turn} - given.keys()
        while place < len(items) and _answers(items[place]) in awaited:
            awaited.discard(_answers(items[place]))
            given[_answers(items[place])] = items[place]
            place += 1
        found += map(_call, turn)
        found += (given[call_id] for item in turn if (call_id := _call_id(item)) in given)
    return found


def _turn(items: Sequence[dict[str, Any]], place: int) -> list[dict[str, Any]]:
    """The calls that one turn made, from there on; one of another server's is a turn of its own."""
    turn: list[dict[str, Any]] = []
    made: set[str] = set()
    step = response = ""
    for at in range(place, len(items)):
        item = items[at]
        if item.get("type") not in CALLS:
            break
        own = _OWN.search(item[CALLS[item["type"]]])
        if own is None:
            return turn or [item]
        of = own.string[: own.start()] if item["type"] == MCP_CALL else ""
        another = own[1] != step or (of and response and of != response)
        if turn and (another or _call_id(item) in made):
            break
        step, response = own[1], of or response
        made.add(_call_id(item))
        turn.append(item)
    return turn


def _answers(item: dict[str, Any]) -> str:
    """The call whose output it is."""
    return str(item["call_id"]) if item.get("type") == "function_call_output" else ""


def _call_id(item: dict[str, Any]) -> str:
    if item["type"] != MCP_CALL:
        return str(item["call_id"])
    own = _OWN.search(item["id"])
    return own[0] if own else str(item["id"])


def _call(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] != MCP_CALL:
        return item
    told = {name: item[name] for name in ("name", "arguments")}
    return {"type": "function_call", "call_id": _call_id(item), **told}


def _output(item: dict[str, Any]) -> dict[str, Any]:
    output = item.get("output")
    said = output if output is not None else error_text(item.get("error"))
    return {"type": "function_call_output", "call_id": _call_id(item), "output": said}


def error(output: str) -> dict[str, Any]:
    """What a call gave that failed, as its item says it."""
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": output}]}


def error_text(said: Any) -> str:
    """What the model reads of that."""
    if isinstance(said, str):
        return said
    content = said.get("content") if isinstance(said, dict) else None
    texts = [part.get("text") for part in _parts(content)]
    if texts and all(isinstance(text, str) for text in texts):
        return "".join(map(str, texts))
    return canonical(said).decode()


def _parts(content: Any) -> Iterable[dict[str, Any]]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else ()
