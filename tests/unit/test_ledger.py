"""The books of budgets: what forwarded requests have spent, at the end of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from orchestrator.clock import FakeClock
from orchestrator.journal.base import Account, JournalFull
from orchestrator.journal.memory import MemoryJournal
from orchestrator.worker.ledger import LOOK_S, Ledger
from router.tenancy.budgets import Budgets
from serving.config.tenancy import TenantConfig
from serving.spending import Spending


class Slow(MemoryJournal):
    """Begins to store when it is told to."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.asked = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.is_full = False

    async def spend(self, charges: Sequence[tuple[Account, Spending]]) -> None:
        self.asked.set()
        await self.goes_on.wait()
        if self.is_full:
            raise JournalFull("no space left")
        await super().spend(charges)


class Books:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.journal = Slow(self.clock)
        tenant = TenantConfig.model_validate({"budget": {"max_turns": 9}})
        budgets = Budgets({"acme": tenant}, self.clock.now)
        self.budget = budgets.by_tenant["acme"]
        self.ledger = Ledger(self.journal, self.clock, budgets, "w1")

    async def looks(self) -> asyncio.Task[None]:
        """It has begun to write down what was spent."""
        self.budget.spend_unsaved(Spending(turns=1), self.clock.now())
        keeping = asyncio.create_task(self.ledger.keep())
        await asyncio.sleep(0)
        self.clock.advance(LOOK_S)
        await self.journal.asked.wait()
        return keeping

    async def ends(self, keeping: asyncio.Task[None]) -> None:
        keeping.cancel()
        closing = asyncio.create_task(self.ledger.close())
        await asyncio.sleep(0)
        self.journal.goes_on.set()
        await asyncio.gather(keeping, closing, return_exceptions=True)

    async def stored(self) -> list[int]:
        return [each.spending.turns for each in await self.journal.spent(0.0, but_by="")]


async def test_what_is_being_written_down_when_the_process_ends_is_written_once() -> None:
    books = Books()
    await books.ends(await books.looks())
    assert await books.stored() == [1]


async def test_what_could_not_be_written_is_tried_once_more_at_the_end() -> None:
    books = Books()
    books.journal.is_full = True
    keeping = await books.looks()
    books.journal.goes_on.set()
    while not books.budget._unsaved:  # noqa: ASYNC110  nobody rings a bell
        await asyncio.sleep(0)
    books.journal.is_full = False
    await books.ends(keeping)
    assert await books.stored() == [1]
