"""What each way of running the same tasks costs, what saves how much, and when to self-host.

    Step      one call of a model: fresh, cached and output tokens, seconds
    Way       all steps of all tasks, one way
    Account   five ways under one price list ──► Bill each ──► drops(): what each step saves
    break_even(hosted account, own account, machine)          tokens a month

Pure: the same steps give the same figures. Nothing here knows where steps came from.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cost_prices import HOURS_A_MONTH, Machine, PriceList
from serving.tables.base import Tier

WAYS = ("naive", "+ prefix cache", "+ routing", "+ tool-output compression", "+ adapter")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a model. A small answer that nobody saw and the one in its place are two."""

    task: int
    turn: str
    tier: Tier
    fresh: int
    """Prompt tokens that were computed."""
    cached: int
    output: int
    seconds: float
    """That the engine was busy with it."""
    right: bool | None = None
    """None: nobody asks, or another answer was used."""
    clock_s: float = 0.0
    """That somebody waited for it; 0 where nobody did."""
    said: str = ""
    """The beginning of an answer that was checked, where there was one."""

    @property
    def tokens(self) -> int:
        return self.fresh + self.cached + self.output


@dataclass(frozen=True, slots=True)
class Bill:
    """US dollars a task, by what they are paid for."""

    fresh: float
    cached: float
    output: float

    @property
    def usd(self) -> float:
        return self.fresh + self.cached + self.output


@dataclass(frozen=True)
class Way:
    """All tasks, run one way."""

    name: str
    steps: tuple[Step, ...]

    @property
    def tasks(self) -> int:
        return len({step.task for step in self.steps})

    @property
    def checked(self) -> int:
        return sum(step.right is not None for step in self.steps)

    @property
    def right(self) -> int:
        return sum(step.right is True for step in self.steps)

    def per_task(self, what: str) -> float:
        """The mean of one of a step's numbers, summed over a task."""
        return float(sum(getattr(step, what) for step in self.steps)) / self.tasks

    def small_share(self) -> float:
        """Of the answers that were used."""
        used = [step for step in self.steps if step.right is not None]
        return sum(step.tier == "small" for step in used) / len(used)

    def seconds_on(self, tier: Tier) -> float:
        """A task, on average."""
        return sum(step.seconds for step in self.steps if step.tier == tier) / self.tasks

    def bill_of_time(self, machine: Machine) -> Bill:
        """What its engines' seconds cost, split as the tokens take up their time."""
        fresh = cached = output = 0.0
        for step in self.steps:
            speed = machine.speed[step.tier]
            parts = (
                step.fresh / speed.fresh,
                step.cached / speed.cached,
                step.output / speed.output,
            )
            usd = step.seconds * machine.usd_per_second(step.tier) / sum(parts)
            fresh += usd * parts[0]
            cached += usd * parts[1]
            output += usd * parts[2]
        return Bill(fresh / self.tasks, cached / self.tasks, output / self.tasks)

    def bill(self, prices: PriceList) -> Bill:
        """Where nothing is ever cached, nothing is written to a cache either."""
        plain = self.name == WAYS[0]
        fresh = cached = output = 0.0
        for step in self.steps:
            rates = prices.of(step.tier)
            price = rates.without_cache() if plain else rates.with_cache()
            fresh += step.fresh * price.fresh
            cached += step.cached * price.cached
            output += step.output * price.output
        scale = 1e6 * self.tasks
        return Bill(fresh / scale, cached / scale, output / scale)


@dataclass(frozen=True)
class Drop:
    """What one step of the way saves, in US dollars a task; below zero where it costs more."""

    name: str
    before: float
    after: float

    @property
    def saved(self) -> float:
        return self.before - self.after

    @property
    def share(self) -> float:
        """Of what the step before it cost."""
        return self.saved / self.before if self.before else 0.0


@dataclass(frozen=True)
class Account:
    """The same tasks in all ways, under one price list, or on one's own machine, by its time."""

    prices: PriceList
    ways: tuple[Way, ...]
    machine: Machine | None = None

    def bills(self) -> list[Bill]:
        if self.machine is not None:
            return [way.bill_of_time(self.machine) for way in self.ways]
        return [way.bill(self.prices) for way in self.ways]

    def drops(self) -> list[Drop]:
        """What each way after the first adds to the one before it."""
        usd = [bill.usd for bill in self.bills()]
        names = [way.name for way in self.ways[1:]]
        return [Drop(name, a, b) for name, a, b in zip(names, usd, usd[1:], strict=False)]

    @property
    def factor(self) -> float:
        """Naive over the last way."""
        bills = self.bills()
        return bills[0].usd / bills[-1].usd

    @property
    def quality(self) -> float:
        """Right answers of the last way over those of the first, which asks the frontier always."""
        return self.ways[-1].right / self.ways[0].right

    @property
    def lost(self) -> int:
        """Checked answers that were right with the frontier always, less those of the last way."""
        return self.ways[0].right - self.ways[-1].right


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From how many tokens a month on one's own machine is the cheaper one."""

    hosted: str
    hosted_way: str
    hosted_usd: float
    """A task."""
    tokens: float
    """A month, at which both cost the same; prompt tokens, cached ones too, and output."""
    tasks: float
    share: float
    """Of what the machine can do in a month, at that point. Above 1 it never pays: hosted is
    cheaper even beside a machine that is never idle."""

    @property
    def pays(self) -> bool:
        return self.share <= 1


def capacity_tasks(way: Way, machine: Machine) -> float:
    """A month, when the busier of its engines never waits."""
    busiest = max(way.seconds_on(tier) for tier in machine.share)
    return HOURS_A_MONTH * 3600 / busiest


def break_even(
    prices: PriceList, way: Way, own: Way, machine: Machine, label: str = ""
) -> BreakEven:
    """A hosted list against one's own machine, which costs the same whether busy or idle.

    `way` is how the tasks run over there (`label` says it), `own` how they run here. Tokens are
    those of `own`.
    """
    hosted = way.bill(prices).usd
    tasks = machine.usd_per_month / hosted
    share = tasks / capacity_tasks(own, machine)
    tokens = tasks * own.per_task("tokens")
    return BreakEven(prices.name, label or way.name, hosted, tokens, tasks, share)
