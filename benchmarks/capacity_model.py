"""How many agents does a replica serve? The formulas, and what each of them assumes. Pure.

Of one replica, with A agents that each have one turn at a time:

    prefill         s = fresh / prefill + found / cached, of a turn; which turns find their own
                    prefix, `capacity_residency` says
    cycle           c = pause + wait + s + output x (seconds of a token beside b others),
                    b = turns/s x the time that an answer takes
    turns/s         l = A / c: a closed loop, since who waits asks for nothing; bisected
    busy            r = l x s; where prefill and decode share the engine, + l x output / its most
    wait            W = l E[s²] / (2 (1 - r)): one prefill at a time, first come first served, turns
                    that come by chance (Pollaczek and Khinchine). Longer than t: r exp(-t r / W)
    late            the share of turns whose wait and prefill exceed the objective

The most agents of a replica are those at which `late` is just the share that may be. A cluster of N
has N times as many, which assumes that the router spreads them without loss. Then the front door:

    front door      l N x (a turn's CPU + N x what each replica adds to it) <= 0.7 of a core
    journal         l N x steps of a turn <= 0.7 of the steps that it takes
    sessions        all live agents are remembered by the router

What binds first is the resource that allows the fewest agents, all others being free. Tasks a day
and their cost are those of that many agents, day and night; cost is replicas alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.capacity_demand import Demand
from benchmarks.capacity_rates import Rates
from benchmarks.capacity_residency import Residency

DAY_S = 86_400
MOST_BUSY = 0.7
"""Of an engine, a front door's core, a journal's steps: beyond that queues grow."""
_STEPS = 40
"""Of a bisection."""
_MOST_RATE = 1e6


@dataclass(frozen=True, slots=True)
class Goal:
    """A share of all turns has its first token within so many seconds."""

    ttft_s: float
    share: float = 0.9


@dataclass(frozen=True, slots=True)
class Load:
    """One replica with so many agents."""

    agents: float
    warm: float
    """Share of turns that find their session's own prefix."""
    hit_rate: float
    turns_per_s: float
    cycle_s: float
    busy: float
    decoding: float
    """Sequences at once, on average."""
    ttft_s: float
    """Mean."""
    late: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """A cluster of N replicas, at what binds first."""

    replicas: int
    agents: int
    binds: str
    limits: Mapping[str, float]
    """Agents that each resource would allow by itself."""
    load: Load
    tasks_a_day: float
    usd_a_task: float
    doors: float
    """Front doors that so many agents keep busy."""


class Model:
    """One demand on one kind of engine."""

    def __init__(self, demand: Demand, rates: Rates, goal: Goal, broken: float = 0.0) -> None:
        """`broken`: share of turns that find no prefix of their own, wherever they go."""
        self.demand = demand
        self.rates = rates
        self.goal = goal
        self._broken = broken
        self._room = rates.kv_tokens - demand.heads
        self._turns = Residency(
            demand,
            lambda prompt, fresh: fresh / rates.prefill + (prompt - fresh) / rates.cached,
        )
        self._think_s = demand.think_s
        self._output = demand.output
        self._most: dict[bool, float] = {}

    def load(self, agents: float, *, endless: bool = False) -> Load:
        """One replica; `endless`: as if its cache were."""
        low, high = 0.0, agents / (self._think_s + self._output / self.rates.decoded(1))
        for _ in range(_STEPS):
            middle = (low + high) / 2
            fewer = self._at(middle, endless=endless).agents < agents
            low, high = (middle, high) if fewer else (low, middle)
        return self._at(low, endless=endless, judged=True)

    def _at(self, rate: float, *, endless: bool = False, judged: bool = False) -> Load:
        """So many turns a second, and the agents that ask for them; without end where the engine
        cannot do it."""
        answer_s = self._answer_s(rate)
        lasts_s = math.inf
        if not endless:
            lasts_s = self._turns.lasts_s(self._room, rate, answer_s / self._output)
        means = self._turns.means(lasts_s, self._broken)
        shared = self._output / self.rates.most_decoded if self.rates.shared else 0.0
        busy = rate * (means.prefill_s + shared)
        wait_s = rate * means.prefill_s2 / (2 * (1 - busy)) if busy < 1 else math.inf
        cycle_s = self._think_s + wait_s + means.prefill_s + answer_s
        return Load(
            rate * cycle_s,
            means.warm,
            means.hit_rate,
            rate,
            cycle_s,
            busy,
            rate * answer_s,
            wait_s + means.prefill_s,
            self._late(lasts_s, busy, wait_s) if judged else math.nan,
        )

    def most(self, *, endless: bool = False) -> float:
        """Agents of one replica at which just as many turns are late as may be."""
        if endless not in self._most:
            self._most[endless] = self._bisected(endless)
        return self._most[endless]

    def _bisected(self, endless: bool) -> float:
        def fits(rate: float) -> bool:
            return self._at(rate, endless=endless, judged=True).late <= 1 - self.goal.share

        return self._at(_greatest(fits), endless=endless).agents

    def busiest(self) -> Load:
        """The most that an engine takes without queues that grow and grow, objective or not."""
        return self._at(_greatest(lambda rate: self._at(rate).busy <= MOST_BUSY), judged=True)

    def tasks_a_day(self, turns_per_s: float) -> float:
        return turns_per_s / self.demand.turns * DAY_S

    def capacity(self, replicas: int, usd_per_hour: float, doors: int = 1) -> Capacity:
        """N replicas behind so many front doors, with one journal."""
        front = self.rates.front
        own, endless = self.most(), self.most(endless=True)

        idle, at = self.load(1e-3), self.load(max(own, 1e-3))

        def alone(turns_per_s: float) -> float:
            """Where engines could not do it, as if nobody waited for them."""
            agents = self._at(turns_per_s / replicas).agents * replicas
            return agents if math.isfinite(agents) else turns_per_s * idle.cycle_s

        limits = {
            "KV memory": own * replicas,
            "prefill": endless * replicas,
            "slots": self.rates.max_running * at.agents / at.decoding * replicas,
            "front door": alone(doors * MOST_BUSY / self.turn_s(replicas)),
            "journal": alone(MOST_BUSY * front.steps_per_s / front.steps_a_turn),
            "sessions": float(front.sessions),
        }
        if own >= 0.99 * endless:
            del limits["KV memory"]  # more of it would help nobody
        binds = min(limits, key=lambda name: limits[name])
        agents = math.floor(limits[binds])
        load = self.load(max(agents, 1e-3) / replicas)
        turns_per_s = load.turns_per_s * replicas
        tasks = self.tasks_a_day(turns_per_s) if agents else 0.0
        return Capacity(
            replicas,
            agents,
            binds,
            limits,
            load,
            tasks,
            24 * replicas * usd_per_hour / tasks if tasks else math.inf,
            turns_per_s * self.turn_s(replicas) / MOST_BUSY,
        )

    def turn_s(self, replicas: int) -> float:
        """CPU of a front door for one turn. All replicas are weighed for a task's first turn; for
        the others little is done with each."""
        front = self.rates.front
        each_us = front.home_us + front.decision_us / self.demand.turns
        return front.turn_ms / 1e3 + replicas * each_us / 1e6

    def _answer_s(self, rate: float) -> float:
        """How long an answer takes when so many turns a second decode side by side."""
        seconds = self._output / self.rates.decoded(1)
        for _ in range(30):
            batch = max(1.0, min(rate * seconds, self.rates.max_running))
            seconds = self._output * batch / self.rates.decoded(batch)
        return seconds

    def _late(self, lasts_s: float, busy: float, wait_s: float) -> float:
        """Turns whose first token comes after the objective."""

        def over(prefill_s: float) -> float:
            left_s = self.goal.ttft_s - prefill_s
            if left_s < 0 or math.isinf(wait_s):
                return 1.0
            return min(1.0, busy * math.exp(-left_s * busy / wait_s)) if wait_s > 0 else 0.0

        return self._turns.share(over, lasts_s, self._broken)


def _greatest(fits: Callable[[float], bool]) -> float:
    """The greatest rate that does; 0 where none does."""
    low, high = 0.0, 1.0
    while fits(high) and high < _MOST_RATE:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
