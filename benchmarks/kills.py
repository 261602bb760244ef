"""SIGKILL at random moments, hundreds of times: is anything lost, doubled or stuck?

    python -m benchmarks.kills [--kills 500] [--seed N] [--postgres-url URL] [--json FILE]

One process at a time works on many sessions (`kills_child.py`) and is killed after a random time,
from its first instruction on; then the next one goes on with what it left. A process that nobody
kills keeps the ledger (`kills_ledger.py`). After the last kill what is open may end, and then the
ledger, the journal and every prompt that was asked are held against each other (`kills_judge.py`).

The killed processes are forks of this one, so that a kill does not cost the second that Python
takes to import everything; each opens the journal for itself. The seed settles all moments, not
what the machine does meanwhile. It ends with 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks import kills_judge as judge
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from benchmarks.harness.show import table
from benchmarks.kills_child import Place, run

LONGEST_LIFE_S = 0.6
STUCK_S = 60.0
"""What is not over then, with nobody killing it, is stuck."""


@contextmanager
def ledger(place: Place) -> Iterator[None]:
    """The process that keeps the ledger; ends with us."""
    argv = [sys.executable, "-m", "benchmarks.kills_ledger", place.socket, str(place.ledger)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit("the ledger did not start")
        yield
        process.stdin.close()


def begin(place: Place, *, new_sessions: bool) -> int:
    """A process that works on the sessions; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        asyncio.run(run(place, new_sessions=new_sessions))
        code = 0
    finally:
        os._exit(code)


def kill_often(place: Place, kills: int, seed: int, tick: Callable[[], None]) -> int:
    """Returns how many died of something else: there must be none."""
    choose = random.Random(seed)
    crashed = 0
    for _ in range(kills):
        pid = begin(place, new_sessions=True)
        time.sleep(choose.uniform(0.0, LONGEST_LIFE_S))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        crashed += not os.WIFSIGNALED(status)
        tick()
    return crashed


def let_end(place: Place) -> bool:
    """Nobody kills any more: does everything come to its end?"""
    pid = begin(place, new_sessions=False)
    deadline = time.monotonic() + STUCK_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--postgres-url", default="", help="an empty database; default: SQLite")
    parser.add_argument("--json", type=Path, help="write the findings there, too")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error(f"--kills: {options.kills}; at least 1")
    console, run_of = Console(), Run("kills", options)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="warmloop-kills-") as folder:
        place = Place(Path(folder), options.postgres_url)
        # No thread of the progress bar beside the forks: it is drawn when it moves.
        with (
            ledger(place),
            Progress(console=console, transient=True, auto_refresh=False) as progress,
        ):
            task = progress.add_task("killing", total=options.kills)

            def tick() -> None:
                progress.advance(task)
                progress.refresh()

            crashed = kill_often(place, options.kills, options.seed, tick)
            ended = let_end(place)
        found = asyncio.run(judge.judge(place, ended=ended, crashed=crashed))
    counts = {what: each for what, each in asdict(found).items() if isinstance(each, int)}
    title = f"{options.kills} SIGKILLs in {time.monotonic() - began:.0f} s"
    rows = [(what.replace("_", " "), f"{count:,}") for what, count in counts.items()]
    console.print(table(title, ("what", "how many"), rows))
    for wrong in found.examples:
        console.print(f"wrong: {wrong}", highlight=False, soft_wrap=True)
    bars = [
        *(Bar(what.replace("_", " "), counts[what], 0) for what in judge.WRONG),
        Bar("sessions", found.sessions, 1, at_most=False),
    ]
    if options.json:
        run_of.write(options.json, found, bars)
    return conclude(console, bars)


if __name__ == "__main__":
    sys.exit(main())
