"""The books of tenants' budgets: what this process spends, and what it hears of others.

    a run's events ─► Purse: counted at once, and stored with the events (`account`)
    a look, every LOOK_S: forwarded requests' spending ─► journal ─► what all others have spent

So the budget is one for all processes of a journal, and its past is known again after a restart.
What a process does not know yet is what others have spent since its last look; more than that, and
one turn of every run under way, is never spent over a limit by agents: in one process only what a
turn is larger than those before it in its run. What forwarded requests have spent since the last
look is lost when the process is killed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from orchestrator.clock import Clock, sleep
from orchestrator.journal.base import Account, Journal, JournalFull
from orchestrator.loop import budgets
from orchestrator.loop.budgets import SPENDING, Cap, Spent, spending_of
from orchestrator.loop.events import AnyEvent, ModelFailed, ModelIntent, ModelResult
from router.tenancy.budgets import Budget, Budgets
from serving.spending import Spending

log = logging.getLogger("warmloop.worker")

LOOK_S = 1.0
LATE_S = 60.0
"""How long after its end something may still be counted in a stretch: clocks differ, and a journal
may have to be waited for."""
FORGET_S = 600.0


class Purse:
    """What one run may spend of its tenant's budget, and has."""

    def __init__(self, ledger: Ledger, budget: Budget) -> None:
        self._ledger = ledger
        self._budget = budget
        self._asking = False
        self._uncounted: list[AnyEvent] = []
        self._unstored = False
        """Was something spent that the journal does not know of?"""

    def __enter__(self) -> None:
        """The run is under way here, until the exit."""
        self._ledger.expected[self._budget.tenant] += 1

    def __exit__(self, *error: object) -> None:
        self._set_asking(False)
        self._count()
        self._ledger.expected[self._budget.tenant] -= 1

    def _set_asking(self, asking: bool) -> None:
        self._ledger.expected[self._budget.tenant] += asking - self._asking
        self._asking = asking

    def take(self, event: AnyEvent) -> None:
        """An event of the run, before it is stored: its own next step must know what it spends."""
        kind = type(event)
        if kind is ModelIntent:
            self._set_asking(True)
        elif kind is ModelResult or kind is ModelFailed:
            self._set_asking(False)
        if kind in SPENDING:
            self._uncounted.append(event)

    def _count(self) -> None:
        """What was taken; not one by one, since a run's events come in twos and threes."""
        if not self._uncounted:
            return
        events, self._uncounted = self._uncounted, []
        if (spent := spending_of(events)) is not None:
            self._budget.spend(spent, self._ledger.now())
            self._unstored = True

    def account(self) -> Account | None:
        """Where the journal counts what is about to be stored; None: it spends nothing."""
        self._count()
        if not self._unstored:
            return None
        self._unstored = False
        return self._ledger.account(self._budget, self._budget.ends_at(self._ledger.now()))

    def not_stored(self, account: Account | None) -> None:
        """It could not be, and will be again."""
        self._unstored = self._unstored or account is not None

    def caps(self, spent: Spent) -> tuple[Cap, ...]:
        """How far the run may go, which has spent that itself."""
        self._count()
        budget, expected = self._budget, self._ledger.expected[self._budget.tenant]
        return budgets.of_tenant(budget.used(self._ledger.now()), budget.config, spent, expected)


class Ledger:
    """Of one process; `writer` is its name for this life of it."""

    def __init__(self, journal: Journal, clock: Clock, known: Budgets, writer: str) -> None:
        self._journal = journal
        self._clock = clock
        self._budgets = known.by_tenant
        self._writer = writer
        self._looked_at = float("-inf")
        self._forgot_at = 0.0
        self.expected = dict.fromkeys(self._budgets, 0)
        """Turns of each tenant that there should be room for: those that are being answered, and
        a last one of each run under way here."""
        self.now = clock.now
        self._accounts: dict[str, Account] = {}
        self._saving: asyncio.Task[None] | None = None

    @property
    def is_kept(self) -> bool:
        """Is there anything to count?"""
        return bool(self._budgets)

    def purse(self, tenant: str) -> Purse | None:
        """For a run of that tenant; None: nothing limits it."""
        budget = self._budgets.get(tenant)
        return None if budget is None else Purse(self, budget)

    def account(self, budget: Budget, ends_at: float) -> Account:
        """Where it is counted what this process spends in that stretch."""
        known = self._accounts.get(budget.tenant)
        if known is None or known.ends_at != ends_at:
            known = Account(budget.tenant, ends_at, budget.expires_at(ends_at), self._writer)
            self._accounts[budget.tenant] = known
        return known

    async def look(self) -> None:
        """Write down what is in no journal yet, and hear of the others. Raises JournalFull."""
        if not self._budgets:
            return
        await self._save()
        now = self.now()
        longest_s = max(each.config.window_s for each in self._budgets.values())
        after = max(now - longest_s, self._looked_at - LATE_S)
        for each in await self._journal.spent(after, but_by=self._writer):
            if (budget := self._budgets.get(each.tenant)) is not None:
                budget.learn(each.ends_at, each.spending)
        self._looked_at = now
        if now - self._forgot_at >= FORGET_S:
            await self._journal.forget_spent(now)
            self._forgot_at = now

    async def _save(self) -> None:
        taken = [(budget, budget.take_unsaved()) for budget in self._budgets.values()]
        if any(unsaved for _, unsaved in taken):
            # In a task of its own: cut, nobody would know whether it was stored.
            self._saving = asyncio.ensure_future(self._store(taken))
            await asyncio.shield(self._saving)

    async def _store(self, taken: Sequence[tuple[Budget, Mapping[float, Spending]]]) -> None:
        charges = [
            (self.account(budget, ends_at), spending)
            for budget, unsaved in taken
            for ends_at, spending in unsaved.items()
        ]
        try:
            await self._journal.spend(charges)
        except JournalFull:
            for budget, unsaved in taken:
                budget.give_back(unsaved)
            raise

    async def keep(self) -> None:
        """Look, for ever."""
        told = False
        while True:
            await sleep(self._clock, LOOK_S)
            try:
                await self.look()
                told = False
            except JournalFull as error:
                if not told:
                    log.warning("what other front doors spend of budgets is not known: %s", error)
                told = True

    async def close(self) -> None:
        """Write down what is left."""
        if self._saving is not None:
            await asyncio.wait((self._saving,))
        with suppress(JournalFull):
            await self._save()
