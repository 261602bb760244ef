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
