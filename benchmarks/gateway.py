"""Our front door beside other routers: `python -m benchmarks.gateway [speed|shared|killed ...]`.

    speed    what a request costs: latency, requests a second, CPU, streams     gateway_speed
    shared   conversations with one system prompt and no id: do they stay?      gateway_stay
    killed   one of four engines is killed under 320 streams                    gateway_kill

All doors are asked with the same bytes by the same client, before the same engines, in one run.
Beside the routers stand the engine itself (`direct`) and a yardstick, an aiohttp proxy that decides
nothing. Compare columns of one run; absolute figures hold for a quiet machine only. Each mode
prints a table and one line for each bar, and writes JSON (and, for speed, a picture) to `--out`.
It ends with 1 when a bar is missed. Routers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import gateway_kill as kill
from benchmarks import gateway_plot as plot
from benchmarks import gateway_speed as speed
from benchmarks import gateway_stay as stay
from benchmarks.gateway_doors import LAUNCHERS, OURS, YARDSTICK, Door, child, door, missing


@dataclass(frozen=True)
class Bar:
    """A figure of ours held against a limit; `value` is None where nobody stands beside us."""

    what: str
    value: float | None
    limit: float
    at_most: bool = True

    @property
    def missed(self) -> bool:
        if self.value is None:
            return False
        return self.value > self.limit if self.at_most else self.value < self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        if self.value is None:
            return f"bar: {self.what} {sign} {self.limit:g}: not judged, the other is not installed"
        said = "MISSED" if self.missed else "reached"
        return f"bar: {self.what} {sign} {self.limit:g}: {self.value:.2f} {said}"


def run_speed(console: Console, names: Sequence[str], rounds: int, out: Path) -> list[Bar]:
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        port, _ = stack.enter_context(child(log, "benchmarks.gateway_engine"))
        urls = [f"http://127.0.0.1:{port}"]
        doors = [Door("direct", port)]
        doors += [stack.enter_context(door(name, urls, log)) for name in (YARDSTICK, *names)]
        progress = stack.enter_context(Progress(console=console, transient=True))
        task = progress.add_task("asking", total=len(doors) * rounds)
        targets = [speed.Target(each) for each in doors]
        found = uvloop.run(speed.measure(targets, rounds, lambda: progress.advance(task)))
    _print_speed(console, found)
    plot.draw(found, out / "gateway-speed.png")
    _write(out / "gateway-speed.json", {name: asdict(each) for name, each in found.items()})
    ours, direct = found[OURS], found["direct"]

    def ratio(field: str, other: str) -> float | None:
        them = found.get(other)
        return getattr(ours, field) / getattr(them, field) if them is not None else None

    return [
        Bar("whole answer, p50, ÷ vllm-router's", ratio("answer_p50_us", "vllm-router"), 1.1),
        Bar("requests/s, 64 clients, ÷ smg's", ratio("requests_per_s", "smg"), 0.9, at_most=False),
        Bar("SSE first byte ÷ vllm-router's", ratio("first_byte_us", "vllm-router"), 1.1),
        Bar("SSE whole stream ÷ vllm-router's", ratio("stream_us", "vllm-router"), 1.1),
        Bar("SSE streams that stalled 40 ms, beyond direct's", ours.stalls - direct.stalls, 0),
    ]


def _print_speed(console: Console, found: Mapping[str, speed.Figures]) -> None:
    table = Table(title=f"Forwarding, {speed.BODY_BYTES // 1000} KB requests")
    for column in ("what", *found):
        table.add_column(column, justify="left" if column == "what" else "right")
    for label, field, unit in (
        ("whole answer, p50", "answer_p50_us", " µs"),
        ("whole answer, p99", "answer_p99_us", " µs"),
        ("SSE first byte, p50", "first_byte_us", " µs"),
        ("SSE whole stream, p50", "stream_us", " µs"),
        ("SSE longest gap, p50", "longest_gap_p50_us", " µs"),
        ("SSE longest gap, worst", "longest_gap_max_us", " µs"),
        ("SSE pieces of a stream", "pieces_p50", ""),
        ("SSE streams with a 40 ms stall", "stalls", ""),
        ("64 clients", "requests_per_s", "/s"),
        ("64 clients: CPU a request", "cpu_us", " µs"),
    ):
        values = [getattr(each, field) for each in found.values()]
        table.add_row(label, *("" if v is None else f"{v:,.0f}{unit}" for v in values))
    console.print(table)


def run_shared(console: Console, names: Sequence[str], out: Path) -> list[Bar]:
    found: dict[str, stay.Stay] = {}
    for name in names:  # fresh engines for each: what they have seen must not differ
        with ExitStack() as stack:
            log = stack.enter_context(tempfile.TemporaryFile())
            urls = []
            for i in range(stay.ENGINES):
                arguments = ("--name", f"engine-{i}", "--think-s", str(stay.THINK_S))
                port, _ = stack.enter_context(child(log, "benchmarks.gateway_engine", *arguments))
                urls.append(f"http://127.0.0.1:{port}")
            found[name] = uvloop.run(stay.measure(stack.enter_context(door(name, urls, log))))
    table = Table(title=f"{stay.CONVERSATIONS} conversations, one 8 KB system prompt, no ids")
    for column in ("router", "turns that stay", "busiest ÷ mean", "turns by engine"):
        table.add_column(column, justify="left" if column == "router" else "right")
    for name, each in found.items():
        spread = " ".join(str(n) for n in each.turns_by_engine.values())
        table.add_row(name, f"{each.stayed:.1%}", f"{each.busiest_over_mean:.2f}", spread)
    console.print(table)
    _write(out / "gateway-shared.json", {name: asdict(each) for name, each in found.items()})
    ours = found[OURS]
    return [
        Bar("share of turns that stay", ours.stayed, 1.0, at_most=False),
        Bar("busiest ÷ mean", ours.busiest_over_mean, 1.2),
    ]


def run_killed(console: Console, names: Sequence[str], out: Path) -> list[Bar]:
    found: dict[str, kill.Killed] = {}
    for name in names:
        with ExitStack() as stack:
            log = stack.enter_context(tempfile.TemporaryFile())
            replicas = stack.enter_context(kill.engines(log))
            before = stack.enter_context(door(name, [*replicas], log))
            found[name] = uvloop.run(kill.measure(before, replicas))
    table = Table(title=f"{kill.STREAMS} streams, the busiest of {kill.ENGINES} engines killed")
    for column in ("router", "on it", "kind", *kill.OUTCOMES):
        table.add_column(column, justify="left" if column in ("router", "kind") else "right")
    for name, each in found.items():
        for kind, counts in each.outcomes.items():
            table.add_row(name, str(each.on_the_killed), kind, *map(str, counts.values()))
    console.print(table)
    _write(out / "gateway-killed.json", {name: asdict(each) for name, each in found.items()})
    plain, grammar = (found[OURS].outcomes[kind] for kind in kill.KINDS)
    unsaid = sum(each[k] for each in (plain, grammar) for k in ("cut", "wrong", "refused"))
    return [
        Bar("streams that hang", plain["hung"] + grammar["hung"], 0),
        Bar("streams that end without a word, wrong or refused", unsaid, 0),
        Bar("plain-text streams that do not complete", plain["error"], 0),
    ]


def _write(path: Path, figures: Mapping[str, Any]) -> None:
    where = {"cpus": os.cpu_count(), "load_1m": os.getloadavg()[0]}
    path.write_text(json.dumps({**where, "doors": figures}, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = ("speed", "shared", "killed")
    parser.add_argument("what", nargs="*", metavar="speed|shared|killed", help="default: all")
    parser.add_argument("--rounds", type=int, default=10, help="of speed; more are steadier")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for JSON and PNG")
    options = parser.parse_args()
    if unknown := set(options.what) - {*modes}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; valid: {', '.join(modes)}")
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds}; at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    console.width = max(console.width, 120)  # of tables, also where no terminal says how wide it is
    absent = missing()
    if absent:
        console.print(
            f"not installed here, and left out: {', '.join(absent)} (scripts/setup routers)"
        )
    names = [OURS, *(name for name in LAUNCHERS if name not in absent)]
    bars: list[Bar] = []
    for what in options.what or modes:
        if what == "speed":
            bars += run_speed(console, names, options.rounds, options.out)
        elif what == "shared":
            bars += run_shared(console, names, options.out)
        else:
            bars += run_killed(console, names, options.out)
    for bar in bars:
        console.print(str(bar), highlight=False)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; files in {options.out}/")
    return 1 if any(bar.missed for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
