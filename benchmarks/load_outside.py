"""Load benchmark, beside an outside harness: its report and ours on the same endpoint, in pairs.

    vllm bench serve ... --save-result --result-filename theirs.json
        --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,90,99
    python -m benchmarks.load --outside vllm-bench theirs.json ... --ours load.json ...

The n-th of ours is held against the n-th of theirs, so measure them by turns (`load_beside` does).
Rates are of answers over the whole run, the end of the last one included: so the others count.
Judged are medians and rates; tails of a run of some dozen requests are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.bars import Bar
from benchmarks.harness.stats import Interval, paired

HARNESSES = ("vllm-bench",)
AGREE = 0.10
SAME_LOAD = 0.02
_LOAD = ("requests", "prompt tokens", "output tokens")
_JUDGED = ("answers/s", "output tokens/s", "first token, p50", "a token, p50", "whole, p50")
_SPREADS = (("first token", "ttft"), ("a token", "tpot"), ("gap", "itl"), ("whole", "e2el"))
_OURS = {"ttft": "ttft", "tpot": "per_token", "itl": "gap", "e2el": "latency"}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of both; a value a pair."""

    what: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    ratio: Interval
    """Ours ÷ theirs."""

    @property
    def percent(self) -> float:
        return (self.ratio.value - 1) * 100

    @property
    def judged(self) -> bool:
        return self.what in _JUDGED


def vllm_bench(path: Path) -> dict[str, float]:
    """The figures of a `vllm bench serve` result. Raises ValueError where it is none."""
    raw = _read(path)
    try:
        completed, tokens = raw["completed"], raw["total_output_tokens"]
        found = {
            "requests": float(completed),
            "prompt tokens": raw["total_input_tokens"] / completed,
            "output tokens": tokens / completed,
            "answers/s": raw["request_throughput"],
            "output tokens/s": raw["output_throughput"],
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: no result of vllm bench serve with answers ({error})") from None
    for what, short in _SPREADS:
        for label, field in (("mean", "mean"), ("p50", "median"), ("p90", "p90"), ("p99", "p99")):
            if (value := raw.get(f"{field}_{short}_ms")) is not None:
                found[f"{what}, {label}"] = value / 1000
    return found


def ours(path: Path) -> dict[str, float]:
    """The same figures of a report of this benchmark: its last run."""
    raw = _read(path)
    try:
        run = raw["figures"]["runs"][-1]["figures"]
        answers = run["requests"] - sum(run["errors"].values())
        found = {
            "requests": float(answers),
            "prompt tokens": run["prompt_tokens"],
            "output tokens": run["output_tokens"],
            "answers/s": answers / run["whole_s"],
            "output tokens/s": answers * run["output_tokens"] / run["whole_s"],
        }
        for what, short in _SPREADS:
            for label, value in run[_OURS[short]].items():
                found[f"{what}, {label}"] = value
    except (KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: no report of this benchmark with answers ({error})") from None
    return {what: value for what, value in found.items() if value is not None}


def compare(
    mine: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]
) -> list[Line]:
    """What both know, figure by figure. Raises ValueError where they are no pairs."""
    if len(mine) != len(others):
        raise ValueError(f"{len(mine)} of ours and {len(others)} of theirs are no pairs")
    lines = []
    for what in others[0] if others else ():
        if all(what in each and each[what] for each in (*mine, *others)):
            pair = tuple(e[what] for e in mine), tuple(e[what] for e in others)
            lines.append(Line(what, *pair, paired(*pair)))
    return lines


def other_load(lines: Sequence[Line]) -> list[str]:
    """Where the two were not given the same to do, so that their figures cannot agree."""
    return [
        f"{line.what}: {line.percent:+.1f} %, so the load was not the same"
        for line in lines
        if line.what in _LOAD and abs(line.ratio.value - 1) > SAME_LOAD
    ]


def bars(lines: Sequence[Line]) -> list[Bar]:
    """The two agree."""
    return [
        Bar(f"{line.what}: |ours ÷ theirs - 1|", abs(line.ratio.value - 1), AGREE)
        for line in lines
        if line.judged
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return raw
