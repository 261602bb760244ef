"""What every journal promises, held against each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from orchestrator.clock import FakeClock
from orchestrator.journal.base import AlreadyAccepted, Fenced, Journal, Lease, Recorded
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ApprovalRequested,
    ConversationStarted,
    HistoryImported,
    ModelIntent,
    OutputDelta,
    Purged,
    ResponseAccepted,
    ResponseFinished,
)


def intent(step: int) -> ModelIntent:
    return ModelIntent(step, 1, 5.0)


def accepted(response_id: str = "resp_1", key: str = "") -> ResponseAccepted:
    item = {"type": "message", "role": "user", "content": "hé"}
    return ResponseAccepted(response_id, 1.0, [item], {"model": "desk"}, idempotency_key=key)


async def leased(journal: Journal, conversation: str = "c", owner: str = "a") -> Lease:
    lease = await journal.lease(conversation, owner, 10)
    assert lease is not None
    return lease


async def events(journal: Journal, conversation: str = "c", after: int = 0) -> list[AnyEvent]:
    return [each.event for each in await journal.read(conversation, after)]


async def test_what_is_appended_is_read_in_order_and_numbered_from_one(journal: Journal) -> None:
    lease = await leased(journal)
    written: list[AnyEvent] = [ConversationStarted("desk@1", 1.0), accepted(), intent(1)]
    assert await journal.append(lease, written[:2]) == 2
    assert await journal.append(lease, written[2:]) == 3
    recorded = await journal.read("c")
    assert [each.seq for each in recorded] == [1, 2, 3]
    assert [each.event for each in recorded] == written
    assert await events(journal, after=2) == written[2:]
    assert await events(journal, after=3) == []


async def test_an_unknown_conversation_reads_as_empty(journal: Journal) -> None:
    assert await journal.read("nobody") == []


async def test_many_appends_at_once_are_all_stored_without_gaps(journal: Journal) -> None:
    names = [f"c{number}" for number in range(20)]
    leases = [await leased(journal, name) for name in names]
    await asyncio.gather(
        *(journal.append(lease, [intent(step)]) for step in range(1, 30) for lease in leases)
    )
    for name in names:
        recorded = await journal.read(name)
        assert [each.seq for each in recorded] == list(range(1, 30))
        assert [each.event.step for each in recorded] == list(range(1, 30))  # type: ignore[union-attr]


async def test_soft_and_durable_appends_keep_their_order(journal: Journal) -> None:
    lease = await leased(journal)
    soft = journal.append(lease, [OutputDelta(1, 1, "text", "a")], durable=False)
    hard = journal.append(lease, [intent(2)])
    await asyncio.gather(soft, hard)
    assert await events(journal) == [OutputDelta(1, 1, "text", "a"), intent(2)]


async def test_an_append_of_nothing_stores_nothing(journal: Journal) -> None:
    lease = await leased(journal)
    await journal.append(lease, [intent(1)])
    assert await journal.append(lease, []) == 1


async def test_a_lease_excludes_other_owners_until_it_runs_out(
    journal: Journal, clock: FakeClock
) -> None:
    first = await leased(journal, owner="a")
    assert await journal.lease("c", "b", 10) is None
    clock.advance(10)
    second = await leased(journal, owner="b")
    assert second.token > first.token


async def test_a_renewal_keeps_its_token(journal: Journal, clock: FakeClock) -> None:
    first = await leased(journal)
    clock.advance(5)
    renewed = await leased(journal)
    assert renewed.token == first.token
    assert renewed.expires_at == clock.now() + 10


async def test_a_released_lease_is_free_at_once_and_the_next_has_a_higher_token(
    journal: Journal,
) -> None:
    first = await leased(journal, owner="a")
    await journal.release(first)
    second = await leased(journal, owner="b")
    assert second.token > first.token
    await journal.release(first)  # stale: must not free the other's
    assert await journal.lease("c", "a", 10) is None


async def test_an_append_with_an_older_token_is_refused_whatever_the_clock_says(
    journal: Journal, clock: FakeClock
) -> None:
    zombie = await leased(journal, owner="a")
    clock.advance(10)
    heir = await leased(journal, owner="b")
    with pytest.raises(Fenced):
        await journal.append(zombie, [intent(1)])
    clock.advance(100)
    with pytest.raises(Fenced):
        await journal.append(zombie, [intent(1)], durable=False)
    await journal.append(heir, [intent(2)])
    assert await events(journal) == [intent(2)]


async def test_a_lease_that_ran_out_still_writes_while_nobody_else_took_over(
    journal: Journal, clock: FakeClock
) -> None:
    lease = await leased(journal)
    clock.advance(60)
    assert await journal.append(lease, [intent(1)]) == 1


async def test_a_fenced_append_does_not_disturb_the_others_of_its_batch(
    journal: Journal, clock: FakeClock
) -> None:
    zombie = await leased(journal, "c1", "a")
    clock.advance(10)
    await leased(journal, "c1", "b")
    fine = await leased(journal, "c2", "a")
    results = await asyncio.gather(
        journal.append(fine, [intent(1)]),
        journal.append(zombie, [intent(1)]),
        journal.append(fine, [intent(2)]),
        return_exceptions=True,
    )
    assert results[0] == 1
    assert isinstance(results[1], Fenced)
    assert results[2] == 2


async def test_a_response_is_found_by_its_id(journal: Journal) -> None:
    lease = await leased(journal)
    await journal.append(lease, [ConversationStarted("desk@1", 1.0), accepted()])
    ref = await journal.find_response("resp_1")
    assert ref is not None
    assert (ref.conversation, ref.first_seq) == ("c", 2)
    assert await journal.find_response("resp_2") is None


async def test_an_idempotency_key_is_accepted_once(journal: Journal) -> None:
    first, second = await leased(journal, "c1"), await leased(journal, "c2")
    await journal.append(first, [accepted("resp_1", key="k")])
    with pytest.raises(AlreadyAccepted) as caught:
        await journal.append(second, [ConversationStarted("d", 1.0), accepted("resp_2", key="k")])
    assert caught.value.ref.response_id == "resp_1"
    assert await journal.read("c2") == []
    found = await journal.find_idempotent("k")
    assert found == caught.value.ref
    assert await journal.find_idempotent("other") is None


async def test_two_requests_with_one_key_at_once_make_one_response(journal: Journal) -> None:
    leases = [await leased(journal, f"c{number}") for number in range(8)]
    results = await asyncio.gather(
        *(
            journal.append(lease, [accepted(f"resp_{number}", key="k")])
            for number, lease in enumerate(leases)
        ),
        return_exceptions=True,
    )
    assert [result for result in results if result == 1] == [1]
    assert sum(isinstance(result, AlreadyAccepted) for result in results) == 7


async def test_unfinished_lists_what_has_no_end(journal: Journal) -> None:
    one, two = await leased(journal, "c1"), await leased(journal, "c2")
    await journal.append(one, [accepted("resp_1")])
    await journal.append(two, [accepted("resp_2")])
    await journal.append(one, [ResponseFinished("resp_1", 2.0, "completed")])
    assert [ref.response_id for ref in await journal.due(float("inf"), 9)] == ["resp_2"]


async def due(journal: Journal, now: float, limit: int = 9) -> list[str]:
    return [ref.response_id for ref in await journal.due(now, limit)]


async def test_what_is_unfinished_is_due_when_nobody_holds_it(
    journal: Journal, clock: FakeClock
) -> None:
    for number in range(3):
        lease = await leased(journal, f"c{number}")
        await journal.append(lease, [accepted(f"resp_{number}")])
        if number:
            await journal.release(lease)
    now = clock.now()
    assert await due(journal, now) == ["resp_1", "resp_2"]
    assert await due(journal, now, limit=1) == ["resp_1"]
    assert await due(journal, now + 10) == ["resp_0", "resp_1", "resp_2"]  # its lease ran out


async def test_a_run_that_only_waits_is_not_due_before_its_time(
    journal: Journal, clock: FakeClock
) -> None:
    now = clock.now()
    assert await journal.next_wake(now) is None
    for name, wake_at in (("c1", now + 60), ("c2", now + 30)):
        lease = await leased(journal, name)
        await journal.append(lease, [accepted(f"resp_{name}")])
        await journal.release(lease, wake_at=wake_at)
    assert await due(journal, now + 29) == []
    assert await journal.next_wake(now) == now + 30
    assert await due(journal, now + 30) == ["resp_c2"]
    assert await due(journal, now + 60) == ["resp_c2", "resp_c1"]


async def test_whoever_takes_a_waiting_run_earlier_and_dies_leaves_it_due(
    journal: Journal, clock: FakeClock
) -> None:
    lease = await leased(journal)
    await journal.append(lease, [accepted()])
    await journal.release(lease, wake_at=clock.now() + 1000)
    await leased(journal, owner="b")
    clock.advance(11)
    assert await due(journal, clock.now()) == ["resp_1"]


async def test_who_asks_a_person_is_listed_until_all_of_it_is_decided(journal: Journal) -> None:
    def asked(number: int) -> ApprovalRequested:
        return ApprovalRequested(1, f"call_1_{number}", f"mcpr_{number}", 2.0)

    decided = ApprovalDecided("mcpr_0", "call_1_0", 3.0, approve=True)
    leases = {name: await leased(journal, name) for name in ("c1", "c2", "c3", "c4")}
    await journal.append(leases["c1"], [accepted("r1"), asked(0), asked(1)])
    await journal.append(leases["c2"], [accepted("r2"), asked(0)])
    await journal.append(leases["c3"], [accepted("r3"), intent(1)])
    await journal.append(leases["c4"], [accepted("r4"), asked(0)])
    assert await journal.asking("", 9) == ["c1", "c2", "c4"]
    assert await journal.asking("", 2) == ["c1", "c2"]
    assert await journal.asking("c2", 9) == ["c4"]
    await journal.append(leases["c1"], [decided])
    await journal.append(leases["c2"], [decided])
    assert await journal.asking("", 9) == ["c1", "c4"]
    await journal.purge(leases["c4"], [tombstone(1), tombstone(2)], ["r4"], whole=True)
    assert await journal.asking("", 9) == ["c1"]


def tombstone(seq: int, of: str = "response_accepted") -> Recorded:
    return Recorded(seq, Purged(of))


async def test_a_purge_leaves_tombstones_in_their_places_and_nothing_to_be_found(
    journal: Journal,
) -> None:
    lease = await leased(journal)
    await journal.append(lease, [ConversationStarted("desk@1", 1.0), accepted(key="k"), intent(1)])
    await journal.append(lease, [ResponseFinished("resp_1", 2.0, "completed")])
    await journal.purge(lease, [tombstone(2)], ["resp_1"])
    recorded = await journal.read("c")
    assert [each.seq for each in recorded] == [1, 2, 3, 4]
    assert recorded[1] == tombstone(2)
    assert recorded[2].event == intent(1)
    assert await journal.find_response("resp_1") is None
    assert await journal.find_idempotent("k") is None
    assert await journal.append(lease, [intent(2)]) == 5


async def test_what_was_purged_is_never_due(journal: Journal, clock: FakeClock) -> None:
    lease = await leased(journal)
    await journal.append(lease, [accepted()])
    await journal.purge(lease, [tombstone(1)], ["resp_1"], whole=True)
    await journal.release(lease, wake_at=clock.now() + 1)
    assert await journal.next_wake(clock.now()) is None
    assert await journal.due(clock.now() + 1, 9) == []


async def test_a_purge_needs_the_lease(journal: Journal, clock: FakeClock) -> None:
    zombie = await leased(journal, owner="a")
    await journal.append(zombie, [accepted()])
    clock.advance(10)
    await leased(journal, owner="b")
    with pytest.raises(Fenced):
        await journal.purge(zombie, [tombstone(1)], ["resp_1"])
    assert await events(journal) == [accepted()]


async def test_what_may_be_purged_has_ended_long_enough_ago(
    journal: Journal, clock: FakeClock
) -> None:
    for number, store in enumerate((True, False, False)):
        lease = await leased(journal, f"c{number}")
        request = {"store": store}
        asked = ResponseAccepted(f"resp_{number}", 1.0, [], request)
        await journal.append(lease, [asked])
        if number < 2:
            await journal.append(lease, [ResponseFinished(f"resp_{number}", 50.0, "completed")])
        await journal.release(lease)
    now = clock.now()
    before = await journal.purgeable(ended_before=49, idle_before=49, limit=9)
    assert (before.responses, before.conversations) == ([], [])
    after = await journal.purgeable(ended_before=50, idle_before=now, limit=9)
    assert [ref.response_id for ref in after.responses] == ["resp_1"]
    assert sorted(after.conversations) == ["c0", "c1"]
    for name in ("c0", "c1"):
        lease = await leased(journal, name)
        await journal.purge(lease, [tombstone(1)], ["resp_" + name[1]], whole=True)
    gone = await journal.purgeable(ended_before=now, idle_before=now, limit=9)
    assert (gone.responses, gone.conversations) == ([], [])
    assert await journal.scrub() is True


async def test_whatever_is_written_to_a_conversation_is_news_of_it(
    journal: Journal, clock: FakeClock
) -> None:
    lease = await leased(journal)
    await journal.append(lease, [ConversationStarted("", clock.now())])
    await journal.release(lease)
    clock.advance(100)
    lease = await leased(journal)
    added = HistoryImported("", "", [{"role": "user", "content": "and this"}])
    await journal.append(lease, [added])
    await journal.release(lease)
    clock.advance(100)
    now = clock.now()
    young = await journal.purgeable(ended_before=0, idle_before=now - 101, limit=9)
    assert young.conversations == []
    old = await journal.purgeable(ended_before=0, idle_before=now - 99, limit=9)
    assert old.conversations == ["c"]


async def _soon(condition: Callable[[], bool], act: Callable[[], Awaitable[object]]) -> None:
    while not condition():
        await act()


async def test_wait_wakes_with_news_and_says_when_there_are_some_already(
    journal: Journal, clock: FakeClock
) -> None:
    lease = await leased(journal)
    waiting = asyncio.create_task(journal.wait("c", 0, 10))
    await _soon(lambda: clock.waiting > 0, lambda: asyncio.sleep(0))
    await journal.append(lease, [intent(1)], durable=False)
    assert await waiting is True
    assert await journal.wait("c", 0, 10) is True


async def test_wait_says_false_when_time_is_up(journal: Journal, clock: FakeClock) -> None:
    lease = await leased(journal)
    await journal.append(lease, [intent(1)])
    waiting = asyncio.create_task(journal.wait("c", 1, 10))
    await _soon(lambda: clock.waiting > 0, lambda: asyncio.sleep(0))
    clock.advance(10)
    assert await waiting is False


async def test_a_wait_that_is_given_up_leaves_nothing_behind(
    journal: Journal, clock: FakeClock
) -> None:
    waiting = asyncio.create_task(journal.wait("c", 0, 10))
    await _soon(lambda: clock.waiting > 0, lambda: asyncio.sleep(0))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert clock.waiting == 0


async def test_a_name_that_no_store_could_hold_is_not_there(journal: Journal) -> None:
    await journal.append(await leased(journal), [accepted()])
    for name in ("a\0b", "\0", "resp_1\0"):
        assert await journal.read(name) == []
        assert await journal.find_response(name) is None
        assert await journal.find_idempotent(name) is None
        assert await journal.asking(name, 10) == []


async def test_one_question_tells_which_of_many_conversations_are_there(journal: Journal) -> None:
    for name in ("a", "b", "gone"):
        await journal.append(await leased(journal, name), [accepted(f"resp_{name}")])
    gone = await leased(journal, "gone")
    await journal.purge(gone, [], ["resp_gone"], whole=True)
    asked = ["b", "gone", *(f"never-{number}" for number in range(2000)), "a"]
    assert sorted(await journal.present(asked)) == ["a", "b"]
    assert await journal.present([]) == []
