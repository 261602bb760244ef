"""Do agents do what they are asked, and at what cost? `python -m benchmarks.agents --url URL`.

    --url URL      a stack that runs                --config FILE   one that is started for this
    --models A,B   what is asked: models, `auto`, adapters, agents
    --policies P,Q with --config: `model: auto` under these tier policies besides, as `auto-P`
    --against BASE a report of an earlier run: what got better or worse, paired by task
    --recorded NOW a report in place of a run: only compares

Some forty tasks over real files (benchmarks/agent_tasks): look-ups in CSV, JSON and text, sums,
files to move and to change, and tasks of several steps. Each begins in a folder of its own, with
tools over it, and is asked through /v1/responses; code judges the answer and every file. The key of
a stack that asks for one is read from $WARMLOOP_API_KEY.

Writes OUT/agents.json, OUT/agents.png, and OUT/agents.jsonl: what was called, told and said in each
attempt, a line each, as they end. It ends with 1 when something is significantly worse than
BASE, else with 0, however many tasks were solved: what a model can do is no fault of the stack.
Ctrl-C ends it with a report of what was asked by then.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import aiohttp
import yaml
from rich.console import Console
from rich.progress import Progress

from benchmarks import agents_compare, agents_report, agents_tasks
from benchmarks.agents_attempt import Attempt, Limits
from benchmarks.agents_run import Asker, ask_all
from benchmarks.agents_tasks import Task
from benchmarks.harness import show
from benchmarks.harness.run import Run, conclude, out_folder
from orchestrator import supervisor
from orchestrator.commands.console import key_header
from serving.config import stack_file
from serving.config.router import TierPolicy
from serving.config.stack import StackConfig
from serving.errors import ConfigError, WarmloopError

POLICIES: tuple[TierPolicy, ...] = get_args(TierPolicy)


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", metavar="URL")
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.add_argument("--models", default="auto", metavar="A,B")
    parser.add_argument("--policies", default="", metavar="P,Q", help=", ".join(POLICIES))
    parser.add_argument("--against", type=Path, metavar="BASE")
    parser.add_argument("--recorded", type=Path, metavar="NOW")
    parser.add_argument(
        "--tasks", default="*", metavar="GLOBS", help="names, such as 'cost-*,add*'"
    )
    parser.add_argument("--list", action="store_true", help="the tasks, and nothing else")
    parser.add_argument("--rounds", type=int, default=1, help="how often each task is asked")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--turns", type=int, default=Limits().turns, help="of one attempt")
    parser.add_argument("--seconds", type=float, default=Limits().seconds, help="of one attempt")
    parser.add_argument("--output-tokens", type=int, default=Limits().output_tokens, help="a turn")
    parser.add_argument(
        "--salt", type=int, help="keeps prompts from earlier runs' caches; --url: the time, else 0"
    )
    parser.add_argument(
        "--no-examples", action="store_true", help="do not show the solved examples first"
    )
    parser.add_argument(
        "--report-outcomes", action="store_true", help="tell the stack what was right: auto learns"
    )
    parser.add_argument("--out", type=out_folder, default=Path("out"), help="for JSON and PNG")
    options = parser.parse_args(arguments)
    sources = sum(each is not None for each in (options.url, options.config, options.recorded))
    if not options.list and sources != 1:
        parser.error("say one of --url, --config and --recorded")
    if options.recorded and not options.against:
        parser.error("--recorded: goes with --against")
    options.models, options.policies = _names(options.models), _names(options.policies)
    if options.policies and not options.config:
        parser.error("--policies: goes with --config; of a stack that runs name agents in --models")
    if unknown := [each for each in options.policies if each not in POLICIES]:
        parser.error(f"--policies: {unknown[0]!r}; valid: {', '.join(POLICIES)}")
    if options.salt is None:  # engines that were just started have empty caches
        options.salt = int(time.time()) % 10**6 if options.url else 0
    for name in ("rounds", "at_once", "turns", "seconds", "output_tokens"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: {getattr(options, name)}; more than 0")
    return options


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))


def chosen(tasks: Sequence[Task], globs: str) -> list[Task]:
    """Raises ConfigError for a pattern that fits no task."""
    wanted = [each.strip() for each in globs.split(",")]
    for each in wanted:
        if not fnmatch.filter((task.name for task in tasks), each):
            raise ConfigError(f"--tasks: no task fits {each!r}; --list shows them")
    return [task for task in tasks if any(fnmatch.fnmatch(task.name, each) for each in wanted)]


def with_policies(stack: StackConfig, policies: Sequence[str]) -> dict[str, Any]:
    """The stack's file, with an agent `auto-P` for each tier policy, that is nothing but it."""
    agents = {
        f"auto-{policy}": {"model": "auto", "reply_tool": False, "tier": {"policy": policy}}
        for policy in policies
    }
    file = stack.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {**file, "agents": {**file.get("agents", {}), **agents}}


@contextmanager
def stack_of(options: argparse.Namespace) -> Iterator[str]:
    """The URL of the stack that is asked; one that was started for this ends with the block."""
    if options.url:
        yield str(options.url).rstrip("/").removesuffix("/v1")
        return
    stack = stack_file.load(options.config)
    if any(run.name == stack.name for run in supervisor.running()):
        raise ConfigError(f"--config: the stack {stack.name!r} runs already; give its --url")
    with TemporaryDirectory(prefix="warmloop-bench-") as folder:
        config = options.config
        if options.policies:
            config = Path(folder) / "stack.yaml"
            config.write_text(yaml.safe_dump(with_policies(stack, options.policies)))
        try:
            _warmloop("up", "--detach", "-c", str(config))
            yield supervisor.find(stack.name).url
        finally:
            # It may have begun, too, where `up` was cut short.
            if any(run.name == stack.name for run in supervisor.running()):
                _warmloop("down", "-c", str(config))


def _warmloop(*arguments: str) -> None:
    try:
        subprocess.run([sys.executable, "-m", "orchestrator.cli", *arguments], check=True)
    except subprocess.CalledProcessError as error:  # it has said why
        raise WarmloopError(f"warmloop {arguments[0]} ended with {error.returncode}") from None


async def measure(
    url: str,
    options: argparse.Namespace,
    tasks: Sequence[Task],
    examples: Sequence[Task],
    console: Console,
    *,
    ended: list[Attempt],
) -> list[Attempt]:
    """Ask all; those that have ended are in `ended` meanwhile."""
    models = [*options.models, *(f"auto-{policy}" for policy in options.policies)]
    limits = Limits(options.turns, options.seconds, options.output_tokens)
    shown = () if options.no_examples else examples
    patience = aiohttp.ClientTimeout(total=None)  # an attempt has a limit of its own
    async with aiohttp.ClientSession(timeout=patience, headers=key_header()) as http:
        asker = Asker(
            http,
            url,
            limits,
            shown,
            salt=options.salt,
            report=options.report_outcomes,
            heard=agents_report.Transcripts(options.out / "agents.jsonl").note,
        )
        await asker.known(models)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("asking", total=len(tasks) * len(models) * options.rounds)

            def done(attempt: Attempt) -> None:
                ended.append(attempt)
                said = f"{attempt.error}: {attempt.why}" if attempt.error else "solved"
                progress.console.print(
                    f"{attempt.model}  {attempt.task}  {attempt.seconds:.1f} s  {said}"[:150],
                    style="green" if attempt.solved else "dim",
                    highlight=False,
                    markup=False,
                )
                progress.advance(bar)

            return await ask_all(
                asker, tasks, models, rounds=options.rounds, at_once=options.at_once, done=done
            )


def judged(
    options: argparse.Namespace, attempts: Sequence[Attempt], console: Console
) -> agents_compare.Comparison | None:
    """Held against the base, if there is one; shown."""
    if options.against is None:
        return None
    found = agents_compare.compare(agents_compare.read(options.against), attempts)
    for table in agents_report.comparison(found):
        console.print(table)
    for each in found.solved:
        for what, names in (("gained", each.gained), ("lost", each.lost)):
            if names:
                console.print(f"{each.model} {what}: {', '.join(names)}", highlight=False)
    for left_out in found.left_out:
        console.print(f"not compared: {left_out}", highlight=False)
    console.print(f"significantly worse: {', '.join(found.worse) or 'nothing'}", highlight=False)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = arguments_of(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    console, run = show.console(150), Run("agents", options)
    try:
        tasks, examples = agents_tasks.load()
        if options.list:
            for task in tasks:
                console.print(f"{task.kind}: {task.name}: {task.ask}", highlight=False)
            return 0
        if options.recorded:
            found = judged(options, agents_compare.read(options.recorded), console)
            return 1 if found and found.worse else 0
        tasks = chosen(tasks, options.tasks)
        if options.against:
            agents_compare.read(options.against)  # better now than after an hour
        attempts: list[Attempt] = []
        interrupted = False
        with stack_of(options) as url:
            try:
                attempts = asyncio.run(
                    measure(url, options, tasks, examples, console, ended=attempts)
                )
            except KeyboardInterrupt:
                interrupted = True
                console.print(f"interrupted after {len(attempts)} attempts", highlight=False)
        if not attempts:
            return 130
        shown(attempts, options.out, console)
        written = options.out / "agents.json"
        figures = {"models": agents_report.summarise(attempts), "attempts": attempts}
        run.write(written, figures)  # whatever comes of the comparison
        found = judged(options, attempts, console)
        if found:
            run.write(written, {**figures, "comparison": found})
    except WarmloopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    conclude(console, [], options.out)
    if interrupted:
        return 130
    return 1 if found and found.worse else 0


def shown(attempts: Sequence[Attempt], out: Path, console: Console) -> None:
    """Tables, and the picture."""
    for table in agents_report.tables(agents_report.summarise(attempts)):
        console.print(table)
    agents_report.picture(attempts, out / "agents.png")


if __name__ == "__main__":
    # Whoever ends it politely ends it as Ctrl-C does: with its report, and without its stack. Also
    # where a shell has started it in the background, with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
