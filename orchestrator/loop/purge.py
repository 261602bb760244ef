"""What of a log goes when a response or a conversation is deleted, and what must stay.

    a conversation            everything
    a response at the end     everything of it: nothing comes after it that could need it
    a response before others  what no later prompt is made of (streamed pieces, progress, errors of
                              attempts); the rest stays, not to be found, until those after it are
                              deleted too, or the conversation is

A later turn's prompt begins with what earlier turns said, byte for byte: a response that others
stand on cannot go without changing what they stood on. In a conversation that a client made for
itself (POST /v1/conversations) the items are the conversation's, and go with it. A response that
brought a person's decision stays like one that others stand on: without it, the call that was
decided would be open again, and could run twice.

A call to another agent has a conversation of its own, which no later prompt is made of either: it
goes with the response that made the call, whole, once the call is answered or gone.

What goes leaves a tombstone in its place, made of the event's numbers alone. So a type of event
that does not exist yet leaks nothing: what is not a number is not kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.journal.base import Recorded
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ConversationStarted,
    ModelFailed,
    OutputDelta,
    Purged,
    ResponseAccepted,
    ToolFailed,
    ToolIntent,
    ToolProgress,
    ToolResult,
)
from orchestrator.loop.machine import fold
from orchestrator.loop.state import State

PASSING = (OutputDelta, ToolProgress, ModelFailed, ToolFailed)
"""Events that no prompt of a later turn is made of."""


@dataclass(frozen=True, slots=True)
class Tombstones:
    """What replaces events of a log, and the responses that are not to be found any more."""

    events: Sequence[Recorded]
    responses: Sequence[str]
    keys: Sequence[str] = ()
    """Of calls: what they left in conversations of their own goes, too."""
    whole: bool = False
    """Nothing of the conversation is left."""


@dataclass(slots=True)
class _Segment:
    """A response's part of the log; the opening of a conversation has no response."""

    response_id: str
    places: list[int]
    stays: bool = False


def whole(log: Sequence[Recorded]) -> Tombstones:
    """Everything goes."""
    ids = [e.event.response_id for e in log if isinstance(e.event, ResponseAccepted)]
    return Tombstones(_entomb(log, range(len(log))), ids, _keys(log, range(len(log))), whole=True)


def without(log: Sequence[Recorded], gone: Collection[str]) -> Tombstones:
    """These responses go, those that went before among them; none of them is in progress."""
    segments = _segments(log)
    opening, responses = segments[0], segments[1:]
    living = [each for each in responses if each.response_id not in gone]
    if not (living or opening.stays or any(each.stays for each in responses)):
        return whole(log)
    places: list[int] = []
    calls: list[int] = []
    last = not opening.stays  # is it the end of the log that we look at?
    for segment in reversed(responses):
        last = last and segment.response_id in gone and not segment.stays
        if last:
            places += segment.places
        elif segment.response_id in gone:
            places += [at for at in segment.places if isinstance(log[at].event, PASSING)]
            calls += segment.places
    # A call that stays, and has no result yet, goes on with the conversation that it has.
    keys = [*_keys(log, places), *_keys(log, calls, answered=True)]
    return Tombstones(_entomb(log, sorted(places)), sorted(gone), keys)


def _keys(log: Sequence[Recorded], places: Iterable[int], *, answered: bool = False) -> list[str]:
    """Of the calls that began there; `answered`: only of those that have a result."""
    began = [e for e in (log[at].event for at in places) if isinstance(e, ToolIntent)]
    if answered:
        done = {e.event.call_id for e in log if isinstance(e.event, ToolResult)}
        began = [each for each in began if each.call_id in done]
    return list(dict.fromkeys(each.key for each in began))


def _segments(log: Sequence[Recorded]) -> list[_Segment]:
    segments = [_Segment("", [])]
    for place, recorded in enumerate(log):
        event = recorded.event
        if isinstance(event, ResponseAccepted):
            segments.append(_Segment(event.response_id, []))
        segment = segments[-1]
        segment.places.append(place)
        if isinstance(event, ApprovalDecided):
            segment.stays = True
        elif isinstance(event, ConversationStarted) and not event.agent:
            segment.stays = True  # a client's own conversation
    return segments


def _entomb(log: Sequence[Recorded], places: Collection[int]) -> list[Recorded]:
    """Tombstones for these places of the log, except where there are some."""
    wanted, tombs, state = set(places), [], State()
    for place, recorded in enumerate(log):
        fold(state, recorded.event)
        if place in wanted and not isinstance(recorded.event, Purged):
            tombs.append(Recorded(recorded.seq, tombstone(recorded.event, state.step)))
    return tombs


def tombstone(event: AnyEvent, step: int) -> Purged:
    """What remains of an event; `step`: the newest step's number after it."""
    of = type(event).__struct_config__.tag
    values = ((name, getattr(event, name)) for name in event.__struct_fields__)
    facts = {
        name: value
        for name, value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and value
    }
    return Purged(str(of), step, facts)
