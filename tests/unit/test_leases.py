"""Leases: renewed in time, and never all in one moment."""

from __future__ import annotations

import asyncio
from collections import Counter

from orchestrator.clock import FakeClock
from orchestrator.journal.base import Lease
from orchestrator.journal.memory import MemoryJournal
from orchestrator.worker.claims import Claims
from orchestrator.worker.leases import Leases


class Counting(MemoryJournal):
    """Knows which leases were asked for since it was last looked at."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.asked: list[str] = []

    async def lease(self, conversation: str, owner: str, ttl_s: float) -> Lease | None:
        self.asked.append(conversation)
        return await super().lease(conversation, owner, ttl_s)


async def _turns() -> None:
    """Let all tasks come as far as they can without time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_leases_are_renewed_in_parts_and_each_within_a_third_of_its_time() -> None:
    clock = FakeClock()
    journal, claims = Counting(clock), Claims()
    leases = Leases(journal, clock, "w1", lease_s=9.0)
    for number in range(100):
        assert await leases.take(claims.take(f"c{number}")) is not None
    keeping = asyncio.create_task(leases.keep(claims))
    await _turns()
    journal.asked.clear()
    renewed: Counter[str] = Counter()
    for _ in range(10):
        clock.advance(0.3)
        await _turns()
        assert len(journal.asked) <= 11
        renewed.update(journal.asked)
        journal.asked.clear()
    assert set(renewed) == {f"c{number}" for number in range(100)}
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_when_a_slow_journal_leaves_no_time_for_parts_all_are_renewed_at_once() -> None:
    clock = FakeClock()
    journal, claims = Counting(clock), Claims()
    leases = Leases(journal, clock, "w1", lease_s=9.0)
    for number in range(100):
        await leases.take(claims.take(f"c{number}"))
    keeping = asyncio.create_task(leases.keep(claims))
    await _turns()
    journal.asked.clear()
    clock.advance(3.0)
    await _turns()
    assert len(set(journal.asked)) == 100
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def _held_by_another(journal: MemoryJournal, conversation: str, clock: FakeClock) -> None:
    """While this process is frozen another one takes the conversation, and lets go of it."""
    clock.advance(20.0)
    lease = await journal.lease(conversation, "w2", 9.0)
    assert lease is not None
    await journal.release(lease)


async def _keep(leases: Leases, claims: Claims, clock: FakeClock, times: int) -> None:
    keeping = asyncio.create_task(leases.keep(claims))
    await _turns()
    for _ in range(times):
        clock.advance(3.0)
        await _turns()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_process_that_thaws_does_not_take_what_another_one_had_meanwhile() -> None:
    clock = FakeClock()
    journal, claims = MemoryJournal(clock=clock), Claims()
    leases = Leases(journal, clock, "w1", lease_s=9.0)
    claim = claims.take("c")
    await leases.take(claim)
    await _held_by_another(journal, "c", clock)
    await _keep(leases, claims, clock, 3)
    assert await journal.lease("c", "w3", 9.0) is not None
    assert claim.lease is None


async def test_what_another_process_still_has_is_not_asked_for_again() -> None:
    clock = FakeClock()
    journal, claims = MemoryJournal(clock=clock), Claims()
    leases = Leases(journal, clock, "w1", lease_s=9.0)
    claim = claims.take("c")
    await leases.take(claim)
    clock.advance(20.0)
    others = await journal.lease("c", "w2", 4.0)
    assert others is not None
    await _keep(leases, claims, clock, 1)
    assert claim.lease is None
    await journal.release(others)
    await _keep(leases, claims, clock, 3)
    assert await journal.lease("c", "w3", 9.0) is not None


async def test_a_late_renewal_leaves_the_grant_to_the_claim_that_came_after_it() -> None:
    clock = FakeClock()

    class Slow(MemoryJournal):
        """Tells of the grant that a renewal got when the next claim has come."""

        async def lease(self, conversation: str, owner: str, ttl_s: float) -> Lease | None:
            granted = await super().lease(conversation, owner, ttl_s)
            if renewing.is_set():
                renewing.clear()
                claims.drop(old)
                fresh = claims.take("c")
                await leases.take(fresh)
            return granted

    renewing = asyncio.Event()
    journal, claims = Slow(clock=clock), Claims()
    leases = Leases(journal, clock, "w1", lease_s=9.0)
    old = claims.take("c")
    await leases.take(old)
    await _held_by_another(journal, "c", clock)
    renewing.set()
    await _keep(leases, claims, clock, 1)
    assert await journal.lease("c", "w3", 9.0) is None, "the new claim has it"
