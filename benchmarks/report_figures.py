"""The figures that the report computes with, as their benchmarks write them.

Other fields are passed over; null is what could not be measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, RootModel


class Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(Figures):
    value: float
    low: float
    high: float


# cost


class UsdFor(Figures):
    """US dollars a task, by what they are paid for."""

    fresh: NonNegativeFloat
    cached: NonNegativeFloat
    output: NonNegativeFloat

    @property
    def whole(self) -> float:
        return self.fresh + self.cached + self.output


class Way(Figures):
    """One way to run the same tasks; a task's means."""

    name: str
    fresh: NonNegativeFloat
    cached: NonNegativeFloat
    output: NonNegativeFloat
    seconds: NonNegativeFloat
    usd: NonNegativeFloat
    usd_for: UsdFor
    small_share: float = Field(ge=0, le=1)
    right: NonNegativeInt
    checked: NonNegativeInt

    @property
    def hit_rate(self) -> float:
        """Of the prompt tokens, those that were found in a cache."""
        prompt = self.fresh + self.cached
        return self.cached / prompt if prompt else 0.0


class PriceList(Figures):
    name: str
    date: str | None
    source: str
    note: str = ""
    frontier: str
    small: str


class Account(Figures):
    prices: PriceList
    ways: tuple[Way, ...] = Field(min_length=2)

    @property
    def naive(self) -> Way:
        return self.ways[0]

    @property
    def best(self) -> Way:
        """The last one: everything together."""
        return self.ways[-1]

    @property
    def factor(self) -> float:
        return self.naive.usd / self.best.usd if self.best.usd else float("inf")

    def saved(self) -> list[tuple[str, float]]:
        """What each way saves, as a share of the one before it."""
        pairs = zip(self.ways, self.ways[1:], strict=False)
        return [(b.name, 1 - b.usd / a.usd if a.usd else 0.0) for a, b in pairs]


class Machine(Figures):
    name: str
    usd_per_hour: NonNegativeFloat
    measured: bool


class BreakEven(Figures):
    hosted: str
    hosted_way: str
    hosted_usd: NonNegativeFloat
    tokens: NonNegativeFloat
    tasks: NonNegativeFloat
    share: NonNegativeFloat


class Cost(Figures):
    """The first account is that of one's own machine."""

    source: str
    machine: Machine
    accounts: tuple[Account, ...] = Field(min_length=1)
    break_even: tuple[BreakEven, ...] = ()

    @property
    def own(self) -> Account:
        return self.accounts[0]


# latency


class Spread(Figures):
    p50: float | None
    p99: float | None


class Case(Figures):
    """Turns of one kind: seconds."""

    arm: str
    kind: str
    sessions: int
    turns: int
    whole: Spread
    parts: Mapping[str, Spread]
    at_p50: Mapping[str, NonNegativeFloat]
    cached_share: float
    first_text: Spread | None

    @property
    def whole_at_p50(self) -> float:
        return sum(self.at_p50.values())


class Compared(Figures):
    kind: str
    sessions: int
    pairs: int
    share: Interval
    added_s: Interval


class Latency(Figures):
    cases: tuple[Case, ...] = Field(min_length=1)
    compared: tuple[Compared, ...] = ()

    def of_stack(self, kind: str) -> list[Case]:
        """By the number of sessions."""
        found = [each for each in self.cases if (each.arm, each.kind) == ("stack", kind)]
        return sorted(found, key=lambda each: each.sessions)


# load


class Quantiles(Figures):
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class Window(Figures):
    requests: int
    good: int
    requests_per_s: float
    good_per_s: float
    cached_share: float | None
    ttft: Quantiles
    latency: Quantiles
    lag: Quantiles
    errors: Mapping[str, int]

    @property
    def good_share(self) -> float:
        return self.good / self.requests if self.requests else 0.0


class LoadRun(Figures):
    rate: float | None
    figures: Window
    doubts: tuple[str, ...] = ()


class Knee(Figures):
    low: float | None
    high: float | None


class Load(Figures):
    runs: tuple[LoadRun, ...] = Field(min_length=1)
    knee: Knee | None = None


# agents


class Summary(Figures):
    """One model over all its tasks."""

    model: str
    tasks: int
    solved: Interval
    turns: Interval
    tool_errors: Interval
    fresh: Interval
    cached: Interval
    output: Interval
    cost_usd: Interval | None
    usd_a_solved_task: float | None
    seconds: Interval
    by_kind: Mapping[str, tuple[int, int]]


class Agents(Figures):
    models: tuple[Summary, ...] = Field(min_length=1)


# capacity


class Cluster(BaseModel):
    """So many replicas, at what binds first."""

    model_config = ConfigDict(frozen=True, extra="allow")

    replicas: int
    agents: int
    binds: str
    tasks_a_day: float
    usd_a_task: float | None
    """None where it serves nobody."""


class Capacity(BaseModel):
    """Also what else it says is shown."""

    model_config = ConfigDict(frozen=True, extra="allow")

    clusters: tuple[Cluster, ...] = Field(min_length=1)


# orchestrator


class Step(Figures):
    cpu_ms_per_step: float
    steps_per_s: float
    cpu_ms_per_response: float


class Steps(RootModel[Mapping[str, Mapping[str, tuple[Step, ...]]]]):
    """How many at once → loop → rounds."""


FIGURES: Mapping[str, type[BaseModel]] = {
    "cost": Cost,
    "latency": Latency,
    "load": Load,
    "agents": Agents,
    "capacity": Capacity,
    "steps": Steps,
}
