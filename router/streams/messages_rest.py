"""The rest of a Messages stream that was cut, from the chat by which it goes on.

    chat chunk with text ──► content_block_delta    (in the block that was open, or in a new one)
    finish reason, usage ──► content_block_stop, message_delta
    [DONE]               ──► message_stop

What the chat says of its end is kept until all of it is there: a Messages stream says it at once.
"""

from __future__ import annotations

from typing import Any

import msgspec

from router.streams.continuation import Continuation, NotText, Rest

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}

Json = dict[str, Any]


class MessagesRest(Rest):
    """The next replica's chat chunks → more events of the Messages stream that was cut."""

    def __init__(self, how: Continuation, sent_tokens: int, *, drop: str = "") -> None:
        super().__init__(how, sent_tokens, drop=drop)
        self._started = how.told.role
        self._blocks, self._in_block = how.told.blocks, how.told.in_block
        self._why: Json | None = None
        """Why it ended; said with the usage, which comes after."""
        self._counted: Json = {}

    def event(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            self.done = True
            return self._end()
        event = self._news(data)
        if event is None:
            return b""
        out = self._start(event)
        for choice in event["choices"]:
            if text := (choice.get("delta") or {}).get("content"):
                out += self._text_event(text)
            if choice.get("finish_reason"):
                self._why = _why(choice)
        if isinstance(event.get("usage"), dict):
            self._counted = event["usage"]
        return out

    def _start(self, event: Json) -> bytes:
        if self._started:
            return b""
        self._started = True
        message: Json = {
            "id": event.get("id"),
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": event.get("model"),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage({}),
        }
        return named("message_start", message=message)

    def _text_event(self, text: str) -> bytes:
        opened = b""
        if not self._in_block:
            block = {"type": "text", "text": ""}
            opened = named("content_block_start", index=self._blocks, content_block=block)
            self._blocks += 1
            self._in_block = True
        delta = {"type": "text_delta", "text": text}
        return opened + named("content_block_delta", index=self._blocks - 1, delta=delta)

    def _end(self) -> bytes:
        if self._why is None:
            raise NotText
        closed = b""
        if self._in_block:
            closed = named("content_block_stop", index=self._blocks - 1)
            self._in_block = False
        told = named("message_delta", delta=self._why, usage=_usage(self._counted))
        return closed + told + MESSAGE_STOP


def named(name: str, **fields: Any) -> bytes:
    """One of Anthropic's events: its name on a line and again inside."""
    return b"event: %b\ndata: %b\n\n" % (
        name.encode(),
        msgspec.json.encode({"type": name, **fields}),
    )


MESSAGE_STOP = named("message_stop")


def _why(choice: Json) -> Json:
    """vLLM and SGLang name a stop sequence that was met beside the reason."""
    met = choice.get("stop_reason") or choice.get("matched_stop")
    if choice["finish_reason"] == "stop" and isinstance(met, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": met}
    return {
        "stop_reason": _STOP_REASONS.get(choice["finish_reason"]),
        "stop_sequence": None,
    }


def _usage(usage: Json) -> Json:
    """OpenAI's counts in Anthropic's names, whose `input_tokens` leaves out what the cache has."""
    details = usage.get("prompt_tokens_details") or {}
    read, made = details.get("cached_tokens"), details.get("created_cache_tokens")
    prompt = usage.get("prompt_tokens", 0) - (read or 0) - (made or 0)
    told = {"input_tokens": max(0, prompt), "output_tokens": usage.get("completion_tokens", 0)}
    if read is not None:
        told["cache_read_input_tokens"] = read
    if made is not None:
        told["cache_creation_input_tokens"] = made
    return told
