"""An open loop of multi-turn sessions against any server: `python -m benchmarks.load --url URL`.

    --url URL            OpenAI-compatible, chat completions, streamed; ours or another's
    --rate R             sessions that begin each second, whatever the server does
    --traces FILE        a trace's sessions instead of synthetic ones (docs/measurements/load.md)
    --ttft-s, --latency-s   objectives: goodput counts the requests that met them
    --find-knee          raise the rate until the good share falls under --share, then bisect
    --outside vllm-bench FILE ... --ours FILE ...   reports of both harnesses beside each other

Latencies count from when a request was due. The client says how late it was itself, and where that
is more than --most-lag-s, or too few requests were counted, nothing is judged. Ends with 1 when a
bar is missed or nothing could be judged. Writes load.json and load.png to --out, or load-outside.*.

Sizes of the synthetic sessions are medians, in tokens, or in seconds for pauses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from benchmarks import load_arrivals as arrivals
from benchmarks import load_knee as knee
from benchmarks import load_options
from benchmarks import load_outside as outside
from benchmarks import load_report as report
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from benchmarks.harness.show import console as console_of
from benchmarks.load_client import Client, Target
from benchmarks.load_figures import Figures, Objectives, doubts, figures, lateness
from benchmarks.load_play import Asking, Played, Player
from benchmarks.load_workload import Shape, Synthetic, Workload, read

SAMPLED = 200
"""Sessions that are looked at to say how many turns one has."""


class NotAnswering(Exception):
    """The server cannot be measured; `str()` says why."""


async def only_model(client: Client, timeout_s: float) -> str:
    """The first model that the server lists. Raises NotAnswering."""
    said = bytearray()
    request = client.request("GET", "/models")
    made = await client.send(request, lambda _, data: said.extend(data), timeout_s)
    try:
        return str(json.loads(said)["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        why = made.why or made.error or f"HTTP {made.status}: {bytes(said[:200])!r}"
        raise NotAnswering(
            f"it lists no model ({why}); is --url right? --model names one"
        ) from None


class Bench:
    """Runs of one workload against one server."""

    def __init__(self, options: argparse.Namespace, workload: Workload, console: Console) -> None:
        self.options = options
        self.workload = workload
        self.console = console
        self.objectives = Objectives(options.ttft_s, options.latency_s)
        self.runs: list[dict[str, Any]] = []
        key = os.environ[options.api_key_env] if options.api_key_env else ""
        self._client = Client(Target.of(options.url), key)
        drawn = [workload.script(number).asks for number in range(SAMPLED)]
        self.turns = statistics.fmean(len(asks) for asks in drawn)
        # As long as a session lives at least: before that, the load is still growing.
        pauses_s = statistics.fmean(sum(ask.pause_s for ask in asks) for asks in drawn)
        told_s = options.warm_up_s
        self.warm_up_s: float = min(pauses_s, options.seconds) if told_s is None else told_s

    async def one(self, rate: float | None, counted_s: float) -> tuple[Played, Figures]:
        """One run: the warm-up, and what is counted. Each has texts of its own, so that it finds no
        earlier one's in a cache."""
        options = self.options
        model = options.model or await only_model(self._client, options.timeout_s)
        asking = Asking(
            model, options.body, options.session_header, options.timeout_s, options.most_open
        )
        seed, seconds = options.seed + len(self.runs), self.warm_up_s + counted_s
        player = Player(self._client, self.workload, asking, seconds, f"{seed:x}")
        with self.console.status("", refresh_per_second=2) as line:
            played = await player.run(self._arrivals(rate, seconds, seed), _watch(line.update))
        found = figures(played, self.objectives, self.warm_up_s)
        said = doubts(found, options.most_lag_s)
        self.runs.append(
            {
                "rate": rate,
                "seed": seed,
                "warm_up_s": self.warm_up_s,
                "figures": found,
                "doubts": said,
                "said": played.said,
            }
        )
        return played, found

    def _arrivals(self, rate: float | None, seconds: float, seed: int) -> list[float]:
        kind = self.options.arrivals
        if kind == arrivals.TRACE:
            return arrivals.as_recorded(self.workload.starts_s, rate, seconds)
        assert rate is not None
        if kind == arrivals.EVEN:
            return arrivals.even(rate, seconds)
        return arrivals.poisson(rate, seconds, seed)

    async def search(self) -> tuple[knee.Bracket, list[tuple[float, Figures]], list[str]]:
        """The knee, the steps, and why it could not be found, if so."""
        options, steps = self.options, list[tuple[float, Figures]]()
        began_s, tries, why = time.monotonic(), list[knee.Try](), list[str]()
        while (rate := knee.next_rate(tries, options.share, options.rate)) is not None:
            seconds = knee.step_s(
                rate,
                self.turns,
                least_s=options.seconds,
                least_requests=options.step_requests,
            )
            needed_s = self.warm_up_s + seconds
            left_s = options.total_s - (time.monotonic() - began_s)
            if needed_s > left_s:
                said = f"the next step needs {needed_s:.0f} s, {left_s:.0f} are left (--total-s)"
                why.append(said)
                break
            _, found = await self.one(rate, seconds)
            steps.append((rate, found))
            self.console.print(
                f"{rate:.4g} sessions/s for {seconds:.0f} s: {found.good_share:.1%} good",
                highlight=False,
            )
            why = lateness(found, options.most_lag_s)
            if why:
                break
            tries.append(knee.Try(rate, found.good_share))
        found_bracket = knee.bracket(tries, options.share)
        if not why and not found_bracket.found:
            why = [f"{len(tries)} rates were not enough; begin nearer to it (--rate)"]
        return found_bracket, steps, why

    async def close(self) -> None:
        await self._client.close()


def _watch(show: Callable[[str], None]) -> Callable[[Played, float], None]:
    def watch(played: Played, at_s: float) -> None:
        show(
            f"{at_s:.0f} of {played.seconds:.0f} s: {played.begun} sessions, {len(played.sent)} "
            f"answers, {played.open} open, {played.failed} errors"
        )

    return watch


async def single(bench: Bench) -> list[Bar]:
    options, console = bench.options, bench.console
    played, found = await bench.one(options.rate, options.seconds)
    console.print(report.figures_table(found, f"{bench.workload.name}, {options.arrivals}"))
    for line in report.summary(found, bench.objectives):
        console.print(line, highlight=False)
    for kind, text in played.said.items():
        if text:
            console.print(f"{kind}: {text[:300]!r}", highlight=False, markup=False)
    report.draw_run(played, bench.objectives, bench.warm_up_s, options.out / "load.png")
    if options.events:
        report.write_events(played, options.events)
    if said := bench.runs[-1]["doubts"]:
        _not_judged(console, said)
        return [Bar("runs that can be judged", 0, 1, at_most=False)]
    if bench.objectives == Objectives():
        return []
    what = f"share of good requests ({bench.objectives})"
    return [Bar(what, found.good_share, options.share, at_most=False)]


async def searched(bench: Bench) -> tuple[knee.Bracket, list[Bar]]:
    options, console = bench.options, bench.console
    found, steps, why = await bench.search()
    console.print(report.steps_table(steps, options.share))
    said = f"knee: {found} sessions/s of {bench.turns:.3g} requests"
    console.print(said, highlight=False)
    out = options.out / "load.png"
    report.draw_search(steps, options.share, found, bench.objectives, out)
    if why:
        _not_judged(console, why)
    return found, [Bar("knees found", float(not why), 1, at_most=False)]


def _not_judged(console: Console, why: Sequence[str]) -> None:
    for each in why:
        console.print(f"NOT JUDGED: {each}", style="bold", highlight=False)


async def measured(options: argparse.Namespace, console: Console) -> tuple[Any, list[Bar]]:
    bench = Bench(options, _workload(options), console)
    try:
        if options.find_knee:
            found, bars = await searched(bench)
            return {"runs": bench.runs, "knee": found}, bars
        return {"runs": bench.runs, "knee": None}, await single(bench)
    finally:
        await bench.close()


def _workload(options: argparse.Namespace) -> Workload:
    if options.traces:
        return read(
            options.traces,
            context_tokens=options.context_tokens,
            most_think_s=options.most_think_s,
            scale=options.scale,
        )
    shape = Shape(**{field.name: getattr(options, field.name) for field in fields(Shape)})
    return Synthetic(shape, options.seed)


def compared(options: argparse.Namespace, console: Console) -> tuple[Any, list[Bar]]:
    harness, *files = options.outside
    mine = options.ours or [options.out / "load.json"]
    lines = outside.compare(
        [outside.ours(path) for path in mine], [outside.vllm_bench(Path(f)) for f in files]
    )
    console.print(report.outside_table(lines, harness))
    report.draw_outside(lines, harness, options.out / "load-outside.png")
    for line in outside.other_load(lines):
        console.print(line, highlight=False)
    return {"harness": harness, "lines": lines}, outside.bars(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser, options = load_options.read(__doc__ or "", arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    console, run = console_of(110), Run("load", options)
    bars: list[Bar] = []
    try:
        if options.url:
            found, bars = uvloop.run(measured(options, console))
            run.write(options.out / "load.json", found, bars)
        if options.outside:
            found, agree = compared(options, console)
            run.write(options.out / "load-outside.json", found, agree, "outside")
            bars = [*bars, *agree]
    except (ValueError, NotAnswering) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return conclude(console, bars, options.out)


if __name__ == "__main__":
    sys.exit(main())
