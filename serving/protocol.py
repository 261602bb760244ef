"""The wire: what we must understand of a request and of an engine's answer, and no more.

    request bytes ── parse(path, body) ──► ChatAsk | CompletionAsk | MessagesAsk
    answer bytes  ── usage_in(answer) ───► Usage | None        (whole answers)
                  ── SseSplitter.feed ───► events of a stream
                  ── UsageTail ──────────► Usage | None        (the end of a stream)

A body is scanned once. Whatever we only hash or pass on stays `msgspec.Raw`: a view of the bytes
as they came, neither decoded nor copied. The engine checks the rest of a request, and says so
itself; what we refuse is what we could not route.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator

import msgspec

from serving.errors import BadRequest, NotFound, UpstreamError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = "/v1/messages"

_ABSENT = msgspec.Raw()


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What all routes have in common. A field that is absent is an empty Raw."""

    model: str
    stream: bool | None = None
    tools: msgspec.Raw = _ABSENT
    tool_choice: msgspec.Raw = _ABSENT
    parallel_tool_calls: msgspec.Raw = _ABSENT
    response_format: msgspec.Raw = _ABSENT
    structured_outputs: msgspec.Raw = _ABSENT
    guided_choice: msgspec.Raw = _ABSENT
    user: msgspec.Raw = _ABSENT
    cache_salt: msgspec.Raw = _ABSENT
    conversation: msgspec.Raw = _ABSENT
    prompt_cache_key: msgspec.Raw = _ABSENT
    metadata: msgspec.Raw = _ABSENT
    lora_path: msgspec.Raw = _ABSENT
    priority: msgspec.Raw = _ABSENT
    kv_transfer_params: msgspec.Raw = _ABSENT
    session_params: msgspec.Raw = _ABSENT


class ChatAsk(Ask, frozen=True, gc=False, kw_only=True):
    """`/v1/chat/completions`."""

    messages: list[msgspec.Raw]


class MessagesAsk(Ask, frozen=True, gc=False, kw_only=True):
    """`/v1/messages`: the system prompt stands beside the messages."""

    messages: list[msgspec.Raw]
    system: msgspec.Raw = _ABSENT


class CompletionAsk(Ask, frozen=True, gc=False, kw_only=True):
    """`/v1/completions`: a string, or lists of strings or token ids."""

    prompt: msgspec.Raw


AnyAsk = ChatAsk | MessagesAsk | CompletionAsk

_DECODERS: dict[str, msgspec.json.Decoder[AnyAsk]] = {
    CHAT: msgspec.json.Decoder(ChatAsk),
    COMPLETIONS: msgspec.json.Decoder(CompletionAsk),
    MESSAGES: msgspec.json.Decoder(MessagesAsk),
}
ROUTES = tuple(_DECODERS)

_FIXES = {
    "model": "write the name of a model that GET /v1/models lists, or 'auto'",
    "messages": "send a list of at least one message, each an object with a role",
    "prompt": "send a string or a list",
    "stream": "send true or false, or leave it out",
}


def parse(path: str, body: bytes) -> AnyAsk:
    """The body as a trusted value. Raises BadRequest naming the field and the fix."""
    decoder = _DECODERS.get(path)
    if decoder is None:
        raise NotFound(f"no engine route {path}; valid: {', '.join(ROUTES)}")
    try:
        ask = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = "the body is empty" if not body.strip() else f"the body is not valid JSON: {error}"
        raise BadRequest(f"{what}; send one JSON object", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply", code="invalid_json") from None
    if not ask.model:
        raise BadRequest(f"model: is empty; {_FIXES['model']}", param="model")
    if not isinstance(ask, CompletionAsk):
        _check_messages(ask.messages)
    return ask


def _check_messages(messages: list[msgspec.Raw]) -> None:
    if not messages:
        raise BadRequest(f"messages: is empty; {_FIXES['messages']}", param="messages")
    for i, message in enumerate(messages):
        if memoryview(message)[0] != 0x7B:  # "{"
            where = f"messages[{i}]"
            raise BadRequest(f"{where}: is not an object; {_FIXES['messages']}", param=where)


_AT = re.compile(r" - at `\$\.([^`]*)`")
_MISSING = re.compile(r"required field `([^`]*)`")


def _invalid(text: str) -> BadRequest:
    """msgspec's sentence, said with the field's name and what to send instead."""
    if missing := _MISSING.search(text):
        param = missing[1]
        return BadRequest(f"{param}: is missing; {_FIXES.get(param, 'add it')}", param=param)
    at = _AT.search(text)
    if at is None:
        return BadRequest(f"the body: {text.lower()}; send one JSON object", code="invalid_json")
    param = at[1]
    said = text[: at.start()].lower()
    return BadRequest(f"{param}: {said}; {_FIXES.get(param, 'change its type')}", param=param)


class _Role(msgspec.Struct):
    role: str = ""


_ROLE = msgspec.json.Decoder(_Role)


def role_of(message: msgspec.Raw) -> str:
    """The role of one raw message; empty when it has none that is a string."""
    try:
        return _ROLE.decode(message).role
    except (ValueError, RecursionError):
        return ""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What an engine counted, in tokens; `prompt_tokens` includes `cached_tokens`."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _UsageFields(msgspec.Struct, gc=False):
    """OpenAI's names and Anthropic's, whose `input_tokens` leaves the cached ones out."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    usage: _UsageFields | None = None


class _Answer(msgspec.Struct, gc=False):
    usage: _UsageFields | None = None
    message: _Message | msgspec.UnsetType = msgspec.UNSET
    """Where an Anthropic stream's first event keeps it."""


_ANSWER = msgspec.json.Decoder(_Answer)


def usage_in(answer: bytes) -> Usage | None:
    """The usage in a whole answer or in one event's data; None where there is none."""
    try:
        found = _ANSWER.decode(answer)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, nested without end
        return None
    fields = found.usage
    if fields is None and isinstance(found.message, _Message):
        fields = found.message.usage
    if fields is None:
        return None
    if fields.prompt_tokens is not None:
        cached = fields.prompt_tokens_details.cached_tokens if fields.prompt_tokens_details else 0
        return Usage(fields.prompt_tokens, cached or 0, fields.completion_tokens or 0)
    cached = fields.cache_read_input_tokens or 0
    prompt = (fields.input_tokens or 0) + cached + (fields.cache_creation_input_tokens or 0)
    return Usage(prompt, cached, fields.output_tokens or 0)


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One event: its `event:` name (empty when it has none) and its data lines, joined."""

    name: str
    data: bytes


_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_USAGE = b'"usage"'


class SseSplitter:
    """Bytes in whatever pieces they arrive → whole events, in order. Comments are dropped."""

    def __init__(self, max_event_bytes: int = 8 * 2**20) -> None:
        self._rest = b""
        self._max_event_bytes = max_event_bytes

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that `chunk` completes. Raises UpstreamError when one grows too large."""
        # A boundary may lie across the seam: look again from three bytes before it.
        seam = max(0, len(self._rest) - 3)
        text = self._rest + chunk if self._rest else chunk
        events: list[SseEvent] = []
        start = 0
        for boundary in _BLANK_LINE.finditer(text, seam):
            if (event := parse_event(text[start : boundary.start()])) is not None:
                events.append(event)
            start = boundary.end()
        self._rest = text[start:]
        if len(self._rest) > self._max_event_bytes:
            raise UpstreamError(f"the engine sent an event of over {self._max_event_bytes} bytes")
        return events


def parse_event(block: bytes) -> SseEvent | None:
    """The lines between two blank lines as an event; None when they hold no data."""
    name, data = "", []
    for line in block.splitlines():
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return SseEvent(name, b"\n".join(data)) if data else None


async def split_sse(chunks: AsyncIterable[bytes]) -> AsyncIterator[SseEvent]:
    """The events of a stream, as they become whole."""
    splitter = SseSplitter()
    async for chunk in chunks:
        for event in splitter.feed(chunk):
            yield event


class UsageTail:
    """Finds the usage at the end of a stream that passes by, without holding a chunk back.

    Keeps the last few kilobytes (usage comes in the last events) and looks at them once, at the
    end; Anthropic's prompt tokens come in the first event, so the first chunk is kept as well.
    """

    KEEP_BYTES = 4096

    def __init__(self) -> None:
        self._first = b""
        self._recent: deque[bytes] = deque()
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        if not self._first:
            self._first = chunk[: self.KEEP_BYTES]
        self._recent.append(chunk)
        self._size += len(chunk)
        while self._size - len(self._recent[0]) >= self.KEEP_BYTES:
            self._size -= len(self._recent.popleft())

    def usage(self) -> Usage | None:
        """Call it after the last chunk."""
        last = self._newest(b"".join(self._recent))
        first = self._newest(self._first)
        if last is None or first is None or last.prompt_tokens:
            return last or first
        return Usage(first.prompt_tokens, first.cached_tokens, last.output_tokens)

    @staticmethod
    def _newest(text: bytes) -> Usage | None:
        # From the end: mostly the first that is found has it, and no other event is looked at.
        at = text.rfind(_USAGE)
        while at >= 0:
            start = max(text.rfind(b"\n\n", 0, at), text.rfind(b"\n\r\n", 0, at), 0)
            end = _BLANK_LINE.search(text, at)
            event = parse_event(text[start : end.start() if end else len(text)])
            if event and _USAGE in event.data and (usage := usage_in(event.data)):
                return usage
            at = text.rfind(_USAGE, 0, start)
        return None
