"""What a run says of each model: figures with intervals, tables, the picture.

The tasks are a sample of what agents do, so intervals are over tasks: Wilson's for the share that
is solved where each was asked once, bootstrap for the rest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.agents_attempt import Attempt, Item
from benchmarks.agents_compare import Comparison
from benchmarks.harness import show
from benchmarks.harness.stats import Interval, interval, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOLVED, FAILED, MIXED = "#3a923a", "#e8e8e8", "#a9d3a9"


class Transcripts:
    """A file with a line for each attempt as it ends: what was called, told and said in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_text("", encoding="utf-8")

    def note(self, attempt: Attempt, steps: Sequence[Item]) -> None:
        which = {"model": attempt.model, "task": attempt.task, "round": attempt.round}
        line = {**which, "error": attempt.error, "why": attempt.why, "steps": steps}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Summary:
    """One model over all its tasks; per task, means with intervals."""

    model: str
    attempts: int
    tasks: int
    solved: Interval
    turns: Interval
    tool_calls: Interval
    tool_errors: Interval
    fresh: Interval
    cached: Interval
    output: Interval
    cost_usd: Interval | None
    usd_a_solved_task: float | None
    """All that was spent ÷ tasks solved: failures are paid, too."""
    seconds: Interval
    """Median."""
    by_kind: dict[str, tuple[int, int]]
    """Kind → (solved, asked)."""
    errors: dict[str, int]
    answered_by: dict[str, int]


def summarise(attempts: Sequence[Attempt]) -> list[Summary]:
    """In the order in which the models were named."""
    return [
        _summary(model, [each for each in attempts if each.model == model])
        for model in dict.fromkeys(each.model for each in attempts)
    ]


def _summary(model: str, attempts: Sequence[Attempt]) -> Summary:
    tasks = [
        [each for each in attempts if each.task == name]
        for name in dict.fromkeys(each.task for each in attempts)
    ]

    def mean(measure: str) -> Interval:
        values = [fmean(getattr(each, measure) for each in task) for task in tasks]
        return interval(values, fmean)

    solved = sum(each.solved for each in attempts)
    costs = [each.cost_usd for each in attempts if each.cost_usd is not None]
    priced = len(costs) == len(attempts)
    kinds = dict.fromkeys(each.kind for each in attempts)
    of_kind = {kind: [each for each in attempts if each.kind == kind] for kind in kinds}
    once = len(attempts) == len(tasks)
    return Summary(
        model=model,
        attempts=len(attempts),
        tasks=len(tasks),
        solved=wilson(solved, len(attempts)) if once else mean("solved"),
        turns=mean("turns"),
        tool_calls=mean("tool_calls"),
        tool_errors=mean("tool_errors"),
        fresh=mean("fresh"),
        cached=mean("cached"),
        output=mean("output"),
        cost_usd=mean("cost_usd") if priced else None,
        usd_a_solved_task=sum(costs) / solved if priced and solved else None,
        seconds=interval([median(each.seconds for each in task) for task in tasks]),
        by_kind={kind: (sum(e.solved for e in each), len(each)) for kind, each in of_kind.items()},
        errors=dict(Counter(each.error for each in attempts if each.error).most_common()),
        answered_by=dict(sum((Counter(each.answered_by) for each in attempts), Counter[str]())),
    )


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """What each model does, and where it fails."""
    columns = (
        *("model", "solved", "95 %", "turns", "calls", "refused"),
        *("fresh", "cached", "output", "USD a million", "a million solved", "seconds"),
    )
    rows = []
    for each in summaries:
        spent = each.cost_usd
        row = (
            each.model,
            f"{each.solved.value:.0%} of {each.tasks}",
            f"{each.solved.low:.0%} to {each.solved.high:.0%}",
            *(f"{x.value:.1f}" for x in (each.turns, each.tool_calls, each.tool_errors)),
            *(f"{x.value:,.0f}" for x in (each.fresh, each.cached, each.output)),
            "-" if spent is None else f"{1e6 * spent.value:,.0f}",
            "-" if each.usd_a_solved_task is None else f"{1e6 * each.usd_a_solved_task:,.0f}",
            f"{each.seconds.value:.1f}",
        )
        rows.append(row)
    kinds = [*dict.fromkeys(kind for each in summaries for kind in each.by_kind)]
    where = [
        (
            each.model,
            ", ".join(f"{error} {count}" for error, count in each.errors.items()) or "none",
            ", ".join(f"{name} {count}" for name, count in each.answered_by.items()),
            *("{} of {}".format(*each.by_kind.get(kind, (0, 0))) for kind in kinds),
        )
        for each in summaries
    ]
    return [
        show.table("Agents on files, per task", columns, rows),
        show.table(
            "Solved by kind, errors", ("model", "errors", "turns by", *kinds), where, left=3
        ),
    ]


def comparison(found: Comparison) -> list[Table]:
    """Now beside before."""
    solved = [
        (
            each.model,
            str(each.tasks),
            f"{each.before:.0%}",
            f"{each.now:.0%}",
            f"{each.change.value:+.0%} ({each.change.low:+.0%} to {each.change.high:+.0%})",
            f"{len(each.gained)}",
            f"{len(each.lost)}",
            f"{each.p:.3f}",
            each.says,
        )
        for each in found.solved
    ]
    measured = [
        (
            each.model,
            each.measure.removesuffix("_usd"),
            str(each.tasks),
            f"{each.before:.4g}",
            f"{each.now:.4g}",
            f"{each.ratio.value:.2f} ({each.ratio.low:.2f} to {each.ratio.high:.2f})",
            each.says,
        )
        for each in found.measured
    ]
    first = ("model", "tasks", "before", "now", "change, 95 %", "gained", "lost", "p", "")
    second = ("model", "a solved task's", "tasks", "before", "now", "now ÷ before, 95 %", "")
    return [
        show.table("Solved, now and before", first, solved),
        show.table("What a task takes that both solved", second, measured, left=2),
    ]


def picture(attempts: Sequence[Attempt], path: Path) -> None:
    """Which task each model solves, what share that is, and what a task costs."""
    summaries = summarise(attempts)
    models = [each.model for each in summaries]
    tasks = [*dict.fromkeys((each.kind, each.task) for each in attempts)]
    size = (12.0, 2.0 + 0.2 * len(tasks))
    title = "Agents on files: checked by code"
    with show.picture(path, 1, 3, size=size, title=title) as (grid, shares, costs):
        for row, (_, name) in enumerate(tasks):
            for column, model in enumerate(models):
                won = [e.solved for e in attempts if (e.model, e.task) == (model, name)]
                colour = SOLVED if won and all(won) else MIXED if any(won) else FAILED
                grid.barh(row, 0.92, left=column + 0.04, height=0.86, color=colour)
        grid.set_yticks(range(len(tasks)), [f"{kind}: {name}" for kind, name in tasks], fontsize=7)
        grid.set_ylim(len(tasks) - 0.5, -0.5)
        grid.set_xticks([c + 0.5 for c in range(len(models))], models, fontsize=8, rotation=30)
        grid.set_title("solved (green)", fontsize=10)
        grid.spines[["left", "bottom"]].set_visible(False)
        grid.tick_params(length=0)

        _bars(shares, models, [each.solved for each in summaries], show.OURS)
        shares.set_ylim(0, 1.05)
        shares.set_title("share solved, 95 %", fontsize=10)
        priced = [each for each in summaries if each.cost_usd is not None]
        spent = [_millions(each.cost_usd) for each in priced if each.cost_usd is not None]
        _bars(costs, [each.model for each in priced], spent, show.OTHERS)
        costs.set_title("USD for a million tasks, 95 %", fontsize=10)


def _bars(panel: Axes, names: Sequence[str], values: Sequence[Interval], colour: str) -> None:
    below = [each.value - each.low for each in values]
    above = [each.high - each.value for each in values]
    places = range(len(names))
    panel.bar(places, [each.value for each in values], yerr=[below, above], color=colour, capsize=4)
    panel.set_xticks(places, names, fontsize=8, rotation=30)


def _millions(usd: Interval) -> Interval:
    return Interval(1e6 * usd.value, 1e6 * usd.low, 1e6 * usd.high)
