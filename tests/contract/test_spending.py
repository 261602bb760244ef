"""What tenants have spent, as every journal counts it: once, with the events that spend it."""

from __future__ import annotations

import asyncio

from orchestrator.clock import FakeClock
from orchestrator.journal.base import Account, Fenced, Journal, Lease, Recorded, Spent
from orchestrator.loop.events import (
    AnyEvent,
    Compacted,
    ModelFailed,
    ModelIntent,
    ModelResult,
    OutputDelta,
    Purged,
    ToolIntent,
    ToolResult,
    Warmed,
)
from serving.spending import Spending

ACME = Account("acme", 1_000.0, 5_000.0, "w1")
LATER = Account("acme", 2_000.0, 6_000.0, "w1")
ELSEWHERE = Account("acme", 1_000.0, 5_000.0, "w2")
BOLT = Account("bolt", 1_000.0, 9_000.0, "w1")


def turn(step: int = 1, cost_usd: float = 0.5) -> ModelResult:
    return ModelResult(
        step, 1, 5.0, prompt_tokens=90, output_tokens=10, seconds=2.0, cost_usd=cost_usd
    )


async def leased(journal: Journal, conversation: str = "c", owner: str = "a") -> Lease:
    lease = await journal.lease(conversation, owner, 10)
    assert lease is not None
    return lease


async def spent(journal: Journal, after: float = 0.0, but_by: str = "me") -> list[Spent]:
    found = await journal.spent(after, but_by=but_by)
    return sorted(found, key=lambda each: (each.tenant, each.ends_at))


async def test_events_are_counted_in_the_account_that_they_are_appended_with(
    journal: Journal,
) -> None:
    lease = await leased(journal)
    events: list[AnyEvent] = [
        turn(),
        ToolIntent(1, "call_1", "k", 5.0),
        ToolIntent(1, "call_1", "k", 6.0, attempt=2),
        ToolResult(1, "call_1", 7.0, "out", cost_usd=0.25),
        ToolResult(1, "call_2", 7.0, "an agent's", cost_usd=0.75, agents_usd=0.75),
        Compacted(2, 8.0, 1, "summary", "priced", summary_tokens=7, cost_usd=1.0),
        ModelFailed(2, 1, 9.0, "no", wasted_tokens=99),
        Warmed(2, 9.0, prompt_tokens=90, output_tokens=1, seconds=0.5, cost_usd=0.125),
    ]
    await journal.append(lease, events, account=ACME)
    await journal.append(lease, [turn(2)], account=LATER)
    assert await spent(journal) == [
        Spent("acme", 1_000.0, Spending(1, 1, 198, 2.5, 1.875)),
        Spent("acme", 2_000.0, Spending(1, 0, 100, 2.0, 0.5)),
    ]
    assert [each.seq for each in await journal.read("c")] == list(range(1, 10))


async def test_without_an_account_nothing_is_counted(journal: Journal) -> None:
    lease = await leased(journal)
    await journal.append(lease, [turn()])
    await journal.append(lease, [ModelIntent(2, 1, 5.0)], account=ACME)
    await journal.append(lease, [OutputDelta(2, 1, "text", "a")], durable=False, account=ACME)
    assert await spent(journal) == []


async def test_many_appends_at_once_are_each_counted_once(journal: Journal) -> None:
    leases = [await leased(journal, f"c{number}") for number in range(8)]
    await asyncio.gather(
        *(
            journal.append(lease, [turn(step)], account=(ACME, BOLT)[step % 2])
            for step in range(1, 11)
            for lease in leases
        )
    )
    sums = Spending(40, 0, 4_000, 80.0, 20.0)
    assert await spent(journal) == [Spent("acme", 1_000.0, sums), Spent("bolt", 1_000.0, sums)]


async def test_what_several_processes_spend_is_added_and_each_is_told_of_the_others(
    journal: Journal,
) -> None:
    one, other = await leased(journal, "c1"), await leased(journal, "c2")
    await journal.append(one, [turn(cost_usd=1.0)], account=ACME)
    await journal.append(other, [turn(cost_usd=2.0)], account=ELSEWHERE)
    for but_by, cost_usd in (("", 3.0), ("w1", 2.0), ("w2", 1.0)):
        (found,) = await spent(journal, but_by=but_by)
        assert found.spending.cost_usd == cost_usd


async def test_only_stretches_that_end_later_are_told(journal: Journal) -> None:
    await journal.spend([(ACME, Spending(1)), (LATER, Spending(2))])
    assert [each.spending.turns for each in await spent(journal, after=999.0)] == [1, 2]
    assert [each.spending.turns for each in await spent(journal, after=1_000.0)] == [2]


async def test_what_was_spent_without_an_event_is_added(journal: Journal) -> None:
    lease = await leased(journal)
    await journal.append(lease, [turn()], account=ACME)
    await journal.spend([(ACME, Spending(1, 0, 50, 1.0, 0.25)), (ACME, Spending(tokens=1))])
    await journal.spend([])
    assert await spent(journal) == [Spent("acme", 1_000.0, Spending(2, 0, 151, 3.0, 0.75))]


async def test_a_refused_append_spends_nothing(journal: Journal, clock: FakeClock) -> None:
    zombie = await leased(journal, owner="a")
    clock.advance(10)
    heir = await leased(journal, owner="b")
    results = await asyncio.gather(
        journal.append(heir, [turn()], account=ACME),
        journal.append(zombie, [turn()], account=ACME),
        return_exceptions=True,
    )
    assert isinstance(results[1], Fenced)
    (found,) = await spent(journal)
    assert found.spending.turns == 1


async def test_what_is_purged_stays_spent(journal: Journal) -> None:
    lease = await leased(journal)
    await journal.append(lease, [turn()], account=ACME)
    tombstones = [Recorded(1, Purged("model_result"))]
    await journal.purge(lease, tombstones, [], whole=True)
    (found,) = await spent(journal)
    assert found.spending.turns == 1


async def test_what_has_expired_is_dropped_and_nothing_else(journal: Journal) -> None:
    await journal.spend([(ACME, Spending(1)), (LATER, Spending(2)), (BOLT, Spending(3))])
    await journal.forget_spent(5_000.0)
    assert [each.spending.turns for each in await spent(journal)] == [2, 3]
