"""What a task costs, and what each way to save is worth: `python -m benchmarks.cost [--offline]`.

An agent of 15 turns with a long stable head, five ways in one run:

    naive                        the frontier model always, nothing cached
    + prefix cache               ... and its engine finds the prefix of the turn before
    + routing                    `auto`: the small model where it is good enough
    + tool-output compression    tools' results cut (`limits.tool_result_bytes`)
    + adapter                    the small model with a LoRA adapter for tools

Tokens (fresh, cached, output) become US dollars by price lists: hosted APIs as dated files
(prices/, or --prices FOLDER), and one's own machine by what it costs an hour and what its engines
do in a second. Bars: naive over the last way at least 5 under each list, and quality.

Default: two real models on this machine, tasks checked by code, one session at a time; minutes.
--offline: in seconds and without engines, from a trace of coding agents (--traces FILE), or made up
in its shape; the router's own code decides, but how good models are, and how fast, is ASSUMED.

Writes OUT/cost.json and OUT/cost.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import cost_live, cost_offline, cost_plot, cost_prices, cost_report, cost_workload
from benchmarks.cost_ledger import Account
from benchmarks.cost_prices import Machine, PriceList, Speed
from benchmarks.cost_report import Found
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude, out_folder
from benchmarks.harness.show import console as console_of
from serving.errors import ConfigError, WarmloopError
from serving.tables.base import Tier

FACTOR_BAR = 5.0
QUALITY_BAR = 0.95
LOST_BAR = 1
CPU_USD_PER_HOUR = 0.10
"""An example: no dated price list of CPU hours is here. No ratio depends on it."""
ASSUMED: Mapping[str, tuple[Mapping[Tier, float], Mapping[Tier, Speed]]] = {
    # The frontier has three quarters of the card, as in configs/single-gpu.yaml; fresh tokens of
    # the frontier as in benchmarks.routing.
    "gpu": (
        {"frontier": 0.75, "small": 0.25},
        {"frontier": Speed(10_000, 1_000_000, 2_000), "small": Speed(30_000, 3_000_000, 6_000)},
    ),
    "cpu": (
        {"frontier": 0.5, "small": 0.5},
        {"frontier": Speed(300, 3_000, 15), "small": Speed(1_170, 7_000, 50)},
    ),
}


def offline(options: argparse.Namespace, lists: Sequence[PriceList]) -> Found:
    """Without engines. Raises ConfigError for a trace that is none."""
    size = cost_workload.SIZES[options.profile]
    if options.traces:
        tasks = cost_workload.recorded(options.traces, size, options.tasks + options.lessons)
        lessons, tasks, head = tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :], 0
        source = f"{options.traces.name}: {len(tasks)} recorded tasks"
    else:
        tasks = cost_workload.synthetic(size, options.tasks, seed=1)
        lessons, head = cost_workload.synthetic(size, options.lessons, seed=2), size.head
        source = f"{len(tasks)} made-up tasks (no --traces FILE)"
    share, speed = ASSUMED[options.profile]
    machine = own_machine(options, share, speed, measured=False)
    play = cost_offline.Play(tasks, lessons, head, size.limit, speed)
    own = machine.price_list()
    accounts = [
        Account(own, cost_offline.five_ways(play, own), machine),
        *(Account(prices, cost_offline.five_ways(play, prices)) for prices in lists),
    ]
    quality = min(account.quality for account in accounts)
    bars = [Bar("right answers, of frontier always (floor)", quality, QUALITY_BAR, at_most=False)]
    return Found(source, machine, accounts, bars)


def live(options: argparse.Namespace, lists: Sequence[PriceList], console: Console) -> Found:
    """With two real engines."""
    wanted = cost_live.Wanted(
        options.profile, options.tasks, options.turns, options.rules, options.adapter
    )
    played = cost_live.run(wanted, console)
    machine = own_machine(options, played.share, played.speed, measured=True)
    accounts = [
        Account(machine.price_list(), played.ways, machine),
        *(Account(prices, played.ways) for prices in lists),
    ]
    bars = [Bar("checked answers lost, of frontier always", accounts[0].lost, LOST_BAR)]
    return Found(played.source, machine, accounts, bars, played.alone)


def own_machine(
    options: argparse.Namespace,
    share: Mapping[Tier, float],
    speed: Mapping[Tier, Speed],
    *,
    measured: bool,
) -> Machine:
    """What it costs an hour is an option, else a list's usual GPU."""
    if options.usd_per_hour:
        name, usd = "a machine of --usd-per-hour", options.usd_per_hour
    elif options.profile == "gpu":
        listed = cost_prices.hours()
        name, usd = f"{listed.usual} ({listed.date})", listed.usd_per_hour[listed.usual]
    else:
        name, usd = "two CPU cores at an example price", CPU_USD_PER_HOUR
    return Machine(name, usd, share, speed, measured)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console, run = console_of(130), Run("cost", options)
    try:
        lists = cost_prices.hosted(options.prices)
        if not lists:
            raise ConfigError(f"--prices {options.prices}: has no *.json; see benchmarks/prices")
        options.out.mkdir(parents=True, exist_ok=True)
        found = offline(options, lists) if options.offline else live(options, lists, console)
    except WarmloopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    breaks = cost_report.break_evens(found)
    cost_report.show(console, found, breaks)
    title = f"An agent of 15 turns, five ways: {found.source}"
    cost_plot.draw(found.accounts, breaks, found.machine, options.out / "cost.png", title)
    own, *hosted = (account.factor for account in found.accounts)
    bars = [
        Bar("naive ÷ last way, own machine's prices", own, FACTOR_BAR, at_most=False),
        Bar("naive ÷ last way, hosted prices, least", min(hosted), FACTOR_BAR, at_most=False),
        *found.bars,
    ]
    whole = cost_report.figures(found, breaks, steps=not options.offline)
    run.write(options.out / "cost.json", whole, bars)
    return conclude(console, bars, options.out)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--offline", action="store_true", help="without engines")
    parser.add_argument("--profile", choices=("cpu", "gpu"), help="default: cpu; offline: gpu")
    parser.add_argument("--traces", type=Path, metavar="FILE", help="offline: recorded agents")
    parser.add_argument("--tasks", type=int, help="default: 120 offline, 2 on engines")
    parser.add_argument(
        "--lessons", type=int, default=200, help="offline: tasks learnt from before"
    )
    parser.add_argument("--turns", type=int, default=cost_workload.TURNS, help="on engines")
    parser.add_argument("--rules", type=int, help="on engines: of the handbook, 20 tokens each")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="LoRA of the small model")
    parser.add_argument("--prices", type=Path, default=cost_prices.FOLDER, metavar="FOLDER")
    parser.add_argument("--usd-per-hour", type=float, help="of one's own machine")
    parser.add_argument("--out", type=out_folder, default=Path("out"), help="for JSON and PNG")
    options = parser.parse_args(arguments)
    options.profile = options.profile or ("gpu" if options.offline else "cpu")
    if options.tasks is None:
        options.tasks = 120 if options.offline else 2
    for name in ("tasks", "lessons", "turns", "rules"):
        given = getattr(options, name)
        if given is not None and given < 1:
            parser.error(f"--{name}: at least 1")
    if options.usd_per_hour is not None and not options.usd_per_hour > 0:
        parser.error("--usd-per-hour: more than 0")
    if options.traces and not options.offline:
        parser.error("--traces: needs --offline")
    return options


if __name__ == "__main__":
    sys.exit(main())
