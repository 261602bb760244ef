"""A raw stream whose engine died goes on elsewhere: the effects around `continuation`.

    cut ──► eject ──► ways on? ──► another replica, waited for ──► its events, as more of the stream
             │           └─ no ─────────┴── none came, or it refused ──► the error of the cut
             └───────────────────────◄──────────── it is cut as well, up to a few times

The client sees a comment in its stream where that happened (`: warmloop continued on R`), which
SSE clients skip.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from router.http.forward import Upstream
from router.http.http1 import Failed
from router.streams.continuation import DONE, Continuation, NotText, Rest, messages, ways_on
from router.streams.messages_rest import MESSAGE_STOP, MessagesRest
from router.streams.sent import Sent
from router.turn import TurnRequest
from serving.errors import RequestError
from serving.protocol import CHAT, MESSAGES, SseSplitter
from serving.tables.base import Engine, EngineKind

Outcome = Literal["continued", "request", "no_replica", "failed"]
Ask = Callable[[bytes], Awaitable[Any]]
"""A question to the engine's tokenizer; None where it has no answer."""


class Stream(Protocol):
    """The turn whose stream was cut."""

    turn: TurnRequest

    @property
    def continuations(self) -> int:
        """How often it may go on."""

    def cut(self, failure: Failed) -> RequestError:
        """Learn from the failure; returns what the client is told if nothing helps."""

    async def elsewhere(self, how: Continuation, failure: Failed) -> tuple[Upstream, Rest, str]:
        """The first replica that answers with the rest, and its name. Raises RequestError."""

    def noted(self, outcome: Outcome, why: str = "") -> None:
        """Count and log it."""


async def continued(stream: Stream, sent: Sent, failure: Failed) -> AsyncGenerator[bytes, None]:
    """The rest of a stream that was cut. Raises RequestError where there is none."""
    for _ in range(stream.continuations):
        error = stream.cut(failure)
        told = sent.told()
        if told.done:
            return
        how = ways_on(stream.turn.path, stream.turn.body, told)
        if isinstance(how, Continuation) and told.finish:
            if how.lacks_only_its_mark:
                yield MESSAGE_STOP if how.route == MESSAGES else DONE
                return
            how = "only the usage was missing"
        if isinstance(how, str):
            stream.noted("request", how)
            raise type(error)(f"{error.message}; not continued elsewhere: {how}")
        try:
            upstream, rest, replica = await stream.elsewhere(how, failure)
        except RequestError as refused:
            stream.noted("no_replica")
            raise type(error)(
                f"{error.message}; not continued elsewhere: {refused.message}"
            ) from None
        stream.noted("continued")
        yield b": warmloop continued on %b\n\n" % replica.encode()
        try:
            splitter = SseSplitter()
            async for chunk in upstream.chunks():
                for event in splitter.feed(chunk):
                    if out := rest.event(event.data):
                        sent.feed(out)
                        yield out
            if rest.done:
                return
            failure = Failed("cut", "it ended the stream before the answer's end")
        except NotText:
            stream.noted("failed")
            raise type(error)(f"{error.message}; {replica} did not continue it as text") from None
        except Failed as again:
            failure = again
    error = stream.cut(failure)
    stream.noted("failed")
    raise error


async def prepare(
    how: Continuation, engine: Engine, name: str, tokenize: Ask
) -> tuple[bytes, Rest]:
    """The request for the rest, and the reader of the answer. `name`: what the engine calls the
    model."""
    told = how.told
    counted: int | None = None
    if told.text and how.counts:
        ids = await _ids(tokenize, model=name, prompt=told.text, add_special_tokens=False)
        counted = None if ids is None else len(ids)
    sent = how.sent_tokens(counted)
    drop = ""
    if how.path == CHAT and engine.speaks != "sglang" and told.text != told.text.rstrip():
        drop = await _trimmed(how, engine.speaks, name, tokenize)
    rest = MessagesRest if how.route == MESSAGES else Rest
    return how.body(engine.speaks, sent), rest(how, sent, drop=drop)


async def _trimmed(how: Continuation, kind: EngineKind, name: str, tokenize: Ask) -> str:
    """The text's trailing white space, where the model's template takes it away: the model then
    writes it again. The template has the same result for both texts if it does."""
    text = how.told.text
    bare = text.rstrip()
    with_it, without = [
        await _ids(
            tokenize,
            model=name,
            messages=messages(how.asked(kind), each, kind),
            add_generation_prompt=False,
            continue_final_message=True,
        )
        for each in (text, bare)
    ]
    return text[len(bare) :] if with_it is not None and with_it == without else ""


async def _ids(tokenize: Ask, **question: Any) -> list[int] | None:
    answer = await tokenize(msgspec.json.encode(question))
    ids = answer.get("tokens") if isinstance(answer, dict) else None
    return ids if isinstance(ids, list) else None
