"""How many agents N GPUs serve, and what breaks first: `python -m benchmarks.capacity`.

First formulas (capacity_model says each of them with its assumption): from what was measured of an
engine and of a front door, and from what agents ask, so many live agents, tasks a day and dollars a
task under an objective for the first token; which resource binds; and what a lower hit rate does.
Then a simulation: the router's real code before simulated engines, in virtual time, from 1 to 1,000
replicas: its CPU a turn, its memory, its hits. The formulas are held against it where both run.

    --rates NAME|FILE     benchmarks/rates/NAME.json, or a file of one's own; given instead of its
                          figures: --prefill, --cached, --decode 1=60,8=400, --kv-tokens
    --traces FILE         recorded agents in place of made-up ones (coding agents, or, where the
                          context is below 60,000 tokens, short tasks)
    --ttft-s S --share P  the objective: so many of all turns have their first token in so long
    --replicas N ...      clusters;  --usd-per-hour X  of one replica (default: prices/hours)
    --no-simulation       the formulas alone, in seconds
    --quick               about a minute: up to 100 replicas
    --parts P ...         of the simulation: checks calm scarce tasks (capacity_sweep says which);
                          whole it takes hours, most of them for the scarce thousand
    --largest N           replicas;  --tasks N  that pass through the last fleet

Writes OUT/capacity.json and OUT/capacity.png. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from benchmarks import capacity_rates, capacity_show, capacity_sweep, cost_prices
from benchmarks.capacity_demand import Demand, demand
from benchmarks.capacity_fleet import BLOCK_TOKENS, small_agents
from benchmarks.capacity_model import Goal, Model
from benchmarks.capacity_rates import Rates
from benchmarks.capacity_show import Answer, Lower
from benchmarks.capacity_sweep import PARTS, SIZES, Wanted
from benchmarks.harness.run import Run, conclude, out_folder
from benchmarks.harness.show import console as console_of
from benchmarks.routing_scenarios import MOST_THINK_S
from benchmarks.routing_synthetic import synthetic
from benchmarks.routing_workload import Workload, agent_sessions, is_open
from serving.errors import ConfigError, WarmloopError

BROKEN = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Shares of turns that find nothing of their own: the sensitivity."""
SYNTHETIC_TASKS, SHORT_TASKS = 200, 1500
CODING_TOKENS = 60_000
"""Of context, which coding agents need; for less, the tasks are short ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console, run = console_of(150), Run("capacity", options)
    try:
        rates = _rates(options)
        goal = Goal(options.ttft_s, options.share)
        asked = demand(_workload(options, rates))
        answer = answered(asked, rates, goal, options)
        options.out.mkdir(parents=True, exist_ok=True)
    except WarmloopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    capacity_show.formulas(console, answer)
    found = capacity_sweep.Swept()
    if not options.no_simulation:
        found = capacity_sweep.sweep(
            goal,
            Wanted(options.parts, options.quick, options.largest, options.tasks),
            console,
        )
        capacity_show.simulation(console, found)
    bars = found.bars()
    run.write(options.out / "capacity.json", capacity_show.figures(answer, found), bars)
    capacity_show.draw(answer, found, options.out / "capacity.png")
    return conclude(console, bars, options.out)


def answered(asked: Demand, rates: Rates, goal: Goal, options: argparse.Namespace) -> Answer:
    """All that the formulas say."""
    name, usd = _price(options)
    model = Model(asked, rates, goal)
    clusters = [model.capacity(n, usd, options.doors) for n in options.replicas]
    lower = [_lower(Model(asked, rates, goal, share), share, usd) for share in BROKEN]
    return Answer(rates, goal, asked, name, usd, clusters, lower)


def _lower(model: Model, broken: float, usd: float) -> Lower:
    busiest = model.busiest()
    usd_a_task = 24 * usd / model.tasks_a_day(busiest.turns_per_s)
    return Lower(broken, model.capacity(1, usd), busiest, usd_a_task)


def _rates(options: argparse.Namespace) -> Rates:
    """The file's, with what was given in place of its figures. Raises ConfigError."""
    rates = capacity_rates.read(options.rates)
    names = ("prefill", "cached", "decode", "kv_tokens")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if not given:
        return rates
    says = {"measured": False, "source": f"{', '.join(given)} GIVEN by options; {rates.source}"}
    try:
        return Rates.model_validate({**rates.model_dump(), **given, **says})
    except ValidationError as error:
        first = error.errors()[0]
        flag = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{flag}: {first['msg']} (got {first['input']})") from None


def _workload(options: argparse.Namespace, rates: Rates) -> Workload:
    """Agents that the context of these engines takes. Raises ConfigError."""
    if options.traces is None and rates.context_tokens < CODING_TOKENS:
        return Workload("short tasks", tuple(small_agents(SHORT_TASKS)), BLOCK_TOKENS)
    if options.traces is None:
        return synthetic(SYNTHETIC_TASKS, seed=1, context_tokens=rates.context_tokens)
    if is_open(options.traces):
        raise ConfigError(
            f"--traces {options.traces}: has requests without sessions, and agents have sessions; "
            "take a trace of coding agents (callanjfox/kv-cache-tester's format)"
        )
    found = agent_sessions(
        options.traces, context_tokens=rates.context_tokens, most_think_s=MOST_THINK_S
    )
    if not found.sessions:
        raise ConfigError(f"--traces {options.traces}: no session fits {rates.context_tokens:,}")
    return found


def _price(options: argparse.Namespace) -> tuple[str, float]:
    if options.usd_per_hour is not None:
        return "--usd-per-hour", options.usd_per_hour
    listed = cost_prices.hours()
    return f"{listed.usual}, {listed.date}", listed.usd_per_hour[listed.usual]


def _decode(text: str) -> dict[int, float]:
    """`1=60,8=400`: sequences, tokens a second of all of them."""
    try:
        pairs = [each.split("=") for each in text.split(",")]
        return {int(batch): float(rate) for batch, rate in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not like 1=60,8=400 (sequences=tokens/s of all of them)"
        ) from None


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rates", default="h100-assumed", metavar="NAME|FILE")
    parser.add_argument("--prefill", type=float, metavar="TOKENS/S")
    parser.add_argument("--cached", type=float, metavar="TOKENS/S")
    parser.add_argument("--decode", type=_decode, metavar="N=TOKENS/S,...")
    parser.add_argument("--kv-tokens", type=int)
    parser.add_argument("--traces", type=Path, metavar="FILE")
    parser.add_argument("--ttft-s", type=float, default=2.0)
    parser.add_argument("--share", type=float, default=0.9)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--doors", type=int, default=1, help="front doors of a cluster")
    parser.add_argument("--usd-per-hour", type=float)
    parser.add_argument("--no-simulation", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="replicas simulated")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--out", type=out_folder, default=Path("out"), help="for JSON and PNG")
    options = parser.parse_args(arguments)
    for name in ("ttft_s", "doors", "largest", "tasks", "usd_per_hour"):
        given = getattr(options, name)
        if given is not None and not given > 0:
            parser.error(f"--{name.replace('_', '-')}: more than 0 (got {given})")
    if not 0 < options.share < 1:
        parser.error(f"--share: between 0 and 1 (got {options.share})")
    if least := [each for each in options.replicas if each < 1]:
        parser.error(f"--replicas: at least 1 each (got {least[0]})")
    if options.traces is not None and not options.traces.is_file():
        parser.error(f"--traces {options.traces}: there is no such file")
    return options


if __name__ == "__main__":
    sys.exit(main())
