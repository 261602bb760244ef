"""What tenants have spent in windows of time that move on, and whether they may go on spending.

    ...│▁│▃│ │▂│▅│▁│   what is spent counts in the stretch in which it was spent, and that one until
       └─ window ──┘   all of it is older than the window: no window ever has more than the budget

What this process spends it knows at once. What others spend, and what was spent before it began, it
hears from whoever keeps the books (`learn`), who also takes down what came by without a journal
(`take_unsaved`). Nothing here waits, or reads from a disk.

Whoever would begin when nothing is left is refused until enough of it is older than the window.
What has begun ends in its own way: a forwarded turn is paid whole, an agent is wound down.

Bounded: STRETCHES + 1 sums a configured tenant, in three books.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from serving.config.tenancy import BudgetConfig, TenantConfig
from serving.errors import BudgetUsed
from serving.spending import Spending

STRETCHES = 60
"""In a window: how finely it moves on."""
_WHAT = {
    "turns": ("model turns", "{:g}"),
    "tool_calls": ("tool calls", "{:g}"),
    "tokens": ("tokens, prompt and output", "{:g}"),
    "seconds": ("seconds of model turns", "{:.1f}"),
    "cost_usd": ("US dollars", "{:.6g}"),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit of a budget, and how much of it is used."""

    name: str
    """Of the amount: `max_` before it is the limit's."""
    used: float
    limit: float


class TenantBudgetUsed(BudgetUsed):
    """Nothing is left of it now; Retry-After is when some is again."""

    default_code = "tenant_budget_used"


class Budget:
    """One tenant's. `now` is Unix time everywhere: several processes and restarts share it."""

    def __init__(self, tenant: str, config: BudgetConfig) -> None:
        self.tenant = tenant
        self.config = config
        self.refused: dict[str, int] = dict.fromkeys(config.limits, 0)
        """Requests, by the amount that was used up."""
        self._stretch_s = config.window_s / STRETCHES
        self._own: dict[float, Spending] = {}
        self._others: dict[float, Spending] = {}
        self._unsaved: dict[float, Spending] = {}
        """Of our own what is in no journal yet."""
        self._used = Spending()
        self._true_until = 0.0

    def ends_at(self, now: float) -> float:
        """When the stretch that is under way ends."""
        return (math.floor(now / self._stretch_s) + 1) * self._stretch_s

    def expires_at(self, ends_at: float) -> float:
        """When a stretch counts no more."""
        return ends_at + self.config.window_s

    def spend(self, spending: Spending, now: float) -> None:
        """Count what this process has spent, and its journal knows or will know."""
        ends_at = self.ends_at(now)
        if (sums := self._own.get(ends_at)) is None:
            sums = self._own[ends_at] = Spending()
        sums.plus(spending)
        self._used.plus(spending)

    def spend_unsaved(self, spending: Spending, now: float) -> None:
        """Count what no journal knows of."""
        self.spend(spending, now)
        self._unsaved.setdefault(self.ends_at(now), Spending()).plus(spending)

    def take_unsaved(self) -> dict[float, Spending]:
        """What no journal knows of yet, by the ends of stretches, for one that will."""
        taken, self._unsaved = self._unsaved, {}
        return taken

    def give_back(self, unsaved: Mapping[float, Spending]) -> None:
        """It could not be stored."""
        for ends_at, spending in unsaved.items():
            self._unsaved.setdefault(ends_at, Spending()).plus(spending)

    def learn(self, ends_at: float, spending: Spending) -> None:
        """What all others have spent in that stretch."""
        self._others[ends_at] = spending
        self._true_until = 0.0

    def used(self, now: float) -> Spending:
        """In the window that ends now; to be looked at, and not to be kept."""
        if now >= self._true_until:
            self._used = Spending()
            self._true_until = math.inf
            for book in (self._own, self._others, self._unsaved):
                for ends_at in [each for each in book if self.expires_at(each) <= now]:
                    del book[ends_at]
            for book in (self._own, self._others):
                for ends_at, spending in book.items():
                    self._used.plus(spending)
                    self._true_until = min(self._true_until, self.expires_at(ends_at))
            # What is spent from now on cannot be too old before this.
            self._true_until = min(self._true_until, self.expires_at(self.ends_at(now)))
        return self._used

    def standings(self, now: float) -> Iterator[Standing]:
        """Of all its limits."""
        used = self.used(now)
        for name, limit in self.config.limits.items():
            yield Standing(name, getattr(used, name), limit)

    def check(self, now: float) -> None:
        """May something begin? Raises TenantBudgetUsed."""
        gone = [each for each in self.standings(now) if each.used >= each.limit]
        if not gone:
            return
        wait_s, worst = max(((self._free_in(each, now), each) for each in gone), key=_wait_s)
        self.refused[worst.name] += 1
        what, form = _WHAT[worst.name]
        raise TenantBudgetUsed(
            f"the budget of {form.format(worst.limit)} {what} in {self.config.window} is used up "
            f"(tenants.{self.tenant}.budget.max_{worst.name}): {form.format(worst.used)} are used; "
            f"some is free again in {_duration(wait_s)}",
            retry_after_s=wait_s,
        )

    def _free_in(self, standing: Standing, now: float) -> float:
        left = standing.used
        for ends_at in sorted({*self._own, *self._others}):
            for book in (self._own, self._others):
                if ends_at in book:
                    left -= getattr(book[ends_at], standing.name)
            # Sums of floats that were added in another order may be a little off.
            if left < standing.limit - 1e-9 * standing.used:
                return self.expires_at(ends_at) - now
        return self.config.window_s


class Budgets:
    """Of all tenants that have one. Without any, nothing is counted and nothing costs anything."""

    def __init__(
        self, tenants: Mapping[str, TenantConfig], clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives Unix time."""
        self.clock = clock
        self.by_tenant = {
            name: Budget(name, config.budget)
            for name, config in tenants.items()
            if config.budget is not None
        }

    def enter(self, tenant: str) -> Budget | None:
        """The budget that pays for what begins now; None: nobody counts. Raises
        TenantBudgetUsed."""
        budget = self.by_tenant.get(tenant)
        if budget is not None:
            budget.check(self.clock())
        return budget


def _wait_s(found: tuple[float, Standing]) -> float:
    return found[0]


def _duration(seconds: float) -> str:
    """Never less than it is, in the two units that matter."""
    whole = math.ceil(seconds)
    for unit_s, unit, less_s, less in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= unit_s:
            many, rest = divmod(math.ceil(seconds / less_s) * less_s, unit_s)
            return f"{many}{unit}{rest // less_s}{less}"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
