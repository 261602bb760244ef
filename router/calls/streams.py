"""A streamed answer to a turn with tools, event by event.

Each event goes through the reader: as it came where nothing changes, else written anew with the
fields that stood around it. An answer that ends without a finish reason is the engine's failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from router.calls.forms import encode
from router.calls.plan import ToolPlan
from router.calls.reader import Arguments, Begin, End, Retry, Seen, Text, ToolReader
from router.calls.shapes import (
    CHAT_CHUNK,
    FROM_STOP_REASON,
    MESSAGE_EVENT,
    TO_STOP_REASON,
    Json,
    Spent,
    add_spent,
    as_json,
    nonsense,
    unended,
)
from serving.errors import UpstreamError
from serving.protocol import SseEvent


class AnswerStream(Protocol):
    async def event(self, event: SseEvent) -> bytes:
        """What the client gets in this event's place; nothing where it is held back."""

    def over(self) -> None:
        """The engine has sent everything. Raises UpstreamError where its answer has no end."""


def _as_it_came(event: SseEvent) -> bytes:
    name = b"event: " + event.name.encode() + b"\n" if event.name else b""
    lines = b"\n".join(b"data: " + line for line in event.data.split(b"\n"))
    return name + lines + b"\n\n"


def _event(data: Json, name: str = "") -> bytes:
    return _as_it_came(SseEvent(name, encode(data)))


class ChatStream:
    """Chat completion chunks."""

    def __init__(self, plan: ToolPlan, retry: Retry, spent: Spent) -> None:
        self._make: Callable[[], ToolReader] = lambda: ToolReader(plan, retry, whole=False)
        self._spent = spent
        self._readers: dict[int, ToolReader] = {}
        self._calls: dict[int, tuple[Any, Any]] = {}
        """Of each choice, the engine's place and id of the call that it is writing."""
        self._unfinished: set[int] = set()

    async def event(self, event: SseEvent) -> bytes:
        if event.data.strip() == b"[DONE]":
            self.over()
            return _as_it_came(event)
        try:
            CHAT_CHUNK.decode(event.data)
            chunk = msgspec.json.decode(event.data)
        except (ValueError, RecursionError) as error:
            raise nonsense(error) from None
        choices = chunk.get("choices")
        if not choices:
            if chunk.get("error"):
                self._unfinished.clear()  # that is its end
            if isinstance(chunk.get("usage"), dict):
                add_spent(chunk["usage"], self._spent())
                return _event(chunk)
            return _as_it_came(event)
        out = []
        for choice in choices:
            out.append(await self._choice(chunk, choice, event, alone=len(choices) == 1))
        return b"".join(out)

    def over(self) -> None:
        if self._unfinished:
            raise unended()

    async def _choice(self, chunk: Json, choice: Json, event: SseEvent, *, alone: bool) -> bytes:
        index = choice.get("index", 0)
        reader = self._readers.get(index)
        if reader is None:
            reader = self._readers[index] = self._make()
            self._unfinished.add(index)
        delta = choice.get("delta") or {}
        content, reason = delta.get("content"), choice.get("finish_reason")
        seen: list[Seen] = []
        expected: list[Seen | None] = []
        if content:
            seen += await reader.text(content)
            expected.append(Text(content))
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            place, name, arguments = (
                call.get("index", 0),
                function.get("name"),
                function.get("arguments"),
            )
            if name and self._is_new(index, place, call.get("id")):
                seen += await reader.call(call.get("id"), name)
                expected.append(Begin(place, call.get("id"), name))
            elif place != self._calls.get(index, (place,))[0]:
                raise UpstreamError("the engine writes two calls at once, which cannot be read")
            elif name or not arguments:
                expected.append(None)  # of a call that the client may not see: never as it came
            if arguments:
                seen += await reader.arguments(arguments)
                expected.append(Arguments(place, arguments))
        if reason:
            self._unfinished.discard(index)
            seen += await reader.end(reason)
            expected.append(End(reason))
        if alone and seen == expected:
            return _as_it_came(event)
        return b"".join(self._written(chunk, choice, seen))

    def _is_new(self, choice: int, place: Any, call_id: Any) -> bool:
        """Some engines say a call's name with each piece of it, some number all calls 0."""
        before = self._calls.get(choice)
        self._calls[choice] = place, call_id or (before or (None, None))[1]
        return before is None or before[0] != place or call_id not in (None, before[1])

    def _written(self, chunk: Json, choice: Json, seen: list[Seen]) -> list[bytes]:
        """The chunk's own fields around what may be seen; what is neither text nor call stays."""
        rest = {
            name: value
            for name, value in (choice.get("delta") or {}).items()
            if name not in ("content", "tool_calls") and value is not None
        }
        beside = {
            name: value
            for name, value in choice.items()
            if name not in ("index", "delta", "finish_reason") and value is not None
        }
        deltas: list[tuple[Json, str | None]] = [(rest, None)] if rest or beside else []
        for each in seen:
            match each:
                case Text(text):
                    deltas.append(({"content": text}, None))
                case Begin(index, call_id, name):
                    function = {"name": name, "arguments": ""}
                    call: Json = {"index": index, "id": call_id, "type": "function"}
                    deltas.append(({"tool_calls": [{**call, "function": function}]}, None))
                case Arguments(index, text):
                    call = {"index": index, "function": {"arguments": text}}
                    deltas.append(({"tool_calls": [call]}, None))
                case End(reason):
                    deltas.append(({}, reason))
        head = {name: value for name, value in chunk.items() if name != "choices"}
        index = choice.get("index", 0)
        written = []
        for delta, ended in deltas:
            one = {"index": index, "delta": delta, "finish_reason": ended, **beside}
            beside = {}  # once, with the first
            written.append(_event({**head, "choices": [one]}))
        return written


class MessagesStream:
    """Anthropic's events: blocks that are opened, grow and are closed, one after another."""

    def __init__(self, plan: ToolPlan, retry: Retry, spent: Spent) -> None:
        self._reader = ToolReader(plan, retry, whole=False)
        self._spent = spent
        self._place = -1
        self._open = ""
        """The kind of block that the client has open."""
        self._unfinished = False

    async def event(self, event: SseEvent) -> bytes:
        try:
            MESSAGE_EVENT.decode(event.data)
            data = msgspec.json.decode(event.data)
        except (ValueError, RecursionError) as error:
            if event.data.strip() == b"[DONE]":  # vLLM ends these with OpenAI's mark
                self.over()
                return _as_it_came(event)
            raise nonsense(error) from None
        kind = data.get("type")
        if kind in ("message_start", "message_stop", "error"):
            if kind == "message_stop":
                self.over()
            self._unfinished = kind == "message_start"
        handle = self._HANDLERS.get(str(kind))
        return await handle(self, data) if handle is not None else _as_it_came(event)

    def over(self) -> None:
        if self._unfinished:
            raise unended()

    async def _start(self, data: Json) -> bytes:
        self._unfinished = True
        block = data.get("content_block") or {}
        if block.get("type") == "tool_use":
            seen = await self._reader.call(block.get("id"), block.get("name") or "")
            if block.get("input"):
                seen += await self._reader.arguments(as_json(block["input"]))
            return self._write(seen)
        if block.get("type") == "text":
            return self._write(await self._reader.text(block.get("text") or ""))
        return self._write(await self._reader.settle()) + self._begin(block, "other")

    async def _delta(self, data: Json) -> bytes:
        delta = data.get("delta") or {}
        if delta.get("type") == "text_delta":
            return self._write(await self._reader.text(delta.get("text") or ""))
        if delta.get("type") == "input_json_delta":
            return self._write(await self._reader.arguments(delta.get("partial_json") or ""))
        return self._grow(delta)

    async def _stop(self, _: Json) -> bytes:
        # Text and calls end when the next block begins: only then is it known what they were.
        return self._close() if self._open == "other" else b""

    async def _message_delta(self, data: Json) -> bytes:
        stopped = (data.get("delta") or {}).get("stop_reason")
        if not stopped:
            return _event(data, "message_delta")
        self._unfinished = False
        *seen, ended = await self._reader.end(FROM_STOP_REASON.get(stopped, stopped))
        reason = ended.reason if isinstance(ended, End) else stopped
        data["delta"]["stop_reason"] = TO_STOP_REASON.get(reason, reason)
        if isinstance(data.get("usage"), dict):
            add_spent(data["usage"], self._spent())
        return self._write(seen) + self._close() + _event(data, "message_delta")

    _HANDLERS: Mapping[str, Callable[[MessagesStream, Json], Awaitable[bytes]]] = {
        "content_block_start": _start,
        "content_block_delta": _delta,
        "content_block_stop": _stop,
        "message_delta": _message_delta,
    }

    def _write(self, seen: list[Seen]) -> bytes:
        out = b""
        for each in seen:
            match each:
                case Text(text):
                    if self._open != "text":
                        out += self._begin({"type": "text", "text": ""}, "text")
                    out += self._grow({"type": "text_delta", "text": text})
                case Begin(_, call_id, name):
                    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                    out += self._begin(block, "call")
                case Arguments(_, text):
                    out += self._grow({"type": "input_json_delta", "partial_json": text})
        return out

    def _begin(self, block: Json, kind: str) -> bytes:
        out = self._close()
        self._place += 1
        self._open = kind
        data = {"type": "content_block_start", "index": self._place, "content_block": block}
        return out + _event(data, "content_block_start")

    def _grow(self, delta: Json) -> bytes:
        data = {"type": "content_block_delta", "index": self._place, "delta": delta}
        return _event(data, "content_block_delta")

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        data = {"type": "content_block_stop", "index": self._place}
        return _event(data, "content_block_stop")
