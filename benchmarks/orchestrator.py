"""Our agent loop beside others: `python -m benchmarks.orchestrator [steps|agents]`.

    steps    CPU of a durable step and steps a second, one session and many     orchestrator_step
             LangGraph, PydanticAI on DBOS, OpenAI Agents SDK likewise                   rivals/
    agents   1,000 agents at once, model 2 s, tool 1 s: how late are turns?   orchestrator_agents

Everybody runs the same loop on the same disk, by turns within a round, each in a process of its
own. A step is a model turn and a tool call: the prompt rendered over a 15-turn history, the
arguments checked, all kept on disk. What a conversation costs without a step is measured beside
it and taken off, in CPU and in time. Others have fewer sessions' steps to do (`--rival-steps`):
they would take minutes. Compare within one run; CPU is steadier than steps a second.

Each mode prints a table and one line for each bar, and writes JSON (and, for steps, a picture) to
`--out`. It ends with 1 when a bar is missed. Who is not installed is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import orchestrator_plot as plot
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import ROOT, Run, conclude, out_folder
from benchmarks.harness.show import console as console_of
from benchmarks.harness.show import table

RIVALS_PYTHON = ROOT / ".venv-rivals" / "bin" / "python"
OURS = "warmloop"
RIVALS = {
    "langgraph": "langgraph_sqlite",
    "pydantic-ai on dbos": "pydantic_dbos",
    "openai-agents": "openai_agents",
}
LIMIT_S = 900


@dataclass(frozen=True)
class Shape:
    """So many conversations, so many of them at a time, so many steps of each."""

    sessions: int
    at_once: int
    steps: int


@dataclass(frozen=True)
class Figures:
    """One run of one loop."""

    cpu_ms_per_step: float
    steps_per_s: float
    cpu_ms_per_response: float
    """To accept a request and to end it, without any step."""


def child(module: str, *arguments: object, python: str = sys.executable) -> dict[str, Any]:
    """Run a module in a process and a folder of its own; what it printed last."""
    with tempfile.TemporaryDirectory(prefix="warmloop-orchestrator-") as folder:
        where = str(Path(folder) / "run")
        Path(where).mkdir()
        name, *rest = module.split()
        argv = [python, "-m", name, *rest, where, *map(str, arguments)]
        ended = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    if ended.returncode:
        raise SystemExit(f"{module} failed:\n{ended.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def one_run(name: str, shape: Shape) -> Figures:
    arguments = (shape.sessions, shape.at_once, shape.steps)
    if name in RIVALS:
        module = f"benchmarks.rivals.{RIVALS[name]}"
        found = child(module, *arguments, python=str(RIVALS_PYTHON))
    else:
        found = child(f"benchmarks.orchestrator_step {name}", *arguments)
    steps = shape.sessions * shape.steps
    return Figures(
        cpu_ms_per_step=(found["cpu_s"] - found["idle_cpu_s"]) * 1000 / steps,
        steps_per_s=steps / (found["wall_s"] - found["idle_wall_s"]),
        cpu_ms_per_response=found["idle_cpu_s"] * 1000 / shape.sessions,
    )


def run_steps(console: Console, options: argparse.Namespace, run: Run) -> list[Bar]:
    rivals = list(RIVALS) if RIVALS_PYTHON.exists() else []
    if not rivals:
        console.print(f"not installed, and left out: {', '.join(RIVALS)} (scripts/setup rivals)")
    alone, many = f"1 of {options.alone}", f"{options.sessions:,} at once"
    shapes: dict[str, dict[str, Shape]] = {alone: {}, many: {}}
    for name in (OURS, "bare", "sqlite"):
        shapes[alone][name] = Shape(options.alone, 1, options.steps)
        shapes[many][name] = Shape(options.sessions, options.sessions, options.steps)
    del shapes[many]["sqlite"]  # one thread that commits for each: there is no "at once"
    for name in rivals:
        shapes[alone][name] = Shape(max(1, options.alone // 5), 1, options.steps)
        shapes[many][name] = Shape(options.sessions, options.sessions, options.rival_steps)
    runs: dict[str, dict[str, list[Figures]]] = {
        label: {name: [] for name in shapes[label]} for label in shapes
    }
    with Progress(console=console, transient=True) as progress:
        total = options.rounds * sum(map(len, shapes.values()))
        task = progress.add_task("running", total=total)
        for _ in range(options.rounds):
            for label, by_name in shapes.items():
                for name, shape in by_name.items():
                    progress.update(task, description=f"{name}, {label}")
                    runs[label][name].append(one_run(name, shape))
                    progress.advance(task)
    found = {label: {n: median(each) for n, each in names.items()} for label, names in runs.items()}
    for label, figures in found.items():
        _print_steps(console, label, figures)
    plot.draw(found, options.out / "orchestrator-steps.png")
    ours, graph = found[many][OURS], found[many].get("langgraph")
    times = ours.steps_per_s / graph.steps_per_s if graph else None
    bars = [
        Bar(f"CPU a durable step, {many}, ms", ours.cpu_ms_per_step, 0.15),
        Bar("CPU a durable step, one session, ms", found[alone][OURS].cpu_ms_per_step, 0.15),
        Bar(f"steps/s, {many}", ours.steps_per_s, 5000, at_most=False),
        Bar(f"steps/s, {many}, ÷ LangGraph's", times, 10, at_most=False),
    ]
    run.write(options.out / "orchestrator-steps.json", runs, bars, "steps")
    return bars


def median(runs: Sequence[Figures]) -> Figures:
    """Of each figure by itself."""
    fields = [asdict(each) for each in runs]
    return Figures(**{name: statistics.median(f[name] for f in fields) for name in fields[0]})


def _print_steps(console: Console, label: str, found: Mapping[str, Figures]) -> None:
    rows = [
        (
            name,
            f"{each.cpu_ms_per_step:.3f}",
            f"{each.steps_per_s:,.0f}",
            f"{each.cpu_ms_per_response:.2f}",
        )
        for name, each in found.items()
    ]
    title = f"Durable steps, {label} (median of the rounds)"
    console.print(table(title, ("loop", "CPU ms/step", "steps/s", "CPU ms/response"), rows))


def run_agents(console: Console, options: argparse.Namespace, run: Run) -> list[Bar]:
    found = child("benchmarks.orchestrator_agents", options.sessions, options.turns)
    rows = []
    for name, each in found.items():
        late = (f"{each[key]:.1f} ms" for key in ("late_p50_ms", "late_p99_ms", "late_max_ms"))
        share = f"{each['cpu_share_of_one_core']:.0%}"
        rows.append((name, f"{each['turns']:,}", *late, share))
    title = f"{options.sessions:,} agents at once, model 2 s, tool 1 s"
    columns = ("they begin", "turns", "late p50", "p99", "worst", "CPU of a core")
    console.print(table(title, columns, rows))
    bars = [Bar("late turns, p99, begun evenly, ms", found["spread"]["late_p99_ms"], 50)]
    run.write(options.out / "orchestrator-agents.json", found, bars, "agents")
    return bars


MODES = {"steps": run_steps, "agents": run_agents}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.orchestrator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", metavar="|".join(MODES), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of steps; the median is shown")
    parser.add_argument("--alone", type=int, default=50, help="conversations one after another")
    parser.add_argument("--sessions", type=int, default=1000, help="conversations at once")
    parser.add_argument("--steps", type=int, default=15, help="of each conversation")
    parser.add_argument("--rival-steps", type=int, default=2, help="the others', at once")
    parser.add_argument("--turns", type=int, default=5, help="of each of the agents")
    parser.add_argument("--out", type=out_folder, default=Path("out"), help="for JSON and PNG")
    options = parser.parse_args()
    if unknown := set(options.what) - {*MODES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; valid: {', '.join(MODES)}")
    for name in ("rounds", "alone", "sessions", "steps", "rival_steps", "turns"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    console, run = console_of(100), Run("orchestrator", options)
    bars = [bar for what in options.what or MODES for bar in MODES[what](console, options, run)]
    return conclude(console, bars, options.out)


if __name__ == "__main__":
    sys.exit(main())
