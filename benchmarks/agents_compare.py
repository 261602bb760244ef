"""What got better or worse between two runs, paired by task.

    solved     exact sign test over the tasks whose success differs; the change with its interval
    the rest   now ÷ before over the tasks that both solved, with a bootstrap interval over tasks;
               a failed attempt is often a cheap one, so failures are left out

Worse is what is worse with 95 % confidence and, of the measures, by more than MARGIN: one token
more in every prompt is certain, too, and nobody wants to hear of it. Seconds are said and not
judged: they belong to a machine and its load, as cached tokens do to what ran before. Tasks whose
text, check or files changed in between are not paired.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from benchmarks.agents_attempt import Attempt
from benchmarks.harness.stats import Interval, interval, sign_test
from serving.errors import ConfigError

MARGIN = 0.03
CONFIDENT = 0.05
FEWEST = 6
"""Pairs below which nothing is judged: five that differ alike still happen by chance."""
MEASURES = ("turns", "tool_calls", "fresh", "cached", "output", "cost_usd", "seconds")
JUDGED = ("turns", "tool_calls", "fresh", "output", "cost_usd")
Says = Literal["better", "worse", "same", "not judged"]


@dataclass(frozen=True)
class Solved:
    """Whether a model solves more tasks than before."""

    model: str
    tasks: int
    before: float
    now: float
    change: Interval
    """Now - before, over tasks."""
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    p: float
    says: Says


@dataclass(frozen=True)
class Measured:
    """What a solved task takes: now ÷ before."""

    model: str
    measure: str
    tasks: int
    before: float
    now: float
    ratio: Interval
    says: Says


@dataclass(frozen=True)
class Comparison:
    solved: tuple[Solved, ...]
    measured: tuple[Measured, ...]
    left_out: tuple[str, ...]
    """Models and tasks that only one of the runs has, in words."""

    @property
    def worse(self) -> list[str]:
        """What got significantly worse."""
        found = [f"{each.model}: solved" for each in self.solved if each.says == "worse"]
        return found + [f"{m.model}: {m.measure}" for m in self.measured if m.says == "worse"]


def read(path: Path) -> list[Attempt]:
    """The attempts of a report. Raises ConfigError where it is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["benchmark"] != "agents":
            raise ConfigError(f"{path}: is a report of {report['benchmark']!r}, not of agents")
        return [Attempt(**each) for each in report["figures"]["attempts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is no report of this benchmark: {error}") from None


def compare(before: Sequence[Attempt], now: Sequence[Attempt]) -> Comparison:
    """Pair them. Raises ConfigError where no task of no model is in both."""
    old, new = _by_model(before), _by_model(now)
    solved: list[Solved] = []
    measured: list[Measured] = []
    left_out = [f"model {name}: in one run only" for name in sorted(old.keys() ^ new.keys())]
    for model in (name for name in new if name in old):
        pairs = {key: (old[model][key], new[model][key]) for key in new[model] if key in old[model]}
        alone = sorted({task for task, _ in old[model].keys() ^ new[model].keys()})
        if alone:
            left_out.append(f"{model}: {len(alone)} tasks, new or changed: {', '.join(alone[:5])}")
        if pairs:
            solved.append(_solved(model, pairs))
            measured += _measured(model, pairs)
    if not solved:
        raise ConfigError("--against: the two runs have no task of the same model in common")
    return Comparison(tuple(solved), tuple(measured), tuple(left_out))


Key = tuple[str, str]
Pairs = dict[Key, tuple[list[Attempt], list[Attempt]]]


def _by_model(attempts: Sequence[Attempt]) -> dict[str, dict[Key, list[Attempt]]]:
    """Model → (task, its fingerprint) → attempts."""
    found: dict[str, dict[Key, list[Attempt]]] = defaultdict(lambda: defaultdict(list))
    for each in attempts:
        found[each.model][each.task, each.fingerprint].append(each)
    return found


def _solved(model: str, pairs: Pairs) -> Solved:
    shares = {task: (_share(old), _share(new)) for (task, _), (old, new) in pairs.items()}
    gained = tuple(sorted(task for task, (old, new) in shares.items() if new > old))
    lost = tuple(sorted(task for task, (old, new) in shares.items() if new < old))
    p = sign_test(len(gained), len(lost))
    says: Says = "same"
    if p < CONFIDENT:
        says = "better" if len(gained) > len(lost) else "worse"
    before, now = (fmean(each[place] for each in shares.values()) for place in (0, 1))
    change = interval([new - old for old, new in shares.values()], fmean)
    return Solved(model, len(pairs), before, now, change, gained, lost, p, says)


def _share(attempts: Sequence[Attempt]) -> float:
    return fmean(each.solved for each in attempts)


def _measured(model: str, pairs: Pairs) -> list[Measured]:
    found = []
    for measure in MEASURES:
        values = [
            (old, new)
            for before, now in pairs.values()
            if (old := _mean(before, measure)) is not None
            and (new := _mean(now, measure)) is not None
        ]
        if not values or not sum(old for old, _ in values):
            continue

        def ratio(places: Sequence[float], values: list[tuple[float, float]] = values) -> float:
            chosen = [values[int(place)] for place in places]
            total = sum(old for old, _ in chosen)
            return sum(new for _, new in chosen) / total if total else float("inf")

        spread = interval([*range(len(values))], ratio)
        before_mean, now_mean = (fmean(each[place] for each in values) for place in (0, 1))
        says = _says(measure, spread, len(values))
        found.append(Measured(model, measure, len(values), before_mean, now_mean, spread, says))
    return found


def _mean(attempts: Sequence[Attempt], measure: str) -> float | None:
    """Over those that solved the task; None where there is none, or nothing was counted."""
    values = [getattr(each, measure) for each in attempts if each.solved]
    known = [float(each) for each in values if each is not None]
    return fmean(known) if known else None


def _says(measure: str, ratio: Interval, pairs: int) -> Says:
    if measure not in JUDGED or pairs < FEWEST:
        return "not judged"
    if ratio.low > 1 + MARGIN:
        return "worse"
    return "better" if ratio.high < 1 - MARGIN else "same"
