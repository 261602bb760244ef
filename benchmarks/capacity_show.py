"""What `benchmarks.capacity` prints, writes and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.capacity_demand import Demand
from benchmarks.capacity_fleet import Played
from benchmarks.capacity_model import Capacity, Goal, Load
from benchmarks.capacity_rates import Rates
from benchmarks.capacity_sweep import Swept
from benchmarks.harness.show import OTHERS, OURS, picture, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RESOURCES = {
    "KV memory": "tab:blue",
    "prefill": "tab:green",
    "slots": "tab:gray",
    "front door": "tab:red",
    "journal": "tab:purple",
    "sessions": "tab:brown",
}


@dataclass(frozen=True)
class Answer:
    """All that the formulas say."""

    rates: Rates
    goal: Goal
    demand: Demand
    priced: str
    usd_per_hour: float
    clusters: Sequence[Capacity]
    lower: Sequence[Lower]


@dataclass(frozen=True)
class Lower:
    """One replica, where a share of turns finds nothing of its own prefix."""

    broken: float
    under: Capacity
    """The objective."""
    busiest: Load
    """Without it: as much as the engine takes."""
    usd_a_task: float
    """... then."""


def formulas(console: Console, answer: Answer) -> None:
    """The tables of the pure part."""
    rates, demand, goal = answer.rates, answer.demand, answer.goal
    said = "measured" if rates.measured else "ASSUMED, not measured"
    console.print(f"{rates.name} ({rates.date}, {said}): {rates.source}", highlight=False)
    console.print(
        f"{demand.name}: {demand.tasks} tasks of {demand.turns:.0f} turns; a turn's prompt has "
        f"{demand.prompt:,.0f} tokens, {demand.fresh:,.0f} of them new, its answer "
        f"{demand.output:,.0f}; {demand.think_s:.0f} s between turns",
        highlight=False,
    )
    console.print(
        f"objective: {goal.share:.0%} of turns have their first token within {goal.ttft_s:g} s; "
        f"a replica costs {answer.usd_per_hour:g} USD an hour ({answer.priced})",
        highlight=False,
    )
    columns = ["replicas", "agents", "binds", "tasks a day", "USD a task", "hits", "TTFT s", "busy"]
    rows = [_row(f"{each.replicas:,}", each) for each in answer.clusters]
    console.print(table("What N replicas serve", [*columns, "front doors"], rows))
    names = list(dict.fromkeys(name for each in answer.clusters for name in each.limits))
    limits = [
        [
            f"{each.replicas:,}",
            *(f"{each.limits[n]:,.0f}" if n in each.limits else "" for n in names),
        ]
        for each in answer.clusters
    ]
    console.print(
        table("Agents that each resource would allow alone", ["replicas", *names], limits)
    )
    lower = [
        [
            f"{each.broken:.0%}",
            f"{each.busiest.hit_rate:.3f}",
            f"{each.under.agents:,}",
            f"{each.under.usd_a_task:.4f}" if each.under.agents else "never",
            f"{each.busiest.agents:,.1f}",
            f"{each.busiest.ttft_s:.1f}",
            f"{each.usd_a_task:.4f}",
        ]
        for each in answer.lower
    ]
    columns = ["turns", "hits", "agents", "USD a task", "agents, no objective", "TTFT s", "USD"]
    title = "One replica, where a share of turns finds nothing of its own prefix"
    console.print(table(title, columns, lower))


def _row(first: str, each: Capacity) -> list[str]:
    load = each.load
    return [
        first,
        f"{each.agents:,}",
        each.binds,
        f"{each.tasks_a_day:,.0f}",
        f"{each.usd_a_task:.4f}",
        f"{load.hit_rate:.3f}",
        f"{load.ttft_s:.2f}",
        f"{load.busy:.2f}",
        f"{each.doors:.2f}",
    ]


def simulation(console: Console, found: Swept) -> None:
    """The tables of the simulation, and where it breaks."""
    rows = [
        [
            each.workload,
            f"{each.told.agents:.2f}",
            f"{each.told.turns_per_s:.3f}, {each.played.each_per_s:.3f}",
            f"{each.told.hit_rate:.3f}, {each.played.hit_rate:.3f}",
            f"{each.told.ttft_s:.2f}, {each.played.ttft_s:.2f}",
            f"{each.told.late:.3f}, {each.played.late:.3f}",
        ]
        for each in found.checks
    ]
    columns = ["", "agents", "turns/s", "hits", "TTFT s", "late"]
    console.print(table("Formula, simulation: a replica of four", columns, rows))
    for each in found.most:
        console.print(
            f"{each.workload}: most agents a replica {each.told:.2f}, {each.played:.2f}",
            highlight=False,
        )
    for name, plays in (("calm", found.calm), ("scarce", found.scarce), ("tasks", found.tasks)):
        if plays:
            console.print(table(f"{name}: the router, CPU in µs", _COLUMNS, map(_fleet, plays)))
    for line in breaks(found):
        console.print(line, highlight=False)


_COLUMNS = [
    "replicas", "agents", "tasks", "turns", "hits", "late", "waited", "a turn", "home", "anew",
    "waited", "place p99", "turns/s a core", "MiB", "bytes a session", "busiest",
]  # fmt: skip


def _fleet(each: Played) -> list[str]:
    plan = each.plan
    place = [f"{each.place_us[k]:,.0f}" if k in each.place_us else "" for k in _KINDS]
    return [
        f"{plan.replicas:,}",
        f"{plan.agents:,}",
        f"{plan.tasks:,}",
        f"{each.turns:,}",
        f"{each.hit_rate:.3f}",
        f"{each.late:.3f}",
        f"{each.waited:.3f}",
        f"{each.turn_us:,.0f}",
        *place,
        f"{each.place_p99_us:,.0f}",
        f"{1e6 / each.turn_us:,.0f}",
        f"{each.router_bytes / 2**20:,.1f}",
        f"{each.router_bytes / each.known_sessions:,.0f}",
        f"{each.busiest:.2f}",
    ]


_KINDS = ("home", "anew", "waited")


def breaks(found: Swept) -> list[str]:
    """In words: at which size one core of a front door has no more time for its fleet."""
    said = []
    for name, plays in (("calm", found.calm), ("scarce", found.scarce)):
        for each in plays:
            wanted = each.turns_per_s * each.turn_us / 1e6
            said.append(
                f"{name}, {each.plan.replicas:,} replicas: {each.turns_per_s:,.0f} turns/s take "
                f"{wanted:.2f} of a core for decisions alone"
            )
    return said


def figures(answer: Answer, found: Swept) -> dict[str, Any]:
    """Everything that was printed, as JSON takes it."""
    demand = asdict(answer.demand)
    del demand["asks"]
    simulated = asdict(found)
    for each in (*simulated["calm"], *simulated["scarce"], *simulated["tasks"]):
        each["plan"].pop("knobs")
    for each in simulated["checks"]:
        each["played"]["plan"].pop("knobs")
    return {
        "rates": answer.rates.model_dump(mode="json"),
        "goal": asdict(answer.goal),
        "demand": demand,
        "usd_per_hour": answer.usd_per_hour,
        "clusters": answer.clusters,
        "lower": answer.lower,
        "simulation": simulated,
    }


def draw(answer: Answer, found: Swept, path: Path) -> None:
    """Above the formulas, below the simulation over N."""
    rows = 2 if found.calm or found.scarce or found.tasks else 1
    title = f"{answer.rates.name}; {answer.demand.name}"
    with picture(path, rows, 3, size=(15, 4.3 * rows), title=title) as panels:
        _limits(panels[0], answer)
        _cost(panels[1], answer)
        _sensitivity(panels[2], answer)
        if found.calm or found.scarce:
            _cpu(panels[3], found)
            _core(panels[4], found)
        elif rows > 1:
            panels[3].set_axis_off()
            panels[4].set_axis_off()
        if rows > 1:
            _memory(panels[5], found)


def _limits(panel: Axes, answer: Answer) -> None:
    sizes = [each.replicas for each in answer.clusters]
    for name, colour in _RESOURCES.items():
        if name in answer.clusters[0].limits:
            values = [each.limits.get(name, float("nan")) for each in answer.clusters]
            panel.plot(sizes, values, "--", linewidth=1.2, color=colour, label=name)
    agents = [each.agents for each in answer.clusters]
    panel.plot(sizes, agents, "o-", color=OURS, linewidth=2.5, label="live agents served")
    _log(panel, "replicas")
    panel.legend(fontsize=7, frameon=False)
    panel.set_title("agents that each resource allows", fontsize=10, loc="left")


def _cost(panel: Axes, answer: Answer) -> None:
    names = [f"{each.replicas:,}" for each in answer.clusters]
    drawn = panel.bar(names, [each.usd_a_task for each in answer.clusters], color=OURS)
    said = [f"{e.tasks_a_day:,.0f}\na day;\n{e.binds}\nbinds" for e in answer.clusters]
    panel.bar_label(drawn, said, fontsize=8, padding=2)
    panel.margins(y=0.3)
    panel.set_xlabel("replicas", fontsize=8)
    panel.set_title("USD a task, at capacity day and night", fontsize=10, loc="left")


def _sensitivity(panel: Axes, answer: Answer) -> None:
    hits = [each.busiest.hit_rate for each in answer.lower]
    without = [each.usd_a_task for each in answer.lower]
    panel.plot(hits, without, "o-", color=OTHERS, label="no objective, engine 0.7 busy")
    under = [each for each in answer.lower if each.under.agents]
    panel.plot(
        [each.under.load.hit_rate for each in under],
        [each.under.usd_a_task for each in under],
        "s-",
        color=OURS,
        label="under the objective, where it can be met",
    )
    panel.set_yscale("log")
    panel.legend(fontsize=7, frameon=False)
    panel.set_xlabel("hit rate", fontsize=8)
    panel.set_title("USD a task as the hit rate falls, one replica", fontsize=10, loc="left")


def _cpu(panel: Axes, found: Swept) -> None:
    sizes = [each.plan.replicas for each in found.calm]
    for kind, colour in zip(_KINDS[:2], (OTHERS, OURS), strict=True):
        values = [each.place_us.get(kind, float("nan")) for each in found.calm]
        panel.plot(sizes, values, "o-", color=colour, label=f"placed {kind}, calm")
    waited = [each.place_us.get("waited", float("nan")) for each in found.scarce]
    panel.plot(
        [e.plan.replicas for e in found.scarce],
        waited,
        "s-",
        color="tab:red",
        label="waited, scarce",
    )
    whole = [each.turn_us for each in found.scarce]
    panel.plot(
        [e.plan.replicas for e in found.scarce],
        whole,
        "--",
        color="tab:red",
        label="a whole turn, scarce",
    )
    _log(panel, "replicas")
    panel.legend(fontsize=7, frameon=False)
    panel.set_title("CPU of a decision, µs", fontsize=10, loc="left")


def _core(panel: Axes, found: Swept) -> None:
    for name, plays, colour in (("calm", found.calm, OTHERS), ("scarce", found.scarce, "tab:red")):
        sizes = [each.plan.replicas for each in plays]
        panel.plot(
            sizes, [e.turns_per_s * e.turn_us / 1e6 for e in plays], "o-", color=colour, label=name
        )
    panel.axhline(1, color="black", linewidth=0.8)
    panel.text(1, 1.1, "one core, one front door", fontsize=7)
    _log(panel, "replicas")
    panel.legend(fontsize=7, frameon=False)
    panel.set_title("cores that decisions for the whole fleet take", fontsize=10, loc="left")


def _memory(panel: Axes, found: Swept) -> None:
    plays = found.tasks or found.calm or found.scarce
    tasks = [each.plan.tasks for each in plays]
    panel.plot(tasks, [each.router_bytes / 2**20 for each in plays], "o-", color=OURS, label="MiB")
    panel.plot(
        tasks, [e.known_sessions / 1000 for e in plays], "--", label="thousand sessions known"
    )
    _log(panel, "tasks that have passed")
    panel.legend(fontsize=7, frameon=False)
    panel.set_title("what the router remembers", fontsize=10, loc="left")


def _log(panel: Axes, what: str) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel(what, fontsize=8)
