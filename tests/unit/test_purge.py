"""What of a log goes, what stays, and that what stays still folds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from orchestrator.api.response_stream import at_end, sse
from orchestrator.journal.base import Recorded
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop import purge
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    Call,
    ConversationStarted,
    HistoryImported,
    ModelIntent,
    ModelResult,
    OutputDelta,
    Purged,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
    encode,
)
from orchestrator.loop.machine import fold_all
from serving.errors import NotFound

SECRET = "swordfish"


def response(number: int) -> list[AnyEvent]:
    """One turn with a tool, one with the answer."""
    first, second = 2 * number - 1, 2 * number
    call = Call(f"call_{first}", "look", f'{{"for": "{SECRET}"}}')
    return [
        ResponseAccepted(f"r{number}", 1.0, [{"role": "user", "content": f"{SECRET} {number}"}]),
        ModelIntent(first, 1, 1.0),
        OutputDelta(first, 1, "text", SECRET),
        ModelResult(first, 1, 2.0, SECRET, [call], prompt_tokens=9, cost_usd=0.5),
        ToolIntent(first, call.call_id, f"c:{first}:{call.call_id}", 2.0),
        ToolResult(first, call.call_id, 3.0, SECRET),
        ModelIntent(second, 1, 3.0),
        ModelResult(second, 1, 4.0, f"{SECRET}!"),
        ResponseFinished(f"r{number}", 4.0, "completed"),
    ]


def recorded(*events: AnyEvent) -> list[Recorded]:
    return [Recorded(seq, event) for seq, event in enumerate(events, 1)]


def conversation(agent: str = "desk@1", responses: int = 2) -> list[Recorded]:
    opening = ConversationStarted(agent, 1.0, metadata={"who": SECRET})
    return recorded(opening, *(e for n in range(1, responses + 1) for e in response(n)))


def after(log: Sequence[Recorded], found: purge.Tombstones) -> list[Recorded]:
    tombs = {each.seq: each for each in found.events}
    return [tombs.get(each.seq, each) for each in log]


def readable(log: Sequence[Recorded]) -> bool:
    return any(SECRET.encode() in encode(each.event) for each in log)


def test_nothing_readable_is_left_of_a_conversation_and_every_place_is_kept() -> None:
    log = conversation()
    found = purge.whole(log)
    left = after(log, found)
    assert [each.seq for each in left] == list(range(1, len(log) + 1))
    assert all(isinstance(each.event, Purged) for each in left)
    assert not readable(left)
    assert found.responses == ["r1", "r2"]
    state = fold_all(left)
    assert state.purged
    assert state.history == []
    assert state.run is None


def test_a_tombstone_keeps_the_numbers_so_that_costs_still_add_up() -> None:
    (tomb,) = (
        each.event
        for each in purge.whole(conversation(responses=1)).events
        if isinstance(each.event, Purged) and each.event.facts.get("cost_usd")
    )
    assert tomb.of == "model_result"
    assert tomb.facts["prompt_tokens"] == 9
    assert tomb.facts["cost_usd"] == 0.5


def test_the_last_response_goes_whole_and_the_conversation_is_as_it_was_before_it() -> None:
    log = conversation()
    left = after(log, purge.without(log, {"r2"}))
    before = fold_all(conversation(responses=1))
    state = fold_all(left)
    assert state.history == before.history
    assert state.last_response_id == "r1"
    assert not readable(left[10:])


def test_keys_of_calls_never_come_twice_after_a_purge() -> None:
    log = conversation()
    assert fold_all(after(log, purge.without(log, {"r2"}))).step == fold_all(log).step == 4
    imported = HistoryImported("c", "r", [{"type": "function_call"}, {"type": "function_call"}])
    forked = recorded(ConversationStarted("desk@1", 1.0), imported)
    assert fold_all(after(forked, purge.whole(forked))).step == 2


def test_what_later_turns_stand_on_stays_and_their_prompt_is_the_same() -> None:
    log = conversation()
    found = purge.without(log, {"r1"})
    left = after(log, found)
    assert [type(log[each.seq - 1].event) for each in found.events] == [OutputDelta]
    assert fold_all(left).history == fold_all(log).history
    assert found.responses == ["r1"]


def test_when_those_that_stood_on_it_are_deleted_too_all_of_it_goes() -> None:
    log = conversation(responses=3)
    left = after(log, purge.without(log, {"r2"}))
    left = after(left, purge.without(left, {"r2", "r3"}))
    assert fold_all(left).history == fold_all(conversation(responses=1)).history
    gone = purge.without(left, {"r1", "r2", "r3"})
    assert gone.whole
    assert not readable(after(left, gone))


def test_the_items_of_a_conversation_that_a_client_made_are_the_conversations() -> None:
    log = conversation(agent="", responses=1)
    found = purge.without(log, {"r1"})
    assert not found.whole
    assert fold_all(after(log, found)).history == fold_all(log).history


def test_a_persons_decision_outlives_its_response_so_that_no_call_runs_twice() -> None:
    log = recorded(
        ConversationStarted("desk@1", 1.0),
        *response(1),
        ApprovalDecided("a", "call_1", 5.0, approve=True),
        *response(2),
    )
    found = purge.without(log, {"r1", "r2"})
    assert not any(log[each.seq - 1].event.__class__ is ApprovalDecided for each in found.events)


def test_purging_twice_changes_nothing() -> None:
    log = conversation()
    left = after(log, purge.whole(log))
    assert purge.whole(left).events == []


async def test_a_reader_of_a_response_that_is_deleted_under_it_is_told_so() -> None:
    journal = MemoryJournal()
    lease = await journal.lease("c", "w", 10)
    assert lease is not None
    log = conversation(responses=1)
    await journal.append(lease, [each.event for each in log])
    ref = await journal.find_response("r1")
    assert ref is not None
    found = purge.whole(log)
    await journal.purge(lease, found.events, found.responses, whole=True)
    async with asyncio.timeout(5):
        with pytest.raises(NotFound):
            await at_end(journal, ref)
        frames = [each async for each in sse(journal, ref, -1)]
    assert len(frames) == 1
    assert b'"code":"not_found"' in frames[0]
