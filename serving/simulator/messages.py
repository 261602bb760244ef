"""Anthropic's Messages form of a simulated engine: requests in, events out, as vLLM converts them.

A Messages request becomes a Chat Completions one, so that both share one prompt and one cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from serving.simulator.answers import Answer, BadInput
from serving.simulator.wire import FINGERPRINT, Piece, Usage, call_id, named_sse


class MessagesWire:
    """Anthropic's Messages."""

    _STOPS: Mapping[str, str] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
    }

    def __init__(self, request_id: str, request: Mapping[str, Any]) -> None:
        self._id = request_id
        self._model = request["model"]
        self._block = -1
        self._open: tuple[str, int] | None = None

    def head(self, usage: Usage) -> bytes:
        start = Usage(usage.prompt, usage.cached, 0)
        return named_sse("message_start", message=self._base([], None, start))

    def piece(self, piece: Piece) -> bytes:
        if piece.kind == "text":
            opened = self._begin(("text", 0), {"type": "text", "text": ""})
            return opened + self._delta({"type": "text_delta", "text": piece.text})
        if piece.kind == "call":
            block = {"type": "tool_use", "id": call_id(self._id, piece.index)}
            return self._begin(("tool", piece.index), block | {"name": piece.text, "input": {}})
        return self._delta({"type": "input_json_delta", "partial_json": piece.text})

    def tail(self, finish: str, usage: Usage) -> bytes:
        delta = {"stop_reason": self._STOPS[finish], "stop_sequence": None}
        end = named_sse("message_delta", delta=delta, usage=usage.anthropic())
        return self._end() + end + named_sse("message_stop")

    def whole(self, answer: Answer, usage: Usage) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        for index, call in enumerate(answer.calls):
            block = {"type": "tool_use", "id": call_id(self._id, index), "name": call.name}
            content.append(block | {"input": _parsed(call.arguments)})
        return self._base(content, self._STOPS[answer.finish], usage)

    def _base(
        self, content: list[dict[str, Any]], stop: str | None, usage: Usage
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._model,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage.anthropic(),
            "system_fingerprint": FINGERPRINT,
        }

    def _begin(self, what: tuple[str, int], block: dict[str, Any]) -> bytes:
        if self._open == what:
            return b""
        ended = self._end()
        self._open = what
        self._block += 1
        return ended + named_sse("content_block_start", index=self._block, content_block=block)

    def _end(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return named_sse("content_block_stop", index=self._block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return named_sse("content_block_delta", index=self._block, delta=delta)


def messages_to_chat(request: Mapping[str, Any]) -> dict[str, Any]:
    """A Messages request in Chat Completions form, as vLLM converts it. Raises BadInput."""
    chat: list[dict[str, Any]] = []
    if request.get("system"):
        chat.append({"role": "system", "content": request["system"]})
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadInput("messages: a list of messages is required")
    if not isinstance(request.get("max_tokens"), int):
        raise BadInput("max_tokens: required")
    for message in messages:
        chat.extend(_message_to_chat(message))
    tools = [
        {
            "type": "function",
            "function": {
                "name": t.get("name"),
                "description": t.get("description", ""),
                "parameters": t.get("input_schema", {}),
            },
        }
        for t in request.get("tools") or ()
        if isinstance(t, dict)
    ]
    choice = request.get("tool_choice")
    kind = choice.get("type", "auto") if isinstance(choice, dict) else "auto"
    named = {"type": "function", "function": {"name": (choice or {}).get("name")}}
    return {
        **request,
        "messages": chat,
        "tools": tools,
        "tool_choice": {"any": "required", "tool": named, "none": "none"}.get(kind, "auto"),
    }


def _message_to_chat(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if not isinstance(content, list):
        yield {"role": message.get("role"), "content": content}
        return
    text = [b for b in content if isinstance(b, dict) and b.get("type") == "text"]
    calls = [
        {
            "id": b.get("id"),
            "type": "function",
            "function": {"name": b.get("name"), "arguments": json.dumps(b.get("input", {}))},
        }
        for b in content
        if isinstance(b, dict) and b.get("type") == "tool_use"
    ]
    for block in content:
        if isinstance(block, dict) and block.get("type") == "tool_result":
            yield {
                "role": "tool",
                "tool_call_id": block.get("tool_use_id"),
                "content": block.get("content"),
            }
    if text or calls:
        yield {"role": message.get("role"), "content": text, "tool_calls": calls}


def _parsed(arguments: str) -> Any:
    """A script may send arguments that are not JSON; this form has no way to show them."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {}
