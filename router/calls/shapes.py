"""What an engine's answer must look like to be read, in both forms. Decoding into these checks it.

An answer of another shape is the engine's failure (502), never a trace of ours. Beside them: the
two forms' names for why an answer ended, and how tokens are added to a usage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from router.calls.forms import encode
from serving.errors import UpstreamError
from serving.protocol import Usage

Json = dict[str, Any]
Spent = Callable[[], Usage]
"""What calls that were made again have cost so far."""

TO_STOP_REASON = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}
FROM_STOP_REASON = {value: key for key, value in TO_STOP_REASON.items()}


class _Function(msgspec.Struct):
    name: str
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Chat(msgspec.Struct):
    choices: list[_Choice]


class _SomeFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _SomeCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _SomeFunction | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_SomeCall] | None = None


class _ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice] | None = None


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None


class _Messages(msgspec.Struct):
    content: list[_Block]
    stop_reason: str | None = None


class _SomeBlock(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Part(msgspec.Struct):
    type: str | None = None
    content_block: _SomeBlock | None = None
    delta: _SomeBlock | None = None


CHAT_ANSWER, CHAT_CHUNK = msgspec.json.Decoder(_Chat), msgspec.json.Decoder(_Chunk)
MESSAGE, MESSAGE_EVENT = msgspec.json.Decoder(_Messages), msgspec.json.Decoder(_Part)


def nonsense(error: Exception) -> UpstreamError:
    return UpstreamError(f"the engine's answer cannot be read: {error}")


def unended() -> UpstreamError:
    return UpstreamError("the engine's answer ended without a finish reason")


def as_json(given: Any) -> str:
    return encode({} if given is None else given).decode()


def add_spent(usage: Json, spent: Usage) -> None:
    """Add what was spent on making calls again, in OpenAI's or Anthropic's names."""
    if not spent.output_tokens:
        return
    fresh = spent.prompt_tokens - spent.cached_tokens
    for name, tokens in (
        ("prompt_tokens", spent.prompt_tokens),
        ("completion_tokens", spent.output_tokens),
        ("total_tokens", spent.prompt_tokens + spent.output_tokens),
        ("input_tokens", fresh),
        ("output_tokens", spent.output_tokens),
        ("cache_read_input_tokens", spent.cached_tokens),
    ):
        if isinstance(usage.get(name), int):
            usage[name] += tokens
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
        details["cached_tokens"] += spent.cached_tokens
