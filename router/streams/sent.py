"""What does a client already have of a stream? Kept while it passes, read only when it is cut.

    feed(chunk) ──► the whole events in it, for the client         ... as they come
    told()      ──► Told: the text, and what else was said         ... after a cut
    usage()     ──► the engine's token counts                      ... after the end

Only whole events go to the client, so that a stream that is cut in the middle of one (or of a
character) can go on behind the last. Engines write whole events: nothing waits for another chunk.

Nothing is parsed for each chunk. Bytes are kept up to `_RAW_BYTES`; then their text takes their
place, a tenth of the size, up to `max_text_bytes`. Beyond that a stream passes as it comes, and is
no longer one that can be continued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import msgspec

from router.http.http1 import Failed
from serving.protocol import SseSplitter, Usage, UsageTail, usage_in

_RAW_BYTES = 16 * 1024
_HALF_BYTES = 64 * 1024
"""What is withheld of one event; an engine that writes none whole gets its bytes passed on."""
_TAIL_BYTES = UsageTail.KEEP_BYTES


_ABSENT = msgspec.Raw(b"null")


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning: msgspec.Raw = _ABSENT
    reasoning_content: msgspec.Raw = _ABSENT
    refusal: msgspec.Raw = _ABSENT
    tool_calls: msgspec.Raw = _ABSENT
    function_call: msgspec.Raw = _ABSENT


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    code: int | str | None = None


class Head(msgspec.Struct):
    """What all events of a stream have in common."""

    id: str | None = None
    created: int | None = None
    model: str | None = None
    system_fingerprint: str | None = None


class _Event(Head):
    choices: list[_Choice] = []
    error: _Error | None = None


_event = msgspec.json.Decoder(_Event)
_NOTHING = (b"null", b"[]", b'""')


@dataclass(slots=True)
class Told:
    """The meaning of the events that a client has."""

    head: Head | None = None
    """The first event: its id and date are the stream's. None: the client has nothing."""
    text: str = ""
    role: bool = False
    """Whether the delta with the role is out."""
    blocks: int = 0
    """Of a Messages stream: how many blocks of text were begun."""
    in_block: bool = False
    """... and whether the last of them has not ended."""
    pieces: int = 0
    """Events that had text: at least so many tokens."""
    finish: str = ""
    done: bool = False
    problem: str = ""
    """Why this cannot be continued from its text alone, in a clause; empty where it can."""


class Sent:
    """The events of one stream of `/v1/chat/completions` or `/v1/completions`."""

    _ERROR: ClassVar[bytes] = b'data: {"error"'
    _DONE: ClassVar[bytes] = b"data: [DONE]"

    __slots__ = (
        *("_failure", "_half", "_max_text_bytes", "_parts", "_raw", "_size"),
        *("_text_bytes", "_told", "_usage"),
    )

    def __init__(self, max_text_bytes: int) -> None:
        self._max_text_bytes = max_text_bytes
        self._raw: list[bytes] = []
        self._size = 0
        self._half = b""
        self._failure: Failed | None = None
        self._told = Told()
        self._parts: list[str] = []
        self._text_bytes = 0
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> bytes:
        """What of it the client gets now. Raises Failed when the engine says that it failed."""
        if self._half or chunk[-2:] != b"\n\n":
            chunk = self._whole(chunk)
        if self._failure is not None:
            raise self._failure
        if self._ERROR in chunk:
            chunk = self._before_error(chunk)
        self._raw.append(chunk)
        self._size += len(chunk)
        if self._size > _RAW_BYTES:
            self._absorb(keep_bytes=_TAIL_BYTES)
        return chunk

    def rest(self) -> bytes:
        """After the last chunk: what was withheld. Raises Failed when it was no end of an answer:
        neither a reason to finish nor a `[DONE]` came."""
        half, self._half = self._half, b""
        if self._failure is not None:
            raise self._failure
        if self._DONE not in self._tail() + half:
            told = self.told()
            if told.head is not None and not told.finish and not told.problem:
                raise Failed("cut", "it ended the stream before the answer's end")
        return half

    def told(self) -> Told:
        """What the client has. What was withheld is dropped: it never gets it."""
        self._half, self._failure = b"", None
        self._absorb()
        self._told.text = "".join(self._parts)
        self._parts = [self._told.text]
        return self._told

    def usage(self) -> Usage | None:
        """The engine's counts, after the last chunk."""
        tail = UsageTail()
        tail.feed(self._tail())
        return tail.usage() or self._usage

    def _tail(self) -> bytes:
        return b"".join(self._raw)[-_TAIL_BYTES:]

    def _whole(self, chunk: bytes) -> bytes:
        """The whole events of what was withheld and this chunk; the rest is withheld."""
        data = self._half + chunk
        end = _boundary(data, len(data))
        if not end and len(data) > _HALF_BYTES:
            self._told.problem = self._told.problem or "an event of it was too long"
            end = len(data)
        self._half = data[end:]
        return data[:end]

    def _before_error(self, chunk: bytes) -> bytes:
        """An error event: the engine's refusal passes as it came. Its failure is a cut: raises
        Failed, or at the next call where other events came before it, and returns those."""
        at = chunk.index(self._ERROR)
        events = SseSplitter().feed(chunk[at:])
        # None: it is longer than what is withheld, and the client must have it as it comes.
        if not events or not self._is_failure(events[0].data):
            return chunk
        self._failure = Failed("status", "it reported an error in mid-stream")
        if not at:
            raise self._failure
        return chunk[:at]

    def _is_failure(self, data: bytes) -> bool:
        """Is this error the engine's, and not the request's?"""
        error = _decoded(data).error
        return error is not None and isinstance(error.code, int) and error.code >= 500

    def _absorb(self, keep_bytes: int = 0) -> None:
        """Read the events that are kept, but for the last ones; their text takes their place."""
        data = b"".join(self._raw)
        end = len(data) - keep_bytes
        if keep_bytes and not self._told.problem:
            end = _boundary(data, end)
        self._raw = [data[end:]] if end < len(data) else []
        self._size = len(data) - end
        if self._told.problem:
            return
        for event in SseSplitter().feed(data[:end]):
            self._read(event.data)
        if self._text_bytes > self._max_text_bytes:
            self._told.problem = "it is longer than router.failure.continue_bytes"
            self._parts.clear()

    def _read(self, data: bytes) -> None:
        told = self._told
        if data == b"[DONE]":
            told.done = True
            return
        event = _decoded(data)
        if event.id is None or event.error is not None:
            told.problem = "an event of it is not a chunk of an answer"
            return
        told.head = told.head or event
        if b'"usage"' in data:
            self._usage = usage_in(data) or self._usage
        for choice in event.choices:
            delta = choice.delta or _Delta()
            others = (delta.reasoning, delta.reasoning_content, delta.refusal, delta.tool_calls,
                      delta.function_call)  # fmt: skip
            if choice.index:
                told.problem = "it has more than one choice"
            elif any(bytes(x) not in _NOTHING for x in others):
                told.problem = "it is not plain text"
            told.role = told.role or delta.role is not None
            text = delta.content or choice.text
            if text:
                self._say(text)
            told.finish = choice.finish_reason or told.finish

    def _say(self, text: str) -> None:
        self._told.pieces += 1
        self._parts.append(text)
        self._text_bytes += len(text)


def _boundary(data: bytes, upto: int) -> int:
    """Where the last event of `data[:upto]` that is whole ends; 0 where none is."""
    lf, crlf = data.rfind(b"\n\n", 0, upto), data.rfind(b"\r\n\r\n", 0, upto)
    return max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def _decoded(data: bytes) -> _Event:
    try:
        return _event.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Event()
