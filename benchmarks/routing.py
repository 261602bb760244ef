"""Routing policies on agent traffic, in virtual time: `python -m benchmarks.routing`.

    --traces FILE     recorded traffic (twice: agents with sessions, and requests with timestamps);
                      without it a synthetic workload of the same shape
    --quick           fewer sessions and replicas: the same questions in under a minute
    --memory          instead: what the router remembers of 200,000 sessions, in bytes
    --policies A,B    --sweep A,B    --orders N    --jobs N    --json FILE    --png FILE

Every policy drives the same engines (`serving.simulator.engine`) with the same sessions: the next
turn comes when the answer before it has ended and the tools have run. Ours is the router's real
parser, identity and scheduler. Time is virtual and seeds are fixed: a run gives the same figures
on any machine. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import routing_memory
from benchmarks import routing_report as report
from benchmarks import routing_scenarios as scenarios
from benchmarks.harness.run import Run as Ran
from benchmarks.harness.run import conclude
from benchmarks.routing_scenarios import POLICIES, SCENARIOS, Result, Run, Scenario


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return read


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: there is no such file")
    return path


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=_file, action="append", default=[], metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--policies", type=_names(list(POLICIES)), default=list(POLICIES))
    parser.add_argument("--sweep", type=_names([s.name for s in SCENARIOS]), default=None)
    parser.add_argument("--orders", type=int, default=0, help="of the sessions, in each scenario")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--png", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace, console: Console) -> list[Scenario]:
    """The scenarios to play, as large as was asked."""
    found = [s for s in SCENARIOS if options.sweep is None or s.name in options.sweep]
    if scenarios.open_trace(tuple(options.traces)) is None and any(s.load == "open" for s in found):
        console.print("open: left out; it needs --traces with a file of requests with timestamps")
        found = [s for s in found if s.load != "open"]
    if options.quick:
        found = [scenarios.quick(s) for s in found]
    if options.orders:
        found = [replace(s, orders=options.orders) for s in found]
    return found


def play_all(runs: Sequence[Run], jobs: int, console: Console) -> list[Result]:
    """All runs, in several processes; results in the runs' order."""
    done: dict[Run, Result] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
        ProcessPoolExecutor(max(1, jobs), mp_context=get_context("spawn")) as pool,
    ):
        task = progress.add_task("runs", total=len(runs))
        for future in as_completed([pool.submit(scenarios.play, run) for run in runs]):
            result = future.result()
            done[result.run] = result
            shown = f"{result.run.scenario.name} {result.run.policy}"
            progress.update(task, advance=1, description=f"{shown:<32}")
    return [done[run] for run in runs]


def memory(options: argparse.Namespace, console: Console, ran: Ran) -> int:
    """`--memory`: grows to a capacity, and no further."""
    with Progress(console=console) as progress:
        task = progress.add_task("sessions")

        def told(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        found = routing_memory.measure(40_000 if options.quick else 0, told)
    for reading in found.readings:
        console.print(
            f"{reading.sessions:>9,} sessions  {reading.grown_bytes / 2 / 2**20:7.1f} MiB a front "
            f"door  {reading.bytes_per_session:7.0f} bytes each",
            highlight=False,
        )
    bars = [found.bar()]
    if options.json:
        ran.write(options.json, found, bars, "memory")
    return conclude(console, bars)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console, ran = Console(width=150), Ran("routing", options)
    if options.memory:
        return memory(options, console, ran)
    played = chosen(options, console)
    traces = tuple(options.traces)
    runs = [
        Run(scenario, policy, order, traces, options.quick)
        for scenario in played
        for policy in options.policies
        for order in range(1, scenario.orders + 1)
    ]
    started_s = time.perf_counter()
    found = report.rows(play_all(runs, options.jobs, console))
    for scenario in played:
        console.print(report.table(scenario, [r for r in found if r.scenario == scenario.name]))
    told = report.bars(found)
    took_s = time.perf_counter() - started_s
    console.print(f"{len(runs)} runs in {took_s:.0f} s", highlight=False)
    setup = {
        "traces": [path.name for path in traces] or ["synthetic"],
        "quick": options.quick,
        "prefill_tokens_per_s": scenarios.PREFILL_TOKENS_PER_S,
        "decode_tokens_per_s": scenarios.DECODE_TOKENS_PER_S,
        "context_tokens": scenarios.CONTEXT_TOKENS,
        "most_think_s": scenarios.MOST_THINK_S,
        "scenarios": {s.name: s.title() for s in played},
    }
    if options.json:
        ran.write(options.json, {"setup": setup, "rows": found}, told)
    if options.png:
        report.picture(found, played, options.png)
    return conclude(console, told)


if __name__ == "__main__":
    sys.exit(main())
