"""Does the tier policy keep quality and save money? `python -m benchmarks.tiers [--answers FILE]`.

1. Recorded answers of two models, learnt on one half and scored on the other, over several splits:
   the policy beside always small, always frontier, random at the same cost, and an oracle that
   knows every answer. Bars: at least 95 % of the frontier's quality, for at most 60 % of its cost,
   and better than random at the same cost.
2. Whole sessions through the real AutoTurns (`--traces FILE`: recorded ones). Bar: no main chain
   changes its model without a priced reason.
3. `--live`: two real models on this machine, with questions whose answers are checked. No bar: the
   questions are few, and show what happens.

Without files both workloads are made up, and the output says so. Prices are those of `--config`.
Writes OUT/tiers.json and OUT/tiers.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import tiers_answers, tiers_live, tiers_plot, tiers_recorded, tiers_sessions
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude, out_folder
from benchmarks.harness.show import console as console_of
from benchmarks.harness.show import table
from benchmarks.tiers_live import Way
from benchmarks.tiers_recorded import Score, Split, Spread, spread
from benchmarks.tiers_sessions import Outcome
from serving.config import stack_file
from serving.config.model import Prices
from serving.config.router import TiersConfig
from serving.errors import ConfigError
from serving.tables.base import Tier

QUALITY_BAR = 0.95
COST_BAR = 0.60
BETTER_BAR = 0.01
"""Points of quality: more than none."""


def recorded(
    console: Console, path: Path | None, prices: Mapping[Tier, Prices], splits: int, png: Path
) -> tuple[dict[str, Any], list[Bar]]:
    """(figures, bars)."""
    questions = tiers_answers.read(path) if path else tiers_answers.synthetic()
    knobs = TiersConfig(remaining_turns=1)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("splits", total=splits + splits // 2)
        done = lambda: progress.advance(task)  # noqa: E731
        found = tiers_recorded.run(questions, knobs, prices, splits, done)
        curve = tiers_recorded.curve(questions, knobs, prices, splits // 2, done)
    source = path.name if path else "made up (no --answers FILE)"
    console.print(
        f"[bold]recorded answers: {source}[/]; {len(questions)} questions of "
        f"{len({q.task for q in questions})} tasks, {splits} splits; the policy knows a question's "
        "task and length"
    )
    ways = {
        "always small": [each.small for each in found],
        "random at the policy's cost": [each.random for each in found],
        "policy": [each.policy for each in found],
        "always frontier": [Score(1.0, 1.0, 1.0)] * splits,
        "oracle": [each.oracle for each in found],
    }
    rows = [
        (
            name,
            _percent(spread([s.quality for s in scores])),
            _percent(spread([s.cost for s in scores])),
            _percent(spread([s.to_frontier for s in scores])),
        )
        for name, scores in ways.items()
    ]
    title = "shares of the frontier's; mean, and the middle 95 % of the splits"
    console.print(table(title, ("", "quality", "cost", "to the frontier"), rows))
    first, second = tiers_recorded.halves(questions, 0)
    goes = tiers_recorded.as_it_goes([*first, *second], knobs, prices, seed=0)
    console.print(
        "learning from nothing, each outcome of the asked model reported, over all questions once: "
        f"quality {goes.quality:.1%}, cost {goes.cost:.1%}"
    )
    tiers_plot.draw(curve, found, source, png)
    figures = {
        "source": source,
        "questions": len(questions),
        "splits": found,
        "curve": [{"floor": floor, **asdict(score)} for floor, score in curve],
        "as_it_goes": goes,
    }
    return figures, _recorded_bars(found)


def _recorded_bars(found: Sequence[Split]) -> list[Bar]:
    quality = spread([each.policy.quality for each in found])
    cost = spread([each.policy.cost for each in found])
    better = spread([each.policy.quality - each.random.quality for each in found])
    cheap = sum(each.policy.cost <= COST_BAR for each in found)
    kept = sum(each.policy.quality >= QUALITY_BAR for each in found)
    of = len(found)
    right = f"quality, of the frontier's (reached in {kept} of {of} splits)"
    paid = f"cost, of the frontier's (reached in {cheap} of {of} splits)"
    beyond = "points of quality above random at the same cost, low end of the splits"
    return [
        Bar(right, quality.mean, QUALITY_BAR, at_most=False),
        Bar(paid, cost.mean, COST_BAR),
        Bar(beyond, 100 * better.low, BETTER_BAR, at_most=False),
    ]


def sessions(
    console: Console, path: Path | None, prices: Mapping[Tier, Prices]
) -> tuple[dict[str, Any], list[Bar]]:
    """(figures, bars)."""
    played = tiers_sessions.read(path) if path else tiers_sessions.synthetic()
    outcomes = tiers_sessions.run(played, prices)
    source = path.name if path else "made up (no --traces FILE)"
    console.print(
        f"\n[bold]sessions: {source}[/]; {len(played)} sessions, "
        f"{outcomes['auto'].turns} turns; engines are pretended, right and sure by chance"
    )
    full = outcomes["always frontier"]
    rows = [
        (
            name,
            f"{each.right / each.turns:.1%}",
            f"{each.usd:.3f}",
            f"quality {each.right / full.right:.1%}, cost {each.usd / full.usd:.1%}",
        )
        for name, each in outcomes.items()
    ]
    title = "main chains, from no history at all"
    console.print(table(title, ("", "right", "USD", "of the frontier's"), rows))
    return {"source": source, **outcomes}, _sessions_bars(outcomes["auto"])


def _sessions_bars(auto: Outcome) -> list[Bar]:
    priced = (
        f"changes of a main chain's model without a priced reason ({auto.priced} for a gain above "
        f"the margin, {auto.escalated} by an escalation, {auto.returns} back from one as priced "
        "then)"
    )
    return [
        Bar(priced, auto.unpriced, 0),
        Bar("changes of a main chain's model", auto.changes, 1, at_most=False),
    ]


def live(console: Console, ways: Sequence[Way]) -> dict[str, Any]:
    """What two real models did."""
    console.print("\n[bold]two real models[/], answers checked by code, temperature 0")
    rows = []
    for way in ways:
        tasks = [way.of_task(task) for task in tiers_live.TYPES]
        rows.append(
            (
                way.name,
                str(len(way.got)),
                f"{way.right} ({way.right / len(way.got):.0%})",
                *(f"{sum(g.right for g in each)} of {len(each)}" for each in tasks),
                f"{1e6 * way.usd / len(way.got):.1f}",
                str(way.escalations),
                str(sum(each.model == "small" for each in way.got)),
            )
        )
    columns = ("", "questions", "right", *tiers_live.TYPES, "USD a million", "escalated", "small")
    console.print(table("costs by the stack's prices, unused tries included", columns, rows))
    problems = [each.problem for way in ways for each in way.got if each.problem]
    console.print(f"answers that were errors: {len(problems)} {sorted(set(problems))[:3] or ''}")
    return {way.name: way.got for way in ways}


def _percent(value: Spread) -> str:
    if value.low == value.high:
        return f"{value.mean:.1%}"
    return f"{value.mean:.1%}  ({value.low:.1%} to {value.high:.1%})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=Path, metavar="FILE", help="CSV, gzipped or not")
    parser.add_argument("--traces", type=Path, metavar="FILE", help="of coding agents, gzipped")
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"))
    parser.add_argument("--live", action="store_true", help="also two real models; minutes")
    parser.add_argument("--out", type=out_folder, default=Path("out"), help="for JSON and PNG")
    options = parser.parse_args()
    if options.splits < 4:
        parser.error("--splits: at least 4 are needed")
    console, run = console_of(100), Run("tiers", options)
    try:
        models = stack_file.load(options.config).models
        prices: dict[Tier, Prices] = {each.tier: each.prices for each in models.values()}
        if len(prices) < 2:
            raise ConfigError(f"{options.config}: needs a model of each tier, small and frontier")
        options.out.mkdir(parents=True, exist_ok=True)
        png = options.out / "tiers.png"
        figures: dict[str, Any] = {"prices": {k: v.model_dump() for k, v in prices.items()}}
        figures["recorded"], kept = recorded(console, options.answers, prices, options.splits, png)
        figures["sessions"], priced = sessions(console, options.traces, prices)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.live:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("asking", total=tiers_live.count())
            ways = tiers_live.run(options.config, lambda: progress.advance(task))
        figures["live"] = live(console, ways)
    bars = [*kept, *priced]
    run.write(options.out / "tiers.json", figures, bars)
    return conclude(console, bars, options.out)


if __name__ == "__main__":
    sys.exit(main())
