"""Does the model decide right? `python -m benchmarks.tool_decisions [--json FILE]`.

Thirty everyday questions over ten tools (everyday_questions.py), eight of which need no tool, asked
of the 1.5B model at temperature 0, in one run

    vLLM's defaults    tool_choice auto, vLLM's own hermes parser, asked directly
    Warmloop           tool_choice auto, through the front door: schemas registered, grammar, reply

and scored in the same way: the right tool, or text where none is needed. Beside the decision,
whether the arguments hold what they must.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import Progress

from benchmarks.engines import PATIENCE, engine, front_door, model_of
from benchmarks.everyday_questions import QUESTIONS, TOOLS, Question
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from benchmarks.harness.show import console as console_of
from benchmarks.harness.show import table
from serving.protocol import CHAT

BAR_POINTS = 15
MAX_TOKENS = 256
AT_ONCE = 4


@dataclass(frozen=True)
class Outcome:
    """What came of one question."""

    called: str | None
    arguments: str
    text: str
    decided: bool
    fitting: bool
    """The arguments hold what they must; False where the decision is wrong."""


async def ask(http: aiohttp.ClientSession, url: str, model: str, question: Question) -> Outcome:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question.text}],
        "tools": TOOLS,
        "tool_choice": "auto",
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    async with http.post(url + CHAT, json=body) as answer:
        said: dict[str, Any] = await answer.json()
        if answer.status != 200:
            return Outcome(None, "", f"{answer.status}: {said}", decided=False, fitting=False)
    message = said["choices"][0]["message"]
    calls = message.get("tool_calls") or []
    called: str | None = calls[0]["function"]["name"] if calls else None
    arguments: str = calls[0]["function"]["arguments"] if calls else ""
    decided = called == question.tool
    lowered = arguments.lower()
    fitting = decided and all(part in lowered for part in question.arguments.values())
    return Outcome(called, arguments, message.get("content") or "", decided, fitting)


async def ask_all(url: str, model: str, asked: Callable[[], None]) -> list[Outcome]:
    """All questions, a few at a time; in their order."""
    slots = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:

        async def one(question: Question) -> Outcome:
            async with slots:
                outcome = await ask(http, url, model, question)
            asked()
            return outcome

        return await asyncio.gather(*map(one, QUESTIONS))


async def measure(
    stack: Path, name: str, asked: Callable[[], None]
) -> tuple[list[Outcome], list[Outcome]]:
    """(vLLM's defaults, ours); one engine after the other: two do not fit into small machines."""
    model = model_of(stack, name)
    results: list[list[Outcome]] = []
    ways: tuple[tuple[str, Callable[[str], Awaitable[list[Outcome]]]], ...] = (
        ("hermes", lambda url: ask_all(url, name, asked)),
        ("warmloop_hermes", lambda url: _through(url, asked)),
    )

    async def _through(url: str, asked: Callable[[], None]) -> list[Outcome]:
        async with front_door({name: (model, url)}) as door:
            return await ask_all(door.url, name, asked)

    for parser, way in ways:
        async with engine(name, model.model_copy(update={"tool_parser": parser})) as url:
            results.append(await way(url))
    return results[0], results[1]


def show(console: Console, defaults: list[Outcome], ours: list[Outcome]) -> None:
    rows = [
        (question.text, question.tool or "(none)", _mark(default), _mark(our))
        for question, default, our in zip(QUESTIONS, defaults, ours, strict=True)
    ]
    columns = ("question", "right", "vLLM's defaults", "Warmloop")
    console.print(table("right decisions, temperature 0", columns, rows, left=4))
    for label, outcomes in (("vLLM's defaults", defaults), ("Warmloop", ours)):
        needing = [o for o, q in zip(outcomes, QUESTIONS, strict=True) if q.tool]
        free = [o for o, q in zip(outcomes, QUESTIONS, strict=True) if not q.tool]
        console.print(
            f"{label}: {sum(o.decided for o in outcomes)} of {len(outcomes)} right "
            f"(tool needed: {sum(o.decided for o in needing)} of {len(needing)}, arguments fitting "
            f"{sum(o.fitting for o in needing)}; no tool: {sum(o.decided for o in free)} of "
            f"{len(free)})"
        )


def _mark(outcome: Outcome) -> str:
    what = outcome.called or outcome.text.strip().replace("\n", " ")[:40]
    return f"{'✓' if outcome.decided else '✗'} {what}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tool_decisions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"))
    parser.add_argument("--model", default="frontier", help="a model of that file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    options = parser.parse_args()
    console, run = console_of(150), Run("tool_decisions", options)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("asking", total=2 * len(QUESTIONS))
        defaults, ours = asyncio.run(
            measure(options.config, options.model, lambda: progress.advance(task))
        )
    show(console, defaults, ours)
    before, after = (100 * sum(o.decided for o in each) / len(each) for each in (defaults, ours))
    what = f"right decisions, points above vLLM's defaults ({before:.0f} % → {after:.0f} %)"
    bars = [Bar(what, after - before, BAR_POINTS, at_most=False)]
    if options.json:
        run.write(options.json, {"defaults": defaults, "ours": ours}, bars)
    return conclude(console, bars)


if __name__ == "__main__":
    sys.exit(main())
