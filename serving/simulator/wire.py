"""How a simulated answer looks on the wire: three forms of one stream of pieces.

    Answer → pieces: text | call begins | arguments  (one pseudo-token each)
           → ChatWire      /v1/chat/completions      data: {...}, ..., data: [DONE]
           → TextWire      /v1/completions           the same
           → MessagesWire  /v1/messages              event: ..., data: {...}  (next module)

Shapes and order are vLLM's. Every object says that it is simulated (`system_fingerprint`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from serving.simulator.answers import Answer
from serving.simulator.cache import BYTES_PER_TOKEN

FINGERPRINT = "warmloop-simulated"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request; `prompt` includes `cached`."""

    prompt: int
    cached: int
    output: int
    times_ms: Mapping[str, float] | None = None
    """Where the engine says how long each part took, when all of them have passed."""

    def openai(self) -> dict[str, Any]:
        """The fields that say it."""
        usage = {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.output,
            "completion_tokens": self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        times = {"metrics": self.times_ms} if self.times_ms is not None else {}
        return {"usage": usage, **times}

    def anthropic(self) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt - self.cached,
            "output_tokens": self.output,
            "cache_read_input_tokens": self.cached,
        }


@dataclass(frozen=True, slots=True)
class Piece:
    """About one token: some text, the start of a call (`text` is its name), or its arguments."""

    kind: Literal["text", "call", "arguments"]
    text: str
    index: int = 0


def pieces(answer: Answer) -> Iterator[Piece]:
    """The answer in the order in which it is generated."""
    for text in _cut(answer.text):
        yield Piece("text", text)
    for index, call in enumerate(answer.calls):
        yield Piece("call", call.name, index)
        for text in _cut(call.arguments):
            yield Piece("arguments", text, index)


def _cut(text: str) -> Iterator[str]:
    """Pieces of about one token each; a character is never cut."""
    start = size = 0
    for end, char in enumerate(text, 1):
        size += len(char.encode())
        if size >= BYTES_PER_TOKEN:
            yield text[start:end]
            start, size = end, 0
    if size:
        yield text[start:]


class Wire(Protocol):
    """One request's form on the wire. Made for each request; keeps the state of its stream."""

    def head(self, usage: Usage) -> bytes:
        """What comes before the first piece."""

    def piece(self, piece: Piece) -> bytes: ...

    def tail(self, finish: str, usage: Usage) -> bytes:
        """Finish reason, usage, end mark."""

    def whole(self, answer: Answer, usage: Usage) -> dict[str, Any]:
        """The answer that is not streamed."""


def call_id(request_id: str, index: int) -> str:
    """Deterministic within a request, unique among requests."""
    return f"call_{request_id.rpartition('-')[2][-12:]}{index:02d}"


class ChatWire:
    """Chat Completions."""

    def __init__(self, request_id: str, request: Mapping[str, Any]) -> None:
        self._id = request_id
        self._model = request["model"]
        options = request.get("stream_options")
        self._usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._created = int(time.time())

    def head(self, usage: Usage) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        if piece.kind == "text":
            return self._chunk({"content": piece.text})
        function: dict[str, Any] = {"index": piece.index}
        if piece.kind == "call":
            function |= {"id": call_id(self._id, piece.index), "type": "function"}
            function["function"] = {"name": piece.text, "arguments": ""}
        else:
            function["function"] = {"arguments": piece.text}
        return self._chunk({"tool_calls": [function]})

    def tail(self, finish: str, usage: Usage) -> bytes:
        end = self._chunk({}, finish)
        if self._usage:
            end += sse(self._base("chat.completion.chunk", choices=[], **usage.openai()))
        return end + DONE

    def whole(self, answer: Answer, usage: Usage) -> dict[str, Any]:
        calls = [
            {
                "id": call_id(self._id, index),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(answer.calls)
        ]
        message = {"role": "assistant", "content": answer.text or None, "tool_calls": calls}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": answer.finish,
        }
        return self._base("chat.completion", choices=[choice], **usage.openai())

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse(self._base("chat.completion.chunk", choices=[choice]))

    def _base(self, kind: str, **rest: Any) -> dict[str, Any]:
        base = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return base | {"system_fingerprint": FINGERPRINT} | rest


class TextWire:
    """Completions."""

    def __init__(self, request_id: str, request: Mapping[str, Any]) -> None:
        self._id = request_id
        self._model = request["model"]
        options = request.get("stream_options")
        self._usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._created = int(time.time())

    def head(self, usage: Usage) -> bytes:
        return b""

    def piece(self, piece: Piece) -> bytes:
        return sse(self._base([self._choice(piece.text, None)]))

    def tail(self, finish: str, usage: Usage) -> bytes:
        end = sse(self._base([self._choice("", finish)]))
        if self._usage:
            end += sse(self._base([], **usage.openai()))
        return end + DONE

    def whole(self, answer: Answer, usage: Usage) -> dict[str, Any]:
        return self._base([self._choice(answer.text, answer.finish)], **usage.openai())

    def _choice(self, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}

    def _base(self, choices: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        } | rest


def sse(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def named_sse(name: str, **fields: Any) -> bytes:
    """One server-sent event in Anthropic's manner: its name on a line and again inside."""
    return f"event: {name}\n".encode() + sse({"type": name, **fields})
