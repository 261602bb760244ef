"""Following one response: from the log to its end, and as server-sent events.

    event: response.output_text.delta
    id: 7
    data: {"type": "response.output_text.delta", "sequence_number": 7, ...}

The log is the buffer between the run and its readers: a reader that is slow, or gone, holds up
nobody, and a reader that comes back with `starting_after` or Last-Event-ID (both are the last
number it has seen) gets the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from orchestrator.api.projection import Projection, StreamEvent
from orchestrator.journal.base import Journal, JournalFull, ResponseRef
from orchestrator.loop.events import Purged, ResponseFinished
from serving.errors import NotFound

KEEP_ALIVE_S = 15.0
"""After so much silence a comment is sent, so that no proxy takes the stream for dead."""
ENDED = ResponseFinished.__struct_config__.tag
KEEP_ALIVE = b": keep-alive\n\n"

_encoder = msgspec.json.Encoder()


async def follow(
    journal: Journal, ref: ResponseRef, projection: Projection
) -> AsyncIterator[list[StreamEvent]]:
    """The streaming events as the log gives rise to them, to the response's end.

    An empty list says that nothing has happened for KEEP_ALIVE_S. Raises NotFound if the response
    is deleted before its end was read.
    """
    after = ref.first_seq - 1
    while True:
        for recorded in await journal.read(ref.conversation, after):
            after = recorded.seq
            if emitted := projection.feed(recorded.event):
                yield emitted
            if projection.finished:
                return
            if isinstance(recorded.event, Purged) and recorded.event.of == ENDED:
                raise NotFound(f"response {ref.response_id!r} was deleted", param="response_id")
        if not await journal.wait(ref.conversation, after, KEEP_ALIVE_S):
            yield []


async def now(journal: Journal, ref: ResponseRef) -> Projection:
    """The response as its log stands."""
    projection = Projection(ref.response_id, ref.conversation)
    for recorded in await journal.read(ref.conversation, ref.first_seq - 1):
        projection.feed(recorded.event)
        if projection.finished:
            break
    return projection


async def at_end(journal: Journal, ref: ResponseRef) -> dict[str, Any]:
    """The Response object when it is finished."""
    projection = Projection(ref.response_id, ref.conversation)
    async for _ in follow(journal, ref, projection):
        pass
    return projection.response()


async def sse(journal: Journal, ref: ResponseRef, starting_after: int) -> AsyncIterator[bytes]:
    """The events with a `sequence_number` above `starting_after` (-1: all)."""
    projection = Projection(ref.response_id, ref.conversation)
    last = -1
    try:
        async for emitted in follow(journal, ref, projection):
            fresh = [event for event in emitted if event["sequence_number"] > starting_after]
            last = emitted[-1]["sequence_number"] if emitted else last
            if fresh:
                yield b"".join(map(frame, fresh))
            elif not emitted:
                yield KEEP_ALIVE
    except JournalFull as error:
        # The run may well go on: the client can come back to it.
        yield frame(_error(last + 1, "journal_unavailable", str(error)))
    except NotFound as gone:
        yield frame(_error(last + 1, gone.code or "not_found", gone.message))


def _error(number: int, code: str, message: str) -> StreamEvent:
    return {
        "type": "error",
        "sequence_number": number,
        "code": code,
        "message": message,
        "param": None,
    }


def frame(event: StreamEvent) -> bytes:
    """One server-sent event."""
    kind, number = event["type"], event["sequence_number"]
    return b"event: %s\nid: %d\ndata: %s\n\n" % (kind.encode(), number, _encoder.encode(event))
