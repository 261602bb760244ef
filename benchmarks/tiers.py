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
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import tiers_answers, tiers_live, tiers_plot, tiers_recorded, tiers_sessions
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


def recorded(
    console: Console, path: Path | None, prices: Mapping[Tier, Prices], splits: int, png: Path
) -> tuple[dict[str, Any], bool]:
    """(figures, all bars reached)."""
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
    table = Table(title="shares of the frontier's; mean, and the middle 95 % of the splits")
    for column in ("", "quality", "cost", "to the frontier"):
        table.add_column(column)
    for name, scores in ways.items():
        table.add_row(
            name,
            _percent(spread([s.quality for s in scores])),
            _percent(spread([s.cost for s in scores])),
            _percent(spread([s.to_frontier for s in scores])),
        )
    console.print(table)
    first, second = tiers_recorded.halves(questions, 0)
    goes = tiers_recorded.as_it_goes([*first, *second], knobs, prices, seed=0)
    console.print(
        "learning from nothing, each outcome of the asked model reported, over all questions once: "
        f"quality {goes.quality:.1%}, cost {goes.cost:.1%}"
    )
    tiers_plot.draw(curve, found, source, png)
    reached = _recorded_bars(console, found)
    figures = {
        "source": source,
        "questions": len(questions),
        "splits": [asdict(each) for each in found],
        "curve": [{"floor": floor, **asdict(score)} for floor, score in curve],
        "as_it_goes": asdict(goes),
    }
    return figures, reached


def _recorded_bars(console: Console, found: Sequence[Split]) -> bool:
    quality = spread([each.policy.quality for each in found])
    cost = spread([each.policy.cost for each in found])
    better = spread([each.policy.quality - each.random.quality for each in found])
    cheap = sum(each.policy.cost <= COST_BAR for each in found)
    kept = sum(each.policy.quality >= QUALITY_BAR for each in found)
    bars = [
        (
            f"quality at least {QUALITY_BAR:.0%} of the frontier's: mean {quality.mean:.1%}, "
            f"reached in {kept} of {len(found)} splits",
            quality.mean >= QUALITY_BAR,
        ),
        (
            f"cost at most {COST_BAR:.0%} of the frontier's: mean {cost.mean:.1%}, reached in "
            f"{cheap} of {len(found)} splits",
            cost.mean <= COST_BAR,
        ),
        (
            f"better than random at the same cost: {100 * better.mean:+.1f} points of quality, "
            f"{100 * better.low:+.1f} at the low end of the splits",
            better.low > 0,
        ),
    ]
    reached = [_bar(console, said, ok=ok) for said, ok in bars]  # all of them are said
    return all(reached)


def sessions(
    console: Console, path: Path | None, prices: Mapping[Tier, Prices]
) -> tuple[dict[str, Any], bool]:
    """(figures, the bar is reached)."""
    played = tiers_sessions.read(path) if path else tiers_sessions.synthetic()
    outcomes = tiers_sessions.run(played, prices)
    source = path.name if path else "made up (no --traces FILE)"
    console.print(
        f"\n[bold]sessions: {source}[/]; {len(played)} sessions, "
        f"{outcomes['auto'].turns} turns; engines are pretended, right and sure by chance"
    )
    table = Table(title="main chains, from no history at all")
    for column in ("", "right", "USD", "of the frontier's"):
        table.add_column(column)
    full = outcomes["always frontier"]
    for name, each in outcomes.items():
        table.add_row(
            name,
            f"{each.right / each.turns:.1%}",
            f"{each.usd:.3f}",
            f"quality {each.right / full.right:.1%}, cost {each.usd / full.usd:.1%}",
        )
    console.print(table)
    reached = _sessions_bar(console, outcomes["auto"])
    figures = {"source": source, **{name: asdict(each) for name, each in outcomes.items()}}
    return figures, reached


def _sessions_bar(console: Console, auto: Outcome) -> bool:
    return _bar(
        console,
        f"changes of a main chain's model without a priced reason: {auto.unpriced} of "
        f"{auto.changes} ({auto.priced} for a gain above the margin, {auto.escalated} by an "
        f"escalation, {auto.returns} back from one as priced then)",
        ok=auto.unpriced == 0 and auto.changes > 0,
    )


def live(console: Console, ways: Sequence[Way]) -> dict[str, Any]:
    """What two real models did."""
    console.print("\n[bold]two real models[/], answers checked by code, temperature 0")
    table = Table(title="costs by the stack's prices, unused tries included")
    columns = ("", "questions", "right", *tiers_live.TYPES, "USD a million", "escalated", "small")
    for column in columns:
        table.add_column(column)
    for way in ways:
        tasks = [way.of_task(task) for task in tiers_live.TYPES]
        table.add_row(
            way.name,
            str(len(way.got)),
            f"{way.right} ({way.right / len(way.got):.0%})",
            *(f"{sum(g.right for g in each)} of {len(each)}" for each in tasks),
            f"{1e6 * way.usd / len(way.got):.1f}",
            str(way.escalations),
            str(sum(each.model == "small" for each in way.got)),
        )
    console.print(table)
    problems = [each.problem for way in ways for each in way.got if each.problem]
    console.print(f"answers that were errors: {len(problems)} {sorted(set(problems))[:3] or ''}")
    return {way.name: [asdict(each) for each in way.got] for way in ways}


def _percent(value: Spread) -> str:
    if value.low == value.high:
        return f"{value.mean:.1%}"
    return f"{value.mean:.1%}  ({value.low:.1%} to {value.high:.1%})"


def _bar(console: Console, said: str, *, ok: bool) -> bool:
    console.print(f"bar: {said}: {'reached' if ok else 'MISSED'}", highlight=False)
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=Path, metavar="FILE", help="CSV, gzipped or not")
    parser.add_argument("--traces", type=Path, metavar="FILE", help="of coding agents, gzipped")
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"))
    parser.add_argument("--live", action="store_true", help="also two real models; minutes")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for JSON and PNG")
    options = parser.parse_args()
    if options.splits < 4:
        parser.error("--splits: at least 4 are needed")
    console = Console()
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
    written = options.out / "tiers.json"
    written.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    console.print(f"written: {written}, {png}")
    return 0 if kept and priced else 1


if __name__ == "__main__":
    sys.exit(main())
