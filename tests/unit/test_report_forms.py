"""What benchmarks write today is what the report reads: by their own types, not by copies."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks import agents_report, cost, report
from benchmarks.agents_attempt import Attempt
from benchmarks.capacity_model import Capacity
from benchmarks.harness.run import Run
from benchmarks.harness.stats import Interval
from benchmarks.latency_budget import PARTS
from benchmarks.latency_figures import Case, Compared, Figures, Spread
from benchmarks.load_figures import Objectives, figures
from benchmarks.load_knee import Bracket
from benchmarks.load_play import Played, Sent
from benchmarks.orchestrator import Figures as StepFigures
from benchmarks.report_figures import Cluster
from benchmarks.report_read import Result, read


def written(folder: Path, benchmark: str, found: Any, part: str = "", **options: Any) -> Result:
    """Written as the benchmark writes it, and read back."""
    path = folder / f"{benchmark}.json"
    Run(benchmark, argparse.Namespace(**options)).write(path, found, part=part)
    results = read([path])
    [run] = results.runs
    assert benchmark in report.whole(results, {})
    return run


def test_of_cost(tmp_path: Path) -> None:
    cost.main(["--offline", "--tasks", "3", "--lessons", "3", "--out", str(tmp_path)])
    [run] = read([tmp_path / "cost.json"]).runs
    assert run.entry.name == "cost --offline"
    own = run.envelope.figures.own
    assert [way.name for way in own.ways][:2] == ["naive", "+ prefix cache"]
    assert own.factor > 1
    assert run.envelope.figures.break_even


def test_of_latency(tmp_path: Path) -> None:
    each = dict.fromkeys(PARTS, 0.1)
    spread = Spread(0.5, 1.5)
    one = Figures(9, spread, dict.fromkeys(PARTS, spread), each, each, each, 0.9, 20.0, None, None)
    ratio = Interval(0.01, 0.0, 0.02)
    case = Case("stack", "warm", 1)
    found = {
        "cases": [{**asdict(case), **asdict(one)}],
        "compared": [{**asdict(case), **asdict(Compared(9, 0, ratio, ratio, ratio, None))}],
    }
    run = written(tmp_path, "latency", found, simulated=False)
    [read_back] = run.envelope.figures.of_stack("warm")
    assert (read_back.whole.p99, read_back.turns) == (1.5, 9)
    assert run.envelope.figures.compared[0].share.high == 0.02


def test_of_load(tmp_path: Path) -> None:
    sent = [
        Sent(0, n, float(n), left_s=float(n), token_s=(n + 0.1, n + 0.2), end_s=n + 0.2)
        for n in range(9)
    ]
    some = figures(Played(10.0, sent=sent, pulses_s=[0.001], begun=1), Objectives(), 0.0)
    none = figures(Played(10.0), Objectives(), 0.0)
    runs = [
        {"rate": rate, "seed": 1, "warm_up_s": 0.0, "figures": found, "doubts": ["few"], "said": {}}
        for rate, found in ((1.0, some), (2.0, none))
    ]
    run = written(tmp_path, "load", {"runs": runs, "knee": Bracket(1.0, 2.0)})
    first, second = run.envelope.figures.runs
    assert (first.figures.requests, first.figures.good_share) == (9, 1.0)
    assert second.figures.ttft.p50 is None
    assert run.envelope.figures.knee.high == 2.0


def test_of_agents(tmp_path: Path) -> None:
    attempts = [
        Attempt("auto", f"task-{n}", "look_up", 0, "f", "" if n else "wrong answer", "", 3, 2, 0,
                200, 1800, 60, 0.0002, 2.0, {"frontier": 3}, "conv_1")
        for n in range(4)
    ]  # fmt: skip
    found = {"models": agents_report.summarise(attempts), "attempts": attempts}
    run = written(tmp_path, "agents", found)
    [model] = run.envelope.figures.models
    assert model.solved.value == 0.75
    assert model.by_kind == {"look_up": (3, 4)}


def test_of_capacity() -> None:
    assert {*Cluster.model_fields} <= {field.name for field in fields(Capacity)}


def test_of_a_loops_steps(tmp_path: Path) -> None:
    rounds = [StepFigures(0.1, 7000.0, 0.5), StepFigures(0.2, 6000.0, 0.5)]
    run = written(tmp_path, "orchestrator", {"1 of 50": {"warmloop": rounds}}, "steps")
    assert run.envelope.figures.root["1 of 50"]["warmloop"][1].steps_per_s == 6000.0
