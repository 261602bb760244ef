"""A Messages request of plain text, as the chat that engines make of it.

Engines have a way to go on from an unfinished message of the assistant on chat completions only.
So a Messages stream that was cut is asked for there, and the prompt must be the same to the byte:
these are vLLM's and SGLang's own conversions (`entrypoints/anthropic/serving.py` in both), as far
as text goes. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.tables.base import EngineKind

Json = dict[str, Any]

SAME = ("model", "max_tokens", "temperature", "top_p", "top_k", "cache_salt")
"""Fields that a chat has under the same name."""

_NO_PROMPT = "x-anthropic-billing-header"
"""A coding agent's mark of the request, which vLLM keeps out of the prompt."""


def is_text(content: Any) -> bool:
    """Is it a string, or blocks of text of which one says something?"""
    if isinstance(content, str):
        return True
    if not isinstance(content, list):
        return False
    texts = [b.get("text") for b in content if isinstance(b, dict) and b.get("type") == "text"]
    return len(texts) == len(content) and all(isinstance(t, str) for t in texts) and any(texts)


def as_chat(request: Mapping[str, Any], kind: EngineKind) -> Json:
    """The chat of a request whose system prompt and messages are all text."""
    sglang = kind == "sglang"
    chat = {name: request[name] for name in SAME if request.get(name) is not None}
    if request.get("stop_sequences"):
        chat["stop"] = request["stop_sequences"]
    system = _system(request.get("system") or "", sglang=sglang)
    before = [{"role": "system", "content": system}] if system else []
    messages = [
        {"role": message["role"], "content": _content(message["content"], empty=sglang)}
        for message in request["messages"]
    ]
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {**chat, "messages": [*before, *messages], **usage}


def _system(system: str | list[Json], *, sglang: bool) -> str:
    if isinstance(system, str):
        return "" if sglang and not system.strip() else system
    texts = [block["text"] for block in system if block["text"]]
    if sglang:
        return "\n".join(texts)
    return "".join(text for text in texts if not text.startswith(_NO_PROMPT))


def _content(content: str | list[Json], *, empty: bool) -> str | list[Json]:
    """`empty`: texts that say nothing are kept."""
    if isinstance(content, str):
        return content
    texts = [block["text"] for block in content if block["text"] or empty]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]
