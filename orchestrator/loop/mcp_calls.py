"""An `mcp_call` item as what a model knows: a call, and its output.

    mcp_call  mcp_call  ...      items of one turn, each with what it gave
    call call ... output output  what the prompt shows, byte for byte as when they ran

The id of such an item of ours ends in the call's own id (`item_id`), so that a client that sends
its items back gets the prompt that it had, and the engine's cache with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec

MCP_CALL = "mcp_call"
_OWN = re.compile(r"call_([0-9]{1,9})(?:_[0-9]+)+")


def item_id(response_id: str, call_id: str, again: int = 0) -> str:
    """`again`: how many items that call had before, in the same response."""
    return f"mcp_{response_id}_{call_id}" + (f".{again}" if again else "")


def apart(items: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The items with every `mcp_call` taken apart."""
    if not any(item.get("type") == MCP_CALL for item in items):
        return items
    found: list[dict[str, Any]] = []
    for turn, group in groupby(enumerate(items), _turn):
        of_turn = [item for _, item in group]
        if turn is None:
            found += of_turn
        else:
            found += map(_call, of_turn)
            found += map(_output, of_turn)
    return found


def _turn(placed: tuple[int, dict[str, Any]]) -> str | None:
    """Which turn made a call; one of another server's counts as a turn of its own."""
    place, item = placed
    if item.get("type") != MCP_CALL:
        return None
    own = _OWN.search(item["id"])
    return own[1] if own else f"at {place}"


def _call_id(item: dict[str, Any]) -> str:
    own = _OWN.search(item["id"])
    return own[0] if own else str(item["id"])


def _call(item: dict[str, Any]) -> dict[str, Any]:
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
    return msgspec.json.encode(said, order="sorted").decode()


def _parts(content: Any) -> Iterable[dict[str, Any]]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else ()
