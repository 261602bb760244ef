"""Load benchmark, what comes back: a streamed chat completion, read as its bytes arrive. Pure.

`feed` is told when each piece came, so the same pieces at the same times give the same answer.
A token is a chunk that holds text, reasoning or a part of a call: the first chunk of most servers
says only a role, the last ones a reason to stop and the usage. A model that stops at once, where
the usage counts what it generated, has answered when it said that it stopped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from serving.errors import UpstreamError
from serving.protocol import SseSplitter

CUT = "cut off"
IN_STREAM = "error in the stream"
NO_TOKENS = "no tokens"
UNREADABLE = "unreadable"
_KEEP_BYTES = 2048


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)


class Reader:
    """One answer. Read its fields after the last `feed`."""

    def __init__(self) -> None:
        self.text = ""
        self.token_s: list[float] = []
        """When each chunk with a token came."""
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        """None: the server does not say."""
        self.output_tokens: int | None = None
        self.said = b""
        """The beginning of what is no answer, for people to read."""
        self._splitter = SseSplitter()
        self._finished_s: float | None = None
        self._error = ""

    def feed(self, at_s: float, data: bytes) -> None:
        if len(self.said) < _KEEP_BYTES:
            self.said += data[: _KEEP_BYTES - len(self.said)]
        if self._error:
            return
        try:
            for event in self._splitter.feed(data):
                if event.data == b"[DONE]":
                    self._finish(at_s)
                else:
                    self._chunk(at_s, _CHUNK.decode(event.data))
        except (msgspec.DecodeError, UnicodeDecodeError, UpstreamError):
            self._error = UNREADABLE

    def _chunk(self, at_s: float, chunk: _Chunk) -> None:
        if chunk.error is not None:
            self._error = IN_STREAM
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta is not None:
                if isinstance(delta.content, str):
                    self.text += delta.content
                if delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls:
                    self.token_s.append(at_s)
            if choice.finish_reason is not None:
                self._finish(at_s)
        if chunk.usage is not None:
            self._count(chunk.usage)

    def _finish(self, at_s: float) -> None:
        if self._finished_s is None:
            self._finished_s = at_s

    def _count(self, usage: _Usage) -> None:
        self.prompt_tokens = usage.prompt_tokens
        self.output_tokens = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            self.cached_tokens = usage.prompt_tokens_details.cached_tokens
        if usage.completion_tokens and self._finished_s is not None and not self.token_s:
            self.token_s.append(self._finished_s)

    def error(self) -> str:
        """What was wrong with it, in words that count together; empty: nothing."""
        if self._error:
            return self._error
        if self._finished_s is None:
            return CUT
        return "" if self.token_s else NO_TOKENS
