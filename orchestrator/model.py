"""A model turn as small typed values, whoever serves it.

    ModelTurn ──► Routed, then TextDelta | CallStart | ArgumentsDelta ..., then Done
                  or ModelError(retry or not), at any point

`RouterModel` is the real one: it hands the rendered bytes to the router in this process and reads
the engine's SSE. A call of the built-in `reply` tool is a call like any other here; `answer.py`
makes text of it, whichever client it came from.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import msgspec

from router.tenancy.tenants import OPEN, Tenant
from router.turn import Decision, TurnRequest, Turns, Urgency
from serving.config.router import TurnType
from serving.errors import RateLimited, RequestError, Unavailable, UpstreamError, WarmloopError
from serving.protocol import CHAT, SseSplitter


class ModelTurn(msgspec.Struct, frozen=True, gc=False):
    """One question to a model."""

    body: bytes
    conversation: str
    request_id: str
    turn_type: TurnType
    agent: str = ""
    tenant: str = ""
    urgency: Urgency = "interactive"
    spare: bool = False
    """Only that an engine reads the prompt; refused (`NO_TIME`) where anybody would wait for it."""


class Routed(msgspec.Struct, frozen=True, gc=False):
    """The router's decision; comes first."""

    decision: Decision


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """Text for the client."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """What the model thinks before it answers."""

    text: str


class CallStart(msgspec.Struct, frozen=True, gc=False):
    """A call begins; the arguments that follow belong to it."""

    name: str


class ArgumentsDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the newest call's arguments."""

    text: str


class Done(msgspec.Struct, frozen=True, gc=False):
    """The answer is whole. Tokens by the engine's usage."""

    finish_reason: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the output."""


ModelEvent = Routed | TextDelta | ReasoningDelta | CallStart | ArgumentsDelta | Done


class ModelError(WarmloopError):
    """A turn that gave no answer; `retry` says whether asking again can help."""

    def __init__(self, message: str, *, code: str, retry: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry


class ModelClient(Protocol):
    """The one method that the worker needs."""

    def turn(self, turn: ModelTurn) -> AsyncGenerator[ModelEvent, None]:
        """Ask; closing the generator frees the engine. Raises ModelError."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int = 0
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    """vLLM's word; SGLang and older engines say `reasoning_content`."""
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_chunk = msgspec.json.Decoder(_Chunk)


class RouterModel:
    """Asks engines through the router."""

    def __init__(self, turns: Turns, tenant: Callable[[str], Tenant] = lambda _: OPEN) -> None:
        """`tenant` knows tenants by their names."""
        self._turns = turns
        self._tenant = tenant

    async def turn(self, turn: ModelTurn) -> AsyncGenerator[ModelEvent, None]:
        request = TurnRequest(
            path=CHAT,
            body=turn.body,
            request_id=turn.request_id,
            session=turn.conversation,
            turn_type=turn.turn_type,
            agent=turn.agent,
            tenant=self._tenant(turn.tenant),
            urgency=turn.urgency,
            inner=True,
            spare=turn.spare,
        )
        try:
            async with self._turns.open(request) as answer:
                if answer.status >= 400:
                    raise await _refused(answer.status, [c async for c in answer.chunks()])
                yield Routed(answer.decision)
                splitter, reader = SseSplitter(), ChunkReader()
                async for piece in answer.chunks():
                    for event in splitter.feed(piece):
                        for value in reader.feed(event.data):
                            yield value
                yield reader.done()
        except RequestError as error:
            raise ModelError(
                error.message,
                code=error.code or "engine_failed",
                retry=isinstance(error, RateLimited | Unavailable | UpstreamError),
            ) from error


async def _refused(status: int, body: list[bytes]) -> ModelError:
    """An engine's own refusal. Its words may quote the prompt, so only the status is kept."""
    retry = status >= 500 or status in (408, 429)
    context = status == 400 and b"context length" in b"".join(body)
    code = "context_length_exceeded" if context else "engine_refused"
    said = "the prompt is longer than the model's context" if context else f"status {status}"
    return ModelError(f"the engine refused the turn: {said}", code=code, retry=retry)


class ChunkReader:
    """Chat completion chunks → model events."""

    def __init__(self) -> None:
        self._index: int | None = None
        self._finish = ""
        self._usage = _Usage()

    def feed(self, data: bytes) -> list[ModelEvent]:
        """One event's data. Raises ModelError for what is not a chunk."""
        if data == b"[DONE]":
            return []
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, UnicodeError):
            raise _broken("a chunk that is not valid") from None
        if chunk.error is not None:
            raise _broken("an error in mid-stream")
        if chunk.usage is not None:
            self._usage = chunk.usage
        events: list[ModelEvent] = []
        for choice in chunk.choices:
            if choice.delta is not None:
                self._delta(choice.delta, events)
            if choice.finish_reason:
                self._finish = choice.finish_reason
        return events

    def _delta(self, delta: _Delta, events: list[ModelEvent]) -> None:
        if reasoning := delta.reasoning or delta.reasoning_content:
            events.append(ReasoningDelta(reasoning))
        if delta.content:
            events.append(TextDelta(delta.content))
        for call in delta.tool_calls or ():
            function = call.function or _Function()
            if call.index != self._index:
                if self._index is not None and call.index < self._index:
                    raise _broken("the pieces of two calls mixed up")
                self._index = call.index
                events.append(CallStart(function.name or ""))
            if function.arguments:
                events.append(ArgumentsDelta(function.arguments))

    def done(self) -> Done:
        """After the last chunk. Raises ModelError when the stream ended too early."""
        if not self._finish:
            raise _broken("a stream without its end")
        details = self._usage.prompt_tokens_details
        output = self._usage.completion_tokens_details
        return Done(
            finish_reason=self._finish,
            prompt_tokens=self._usage.prompt_tokens,
            cached_tokens=(details and details.cached_tokens) or 0,
            output_tokens=self._usage.completion_tokens,
            reasoning_tokens=(output and output.reasoning_tokens) or 0,
        )


def _broken(what: str) -> ModelError:
    return ModelError(f"the engine sent {what}", code="engine_failed", retry=True)
