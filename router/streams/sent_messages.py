"""What does a client already have of a Messages stream? As `sent`, of Anthropic's events.

    message_start · content_block_start · content_block_delta … · content_block_stop
                  · message_delta (why it ended, the usage) · message_stop

Blocks of text can go on elsewhere; thinking and calls cannot.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from router.streams.sent import Head, Sent
from serving.protocol import Usage, usage_in


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    index: int = 0
    message: Head | None = None
    content_block: _Part | None = None
    delta: _Part | None = None
    error: _Part | None = None


_event = msgspec.json.Decoder(_Event)

_FAILURES = ("internal_error", "api_error", "overloaded_error", "timeout_error")
"""What went wrong where it is no fault of the request; the first is vLLM's own name."""


class SentMessages(Sent):
    """The events of one stream of `/v1/messages`."""

    _ERROR: ClassVar[bytes] = b"event: error\n"
    _DONE: ClassVar[bytes] = b"event: message_stop\n"

    __slots__ = ("_asked",)

    def __init__(self, max_text_bytes: int) -> None:
        super().__init__(max_text_bytes)
        self._asked: Usage | None = None
        """The usage at the start: some engines tell the prompt's tokens only there."""

    def usage(self) -> Usage | None:
        usage = super().usage()
        if usage is None or usage.prompt_tokens or self._asked is None:
            return usage
        return msgspec.structs.replace(self._asked, output_tokens=usage.output_tokens)

    def _is_failure(self, data: bytes) -> bool:
        error = _decoded(data).error
        return error is not None and error.type in _FAILURES

    def _read(self, data: bytes) -> None:
        told, event = self._told, _decoded(data)
        delta = event.delta or _Part()
        if event.type == "message_start" and event.message is not None:
            told.head, told.role = event.message, True
            self._asked = usage_in(data)
        elif event.type == "content_block_start":
            if event.content_block is None or event.content_block.type != "text":
                told.problem = "it is not plain text"
            told.blocks += 1
            told.in_block = True
        elif event.type == "content_block_delta":
            if delta.type != "text_delta":
                told.problem = "it is not plain text"
            elif delta.text:
                self._say(delta.text)
        elif event.type == "content_block_stop":
            told.in_block = False
        elif event.type == "message_delta":
            told.finish = delta.stop_reason or told.finish
            self._usage = usage_in(data) or self._usage
        elif event.type == "message_stop":
            told.done = True
        elif event.type != "ping":
            told.problem = "an event of it is not a part of a message"


def _decoded(data: bytes) -> _Event:
    try:
        return _event.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Event()
