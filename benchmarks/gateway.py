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
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from benchmarks import gateway_kill as kill
from benchmarks import gateway_plot as plot
from benchmarks import gateway_speed as speed
from benchmarks import gateway_stay as stay
from benchmarks.gateway_doors import LAUNCHERS, OURS, YARDSTICK, Door, child, door, missing
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude, out_folder
from benchmarks.harness.show import console as console_of
from benchmarks.harness.show import table


def run_speed(
    console: Console, names: Sequence[str], options: argparse.Namespace, run: Run
) -> list[Bar]:
    rounds, out = options.rounds, options.out
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
    ours, direct = found[OURS], found["direct"]

    def ratio(field: str, other: str) -> float | None:
        them = found.get(other)
        return getattr(ours, field) / getattr(them, field) if them is not None else None

    bars = [
        Bar("whole answer, p50, ÷ vllm-router's", ratio("answer_p50_us", "vllm-router"), 1.1),
        Bar("requests/s, 64 clients, ÷ smg's", ratio("requests_per_s", "smg"), 0.9, at_most=False),
        Bar("SSE first byte ÷ vllm-router's", ratio("first_byte_us", "vllm-router"), 1.1),
        Bar("SSE whole stream ÷ vllm-router's", ratio("stream_us", "vllm-router"), 1.1),
        Bar("SSE streams that stalled 40 ms, beyond direct's", ours.stalls - direct.stalls, 0),
    ]
    run.write(out / "gateway-speed.json", found, bars, "speed")
    return bars


def _print_speed(console: Console, found: Mapping[str, speed.Figures]) -> None:
    rows = []
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
        rows.append((label, *("" if v is None else f"{v:,.0f}{unit}" for v in values)))
    title = f"Forwarding, {speed.BODY_BYTES // 1000} KB requests"
    console.print(table(title, ("what", *found), rows))


def run_shared(
    console: Console, names: Sequence[str], options: argparse.Namespace, run: Run
) -> list[Bar]:
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
    rows = []
    for name, each in found.items():
        spread = " ".join(str(n) for n in each.turns_by_engine.values())
        rows.append((name, f"{each.stayed:.1%}", f"{each.busiest_over_mean:.2f}", spread))
    title = f"{stay.CONVERSATIONS} conversations, one 8 KB system prompt, no ids"
    columns = ("router", "turns that stay", "busiest ÷ mean", "turns by engine")
    console.print(table(title, columns, rows))
    ours = found[OURS]
    bars = [
        Bar("share of turns that stay", ours.stayed, 1.0, at_most=False),
        Bar("busiest ÷ mean", ours.busiest_over_mean, 1.2),
    ]
    run.write(options.out / "gateway-shared.json", found, bars, "shared")
    return bars


def run_killed(
    console: Console, names: Sequence[str], options: argparse.Namespace, run: Run
) -> list[Bar]:
    found: dict[str, kill.Killed] = {}
    for name in names:
        with ExitStack() as stack:
            log = stack.enter_context(tempfile.TemporaryFile())
            replicas = stack.enter_context(kill.engines(log))
            before = stack.enter_context(door(name, [*replicas], log))
            found[name] = uvloop.run(kill.measure(before, replicas))
    title = f"{kill.STREAMS} streams, the busiest of {kill.ENGINES} engines killed"
    rows = [
        (name, kind, str(each.on_the_killed), *map(str, counts.values()))
        for name, each in found.items()
        for kind, counts in each.outcomes.items()
    ]
    console.print(table(title, ("router", "kind", "on it", *kill.OUTCOMES), rows, left=2))
    plain, grammar = (found[OURS].outcomes[kind] for kind in kill.KINDS)
    unsaid = sum(each[k] for each in (plain, grammar) for k in ("cut", "wrong", "refused"))
    bars = [
        Bar("streams that hang", plain["hung"] + grammar["hung"], 0),
        Bar("streams that end without a word, wrong or refused", unsaid, 0),
        Bar("plain-text streams that do not complete", plain["error"], 0),
    ]
    run.write(options.out / "gateway-killed.json", found, bars, "killed")
    return bars


MODES = {"speed": run_speed, "shared": run_shared, "killed": run_killed}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", metavar="speed|shared|killed", help="default: all")
    parser.add_argument("--rounds", type=int, default=10, help="of speed; more are steadier")
    parser.add_argument("--out", type=out_folder, default=Path("out"), help="for JSON and PNG")
    options = parser.parse_args()
    if unknown := set(options.what) - {*MODES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; valid: {', '.join(MODES)}")
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds}; at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    console = console_of(120)
    run = Run("gateway", options)
    absent = missing()
    if absent:
        console.print(
            f"not installed here, and left out: {', '.join(absent)} (scripts/setup routers)"
        )
    names = [OURS, *(name for name in LAUNCHERS if name not in absent)]
    bars: list[Bar] = []
    for what in options.what or MODES:
        bars += MODES[what](console, names, options, run)
    return conclude(console, bars, options.out)


if __name__ == "__main__":
    sys.exit(main())
