"""Is something broken that costs time? `python -m benchmarks.guard`. Ratios, for noisy machines:

    warm ÷ cold     time to first token of a session's second turn ÷ its first one's, through our
                    front door over four simulated engines that take their time to prefill: a turn
                    that goes to another engine, or whose prefix changed, is as slow as a cold one
    ours ÷ bare     CPU of a durable step (worker, journal, fsync) ÷ of the same loop with neither
    ours ÷ direct   CPU of a request through our front door ÷ through a proxy that decides nothing

Each is measured in pairs, by turns, and judged by the median of the pairs' ratios. The limits are
generous: they are for what breaks, not for what becomes a little slower; that is what the other
benchmarks are for. Under a minute. It ends with 1 when a limit is passed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import IO

import uvloop
from rich.console import Console

from benchmarks import gateway_client as clients
from benchmarks.gateway_doors import OURS, YARDSTICK, Door, child, door
from benchmarks.gateway_engine import MODEL
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run
from benchmarks.harness.show import table
from benchmarks.harness.stats import Interval, by_turns, paired
from benchmarks.load_stream import Reader
from benchmarks.orchestrator_step import CASES
from serving.engines.ports import free_port

ENGINES = 4
PREFILL_TOKENS_PER_S = 8000
PROMPT_BYTES = 9000
SESSIONS = 12
LOOP_SESSIONS, LOOP_STEPS, LOOP_ROUNDS = 60, 15, 7
REQUESTS, REQUEST_BYTES, REQUEST_ROUNDS = 700, 20_000, 7


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    console, run = Console(), Run("guard", options)
    found: dict[str, Interval] = {}
    bars: list[Bar] = []
    for name, about, measure, limit in CHECKS:
        began = time.monotonic()
        found[name] = measure()
        bars.append(Bar(f"{name}, {about}", found[name].value, limit))
        console.print(f"{name}: {time.monotonic() - began:.0f} s", highlight=False, style="dim")
    rows = [
        (bar.what, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}", f"{bar.limit:g}")
        for bar, each in zip(bars, found.values(), strict=True)
    ]
    console.print(table("Guard", ("what", "median", "95 %", "at most"), rows))
    for bar in bars:
        console.print(str(bar), highlight=False)
    if options.json:
        run.write(options.json, found, bars)
    return 1 if any(bar.missed for bar in bars) else 0


def warm_over_cold() -> Interval:
    """Of each session its second turn's time to first token ÷ its first one's."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        urls = [stack.enter_context(_simulated(log)) for _ in range(ENGINES)]
        ours = stack.enter_context(door(OURS, urls, log))
        _wait_for_all(ours)
        return uvloop.run(_sessions(ours))


async def _sessions(ours: Door) -> Interval:
    client = await clients.connect(ours.port)

    async def turn(messages: list[dict[str, str]]) -> clients.Timing:
        timing = await client.request(clients.chat_request(ours.model, messages, stream=True))
        if timing.status != 200:
            raise SystemExit(f"the front door answered {timing.status}: {timing.body[:300]!r}")
        return timing

    cold, warm = [], []
    for number in range(SESSIONS):
        messages = clients.conversation(number, PROMPT_BYTES)
        messages[0]["content"] = f"You are agent {number}. " + messages[0]["content"]
        first = await turn(messages)
        messages += [
            {"role": "assistant", "content": _said(first.body)},
            {"role": "user", "content": "And then?"},
        ]
        cold.append(first.first_byte_s)
        warm.append((await turn(messages)).first_byte_s)
    client.close()
    return paired(warm, cold)


def _said(stream: bytes) -> str:
    """The text of a streamed answer."""
    reader = Reader()
    reader.feed(0.0, stream)
    return reader.text


@contextmanager
def _simulated(log: IO[bytes]) -> Iterator[str]:
    """The URL of a simulated engine that is being started."""
    port = free_port()
    argv = [sys.executable, "-m", "serving.simulator", "--port", str(port), "--model", MODEL]
    argv += ["--prefill-tokens-per-s", str(PREFILL_TOKENS_PER_S), "--decode-tokens-per-s", "1000"]
    with subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for_all(ours: Door, patience_s: float = 60.0) -> None:
    """The door answers as soon as one engine does; with one alone no turn could go astray."""
    deadline = time.monotonic() + patience_s
    while True:
        with closing(HTTPConnection("127.0.0.1", ours.port, timeout=patience_s)) as http:
            http.request("GET", "/health")
            engines = json.loads(http.getresponse().read())["engines"]
        if sum(each["state"] == "ready" for each in engines) == ENGINES:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"not all engines were ready within {patience_s:.0f} s: {engines}")
        time.sleep(0.1)


def ours_over_bare() -> Interval:
    """CPU of conversations with fifteen steps each, durable ÷ in memory alone."""
    spent: dict[str, list[float]] = {"warmloop": [], "bare": []}
    with tempfile.TemporaryDirectory(prefix="warmloop-guard-") as folder:
        for number, name in by_turns(LOOP_ROUNDS + 1, [*spent]):
            here = Path(folder) / f"{name}-{number}"
            here.mkdir()
            cpu_s = uvloop.run(_loop(name, here))
            if number:  # the first round warms up
                spent[name].append(cpu_s)
    return paired(spent["warmloop"], spent["bare"])


async def _loop(name: str, folder: Path) -> float:
    one, close = await CASES[name](folder, LOOP_STEPS)
    before = time.process_time()
    await asyncio.gather(*(one(f"{name}_{number}") for number in range(LOOP_SESSIONS)))
    spent = time.process_time() - before
    await close()
    return spent


def ours_over_direct() -> Interval:
    """CPU of the door's process for the same requests to the same trivial engine."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        port, _ = stack.enter_context(child(log, "benchmarks.gateway_engine"))
        urls = [f"http://127.0.0.1:{port}"]
        doors = [stack.enter_context(door(name, urls, log)) for name in (OURS, YARDSTICK)]
        spent: dict[str, list[float]] = {each.name: [] for each in doors}
        for number, each in by_turns(REQUEST_ROUNDS + 1, doors):
            cpu_s = uvloop.run(_requests(each))
            if number:
                spent[each.name].append(cpu_s)
    return paired(spent[OURS], spent[YARDSTICK])


async def _requests(asked: Door) -> float:
    client = await clients.connect(asked.port)
    prepared = [
        clients.chat_request(asked.model, clients.conversation(i, REQUEST_BYTES)) for i in range(16)
    ]
    before = asked.cpu_s()
    for number in range(REQUESTS):
        timing = await client.request(prepared[number % len(prepared)])
        if timing.status != 200:
            raise SystemExit(f"{asked.name} answered {timing.status}: {timing.body[:300]!r}")
    spent = asked.cpu_s() - before
    client.close()
    return spent


CHECKS = (
    ("warm ÷ cold", "time to first token", warm_over_cold, 0.5),
    ("ours ÷ bare", "CPU of a durable step", ours_over_bare, 12.0),
    ("ours ÷ direct", "CPU of a request", ours_over_direct, 3.0),
)


if __name__ == "__main__":
    sys.exit(main())
