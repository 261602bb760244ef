"""The simulations of `benchmarks.capacity`: formulas beside them, then ever larger fleets.

checks    4 replicas, half as many agents as the formulas allow, as many, and half as many again;
          and the most agents of whom not too many turns are late, found by bisection
calm      1 to 1,000 replicas, so many short tasks that caches suffice
scarce    ... and more agents than they hold: turns wait in the router
tasks     10 replicas, 10,000 to a million tasks: what the router remembers
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import capacity_rates
from benchmarks.capacity_demand import demand
from benchmarks.capacity_fleet import BLOCK_TOKENS, Plan, Played, Told, play, small_agents
from benchmarks.capacity_model import Goal, Load, Model
from benchmarks.capacity_rates import Rates
from benchmarks.harness.bars import Bar
from benchmarks.routing_synthetic import synthetic
from benchmarks.routing_workload import Session, Workload

CHECKED_REPLICAS = 4
KV_TOKENS, SCARCE_KV_TOKENS = 110_000, 40_000
CALM, SCARCE = 12, 20
"""Agents of a replica; by the formulas it serves 60 with the first cache, and 16 with the other."""
PARTS = ("checks", "calm", "scarce", "tasks")
SIZES = (1, 10, 100, 1000)
TURNS_WITHIN, HITS_WITHIN, MOST_WITHIN = 0.10, 0.05, 0.25
"""By how much formulas and simulation may differ, below the most agents; the last, in agents."""


@dataclass(frozen=True, slots=True)
class Check:
    """The same agents, by formula and in the simulation."""

    workload: str
    told: Load
    """Of one replica."""
    played: Played


@dataclass(frozen=True, slots=True)
class Most:
    """The most agents of a replica under the objective."""

    workload: str
    told: float
    played: float


@dataclass(frozen=True, slots=True)
class Swept:
    """All of it; empty where nothing was simulated."""

    checks: Sequence[Check] = ()
    most: Sequence[Most] = ()
    calm: Sequence[Played] = ()
    scarce: Sequence[Played] = ()
    tasks: Sequence[Played] = ()

    def bars(self) -> list[Bar]:
        """Formulas against simulation, where the formulas say that it goes well."""
        if not self.checks:
            return []
        within = [each for each in self.checks if each.told.agents <= self._most(each.workload)]
        turns = max(abs(c.told.turns_per_s / c.played.each_per_s - 1) for c in within)
        hits = max(abs(c.told.hit_rate - c.played.hit_rate) for c in within)
        most = [each.told / each.played for each in self.most]
        worst = max(most, key=lambda ratio: abs(ratio - 1))
        return [
            Bar("turns/s, formula beside simulation: furthest apart", turns, TURNS_WITHIN),
            Bar("hit rate, formula beside simulation: furthest apart", hits, HITS_WITHIN),
            Bar(
                f"most agents, formula beside simulation ({worst:.2f})", abs(worst - 1), MOST_WITHIN
            ),
        ]

    def _most(self, workload: str) -> float:
        return next(each.told for each in self.most if each.workload == workload)


@dataclass(frozen=True, slots=True)
class _Agents:
    """A workload that never ends, as the simulation plays it, and what it is in numbers."""

    name: str
    rates: Rates
    sessions: Callable[[], Iterator[Session]]
    numbers: Workload
    tasks: int
    """Of one simulation."""


@dataclass
class _Bar:
    """A line of progress for each simulation."""

    progress: Progress
    names: Iterator[int] = field(default_factory=itertools.count)

    def line(self, name: str, total: int) -> Told:
        task = self.progress.add_task(f"{name:<34}", total=total)
        return lambda done: self.progress.update(task, completed=done)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which simulations."""

    parts: Sequence[str] = PARTS
    quick: bool = False
    largest: int = SIZES[-1]
    """Replicas."""
    tasks: int = 1_000_000
    """Of the last part."""


def sweep(goal: Goal, wanted: Wanted, console: Console) -> Swept:
    """Every simulation, the checks first. A minute, or, not quick, an hour and more."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = _Bar(progress)
        sizes = [n for n in SIZES if n <= wanted.largest]
        checks, most = _checked(goal, wanted, bar)
        calm = [n for n in sizes if not (wanted.quick and n > 100)]
        scarce = [n for n in sizes if not (wanted.quick and n > 10)]
        return Swept(
            checks,
            most,
            [_calm(n, bar) for n in calm if "calm" in wanted.parts],
            [_scarce(n, bar) for n in scarce if "scarce" in wanted.parts],
            [_tasks(n, bar) for n in _numbers(wanted) if "tasks" in wanted.parts],
        )


def _numbers(wanted: Wanted) -> list[int]:
    if wanted.quick:
        return []
    return [n for n in (10_000, 100_000) if n < wanted.tasks] + [wanted.tasks]


def _calm(replicas: int, bar: _Bar) -> Played:
    tasks = max(400, 30 * replicas)
    return _fleet("calm", Plan(replicas, CALM * replicas, tasks, KV_TOKENS), bar)


def _scarce(replicas: int, bar: _Bar) -> Played:
    tasks = max(400, 45 * replicas)
    return _fleet("scarce", Plan(replicas, SCARCE * replicas, tasks, SCARCE_KV_TOKENS), bar)


def _tasks(tasks: int, bar: _Bar) -> Played:
    return _fleet("tasks", Plan(10, 10 * CALM, tasks, KV_TOKENS), bar)


def _fleet(name: str, plan: Plan, bar: _Bar) -> Played:
    told = bar.line(f"{name}: {plan.replicas:,} replicas, {plan.agents:,} agents", plan.tasks)
    return play(plan, small_agents(plan.tasks), told)


def _checked(goal: Goal, wanted: Wanted, bar: _Bar) -> tuple[list[Check], list[Most]]:
    checks, most = [], []
    if "checks" in wanted.parts:
        for agents in [_small()] if wanted.quick else [_small(), _coding()]:
            model = Model(demand(agents.numbers), agents.rates, goal)
            checks += _checks(agents, model, bar)
            most.append(_most(agents, model, goal, bar))
    return checks, most


def _checks(agents: _Agents, model: Model, bar: _Bar) -> list[Check]:
    most = model.most()
    found = []
    for share in (0.5, 1.0, 1.5):
        count = max(1, round(most * share * CHECKED_REPLICAS))
        told = model.load(count / CHECKED_REPLICAS)
        found.append(Check(agents.name, told, _played(agents, count, model.goal, bar)))
    return found


def _most(agents: _Agents, model: Model, goal: Goal, bar: _Bar) -> Most:
    """By bisection, to a twelfth."""
    told = model.most()
    low, high = 1, max(2, round(told * CHECKED_REPLICAS * 2))
    while high - low > max(1, low // 12):
        middle = (low + high) // 2
        late = _played(agents, middle, goal, bar).late
        low, high = (middle, high) if late <= 1 - goal.share else (low, middle)
    return Most(agents.name, told, low / CHECKED_REPLICAS)


def _played(agents: _Agents, count: int, goal: Goal, bar: _Bar) -> Played:
    rates = agents.rates
    plan = Plan(
        CHECKED_REPLICAS,
        count,
        max(agents.tasks, count * 4),
        rates.kv_tokens,
        prefill=rates.prefill,
        decode=rates.decoded(1),
        block_tokens=agents.numbers.block_tokens,
        ttft_s=goal.ttft_s,
    )
    told = bar.line(f"{agents.name}: {count} agents, {CHECKED_REPLICAS} replicas", plan.tasks)
    return play(plan, itertools.islice(agents.sessions(), plan.tasks), told)


def _small() -> _Agents:
    """Short tasks; their prompts are small, so that the objective is met by all but the queue."""
    rates = capacity_rates.read("simulated").model_copy(update={"kv_tokens": KV_TOKENS})
    numbers = Workload("short tasks", tuple(small_agents(1500, seed=2)), BLOCK_TOKENS)
    return _Agents("short tasks", rates, lambda: small_agents(1 << 30), numbers, 1500)


def _coding() -> _Agents:
    """Coding agents of the routing benchmark."""
    rates = capacity_rates.read("simulated")
    numbers = synthetic(192, seed=1)

    def endless() -> Iterator[Session]:
        """The same tasks again and again, under other names."""
        for around in itertools.count():
            for session in numbers.sessions:
                yield replace(session, key=f"{session.key}/{around}") if around else session

    return _Agents("coding agents", rates, endless, numbers, 192)
