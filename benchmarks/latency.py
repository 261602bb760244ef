"""Where the time of a turn goes: `python -m benchmarks.latency`.

    queue, prefill, decode, the engine's server, tool, orchestration, journal, router, network

p50 and p99 of each, warm and cold, with 1, 8 and 32 sessions at once; time to the first event and
to the first text; and what the stack adds to the same turns of the bare engine: paired, by turns
in one run, as a median with an interval. The parts of a turn add up to what its client waited,
with an explicit rest (latency_budget says what each one is).

    --simulated           an engine without a model, in under a minute; default: the 135M on CPU
    --sessions N ...      how many at once; the first one also plays cold turns and turns with tools
    --rounds N            of the first; the others have fewer, so that each has some thirty turns
    --again N             as many times the first one's warm turns, each time with new sessions:
                          more of them make the interval narrower
    --head N              how long a prompt begins: so many times 45 tokens
    --out FOLDER          JSON and PNG; the journal's file lies there too while it runs

It ends with 1 when the stack adds more than 5 % to a warm turn of one session on a real engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from rich.console import Console
from rich.progress import Progress

from benchmarks.engines import engine, model_of
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import ROOT, Run, conclude, out_folder
from benchmarks.harness.show import console as console_of
from benchmarks.latency_figures import (
    Case,
    Compared,
    Journal,
    cases,
    compared,
    figures,
    journal,
)
from benchmarks.latency_load import Load
from benchmarks.latency_show import draw, tables
from benchmarks.latency_stack import MODEL, stack
from serving.config.model import ModelConfig

LIMIT = 0.05
HEAD_TOKENS, TURN_TOKENS = 48, 80
"""At most, of one repetition at a prompt's head, and of a turn with its answer."""
STACK = ROOT / "configs" / "cpu-small.yaml"
"""Whose `small` is the 135M."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=32)
    parser.add_argument("--again", type=int, default=2)
    parser.add_argument("--head", type=int, default=20)
    parser.add_argument("--out", type=out_folder, default=Path("out"))
    options = parser.parse_args(arguments)
    for name in ("rounds", "again", "head"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: at least 1 (got {getattr(options, name)})")
    if least := [each for each in options.sessions if each < 1]:
        parser.error(f"--sessions: at least 1 each (got {least[0]})")
    model = _model(simulated=options.simulated, sessions=max(options.sessions))
    longest = options.head * HEAD_TOKENS + (options.rounds + 1) * TURN_TOKENS
    if longest > model.context_tokens:
        parser.error(
            f"--rounds {options.rounds} --head {options.head}: a session would have some {longest} "
            f"tokens, and the context is {model.context_tokens}; choose fewer"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    console, run = console_of(120), Run("latency", options)
    load = uvloop.run(measured(options, model, console))
    found = {case: figures(case, turns) for case, turns in cases(load.turns).items()}
    beside, journals = pairs(load), journals_of(load)
    tables(console, found, journals, beside)
    bars = judged(beside, options.sessions[0], simulated=options.simulated)
    report = {
        "cases": [{**asdict(case), **asdict(each)} for case, each in found.items()],
        "compared": [{**asdict(case), **asdict(each)} for case, each in beside.items()],
        "journal": journals,
        "turns": load.turns,
    }
    run.write(options.out / "latency.json", report, bars)
    draw(found, options.out / "latency.png", f"A turn's time, {_engine(options)}")
    return conclude(console, bars, options.out)


async def measured(options: argparse.Namespace, model: ModelConfig, console: Console) -> Load:
    """Start it all, and ask."""
    first, *others = options.sessions
    with TemporaryDirectory(prefix="latency-", dir=options.out) as folder:
        async with (
            engine(MODEL, model) as url,
            stack(url, model, Path(folder), options.head) as running,
        ):
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("asking", total=None)
                load = Load(running, lambda: progress.advance(task))
                few = max(2, options.rounds // 3)
                await load.pairs("cold", first, few)
                await load.tools(few)
                for time in range(options.again):
                    after = time * (options.rounds + 1)
                    await load.pairs("warm", first, options.rounds, after)
                for sessions in others:
                    await load.pairs("warm", sessions, max(2, options.rounds // sessions))
    return load


def pairs(load: Load) -> dict[Case, Compared]:
    """Where both arms have asked the same."""
    found = cases(load.turns)
    beside = {}
    for case, turns in found.items():
        bare = found.get(Case("bare", case.kind, case.sessions))
        if case.arm == "stack" and bare:
            beside[case] = compared(turns, bare)
    return beside


def journals_of(load: Load) -> dict[str, Journal]:
    """By kind and sessions, of the stack's responses."""
    found: dict[str, Journal] = {}
    for clock in load.clocks:
        name = f"{clock.kind}, {clock.sessions}"
        if name not in found:
            of = [
                turn
                for turn in load.turns
                if (turn.arm, turn.kind, turn.sessions) == ("stack", clock.kind, clock.sessions)
            ]
            rounds = [
                each
                for each in load.clocks
                if (each.kind, each.sessions) == (clock.kind, clock.sessions)
            ]
            found[name] = journal(of, rounds)
    return found


def judged(beside: Mapping[Case, Compared], sessions: int, *, simulated: bool) -> list[Bar]:
    """Only of a real engine: a simulated one takes as long as it is told to."""
    if simulated:
        return []
    share = beside[Case("stack", "warm", sessions)].share
    interval = f"{share.low:.3f} to {share.high:.3f}"
    what = f"what the stack adds to a warm turn, {sessions} at once ({interval})"
    return [Bar(what, share.value, LIMIT)]


def _model(*, simulated: bool, sessions: int) -> ModelConfig:
    """An engine that computes all of them at once, and says how long each took."""
    running, says_times = max(4, sessions), ("--enable-per-request-metrics",)
    if simulated:
        speed = {"prefill_tokens_per_s": 20_000.0, "decode_tokens_per_s": 400.0}
        return ModelConfig.model_validate(
            {
                "engine": "simulated",
                "max_running": running,
                "simulator": speed,
                "extra_args": says_times,
            }
        )
    return model_of(STACK, MODEL).model_copy(
        update={
            "max_running": running,
            "kv_cache_gib": 1.0,
            "env": {"VLLM_SERVER_DEV_MODE": "1"},  # for /reset_prefix_cache
            "extra_args": says_times,
        }
    )


def _engine(options: argparse.Namespace) -> str:
    return "a simulated engine" if options.simulated else "SmolLM2-135M, vLLM on CPU"


if __name__ == "__main__":
    sys.exit(main())
