"""What durability costs: CPU of one agent step, and steps per second, against a bare loop.

    a step = model intent, model result, tool intent, tool result: all journaled, fsynced where the
             worker promises it; the prompt rendered over a 15-turn history, the arguments checked
    bare   = the same script, rendering, checking and tool, without journal and worker
    sqlite = two fsynced transactions of so many bytes a step and nothing else, in one thread: what
             the file system and SQLite take of it on this machine, now

A conversation has 15 turns behind it and takes 15 steps more. What it costs to accept a request and
to end it is measured by runs without a step, printed, and taken off: it is not part of a step.

The model is scripted and the tool does nothing, so what is left is ours. CPU is of the whole
process (the journal's writer thread too). The journal is a real file; its fsyncs are real.

    python -m benchmarks.durable_step [--alone N] [--sessions N] [--dir DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from orchestrator.agents import Agent, Agents, resolve
from orchestrator.answer import Answer
from orchestrator.events import (
    AnyEvent,
    ConversationStarted,
    ModelResult,
    ResponseAccepted,
    ToolResult,
)
from orchestrator.function_tools import from_function
from orchestrator.journal_sqlite import SqliteJournal
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.toolbox import Ran
from orchestrator.tools import Ready, ToolContext, tool
from orchestrator.worker import Worker
from serving.config import AgentConfig, AgentLimits

HISTORY_TURNS = 15
STEPS = 15
"""Of each conversation, on top of its history."""
LIMITS = AgentLimits()
BAR_MS = 0.30
AIM_MS = 0.10


@dataclass(frozen=True)
class Figures:
    """One measurement. CPU of the process, user and system; wall-clock seconds."""

    name: str
    sessions: int
    steps: int
    cpu_ms_per_step: float
    steps_per_s: float
    cpu_ms_per_response: float
    """To accept a request and to end it, without any step."""


@tool(kind="pure")
async def look_up(
    item: Annotated[str, "name of the item"], count: Annotated[int, "how many"] = 1
) -> str:
    """Find an item's price."""
    return f"{count} x {item}: 12.90 EUR each, 63 in stock, shelf A1, delivered within two days"


def agent_of(tools: list[Any]) -> Agent:
    """An agent with limits that do not get in the way."""
    limits = AgentLimits(
        max_turns=1_000_000, max_tool_calls=1_000_000, max_tokens=10**12, same_call=10**6
    )
    config = AgentConfig(
        instructions="You are the desk assistant of a bicycle shop. " * 20,
        reply_tool=False,
        limits=limits,
    )
    return resolve("bench", config, [from_function(each) for each in tools])


@dataclass(frozen=True)
class Shape:
    """How many conversations, how many of them at a time; each takes STEPS steps."""

    sessions: int
    at_once: int
    steps: int = STEPS
    """Of each conversation; 0: the request is accepted and answered at once."""

    @property
    def names(self) -> list[str]:
        return [f"conv_{number}" for number in range(self.sessions)]


class Play:
    """The scripted model: so many tool calls for each conversation, then an answer."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._at: dict[str, int] = {}

    def __call__(self, turn: ModelTurn) -> list[Scripted]:
        at = self._at.get(turn.conversation, 0)
        self._at[turn.conversation] = at + 1
        if at == self._steps:
            return says("done")
        return calls(("look_up", {"item": f"bell {at}", "count": at}))


def past() -> list[dict[str, Any]]:
    """What a conversation has behind it: 15 turns of question, call, result, answer."""
    items: list[dict[str, Any]] = []
    for turn in range(HISTORY_TURNS):
        call_id = f"past_{turn}"
        arguments = json.dumps({"item": f"bell {turn}", "count": turn})
        items += [
            {"type": "message", "role": "user", "content": f"What do {turn} bells cost? " * 4},
            {
                "type": "function_call",
                "call_id": call_id,
                "name": "look_up",
                "arguments": arguments,
            },
            {"type": "function_call_output", "call_id": call_id, "output": "12.90 EUR each " * 8},
            {"type": "message", "role": "assistant", "content": "They cost 12.90 EUR each. " * 4},
        ]
    return [*items, {"type": "message", "role": "user", "content": "And now?"}]


async def durable(shape: Shape, folder: Path, tick: Callable[[int], None]) -> float:
    """Run it on a worker and a journal; returns the CPU seconds."""
    agent = agent_of([look_up])
    journal = SqliteJournal(folder / "journal.db")
    model = ScriptedModel(Play(shape.steps), keep_turns=False)
    try:
        async with Worker(journal=journal, agents=Agents([agent]), models=model) as worker:

            async def one(name: str) -> None:
                accepted = ResponseAccepted(f"resp_{name}", time.time(), past())
                start = ConversationStarted(agent.key, time.time())
                await worker.accept(name, accepted, start=start)
                await worker.run(name)
                tick(max(1, shape.steps))

            gc.collect()
            before = time.process_time()
            await _each(one, shape)
            spent = time.process_time() - before
        await _check(journal, shape)
    finally:
        await journal.close()
    return spent


async def _each(one: Callable[[str], Coroutine[Any, Any, None]], shape: Shape) -> None:
    """Run all conversations, `at_once` at a time."""
    names = iter(shape.names)

    async def lane() -> None:
        for name in names:
            await one(name)

    await asyncio.gather(*(lane() for _ in range(shape.at_once)))


async def _check(journal: SqliteJournal, shape: Shape) -> None:
    """What was measured must have happened."""
    assert not await journal.due(float("inf"), 9)
    log = await journal.read(shape.names[0])
    assert sum(isinstance(each.event, ToolResult) for each in log) == shape.steps
    assert sum(isinstance(each.event, ModelResult) for each in log) == shape.steps + 1


async def bare(shape: Shape, folder: Path, tick: Callable[[int], None]) -> float:
    """The same work with nothing kept: what an agent loop costs that forgets all on a crash."""
    agent = agent_of([look_up])
    model = ScriptedModel(Play(shape.steps), keep_turns=False)

    async def one(name: str) -> None:
        history: list[Any] = [ResponseAccepted(name, 0.0, past())]
        prompt = agent.prompt()
        for step in range(1, shape.steps + 2):
            prompt.extend(history)
            answer = Answer(step, 1)
            turn = ModelTurn(prompt.body({}), name, name, "tool-call")
            async for event in model.turn(turn):
                answer.feed(event)
            text, wanted, done = answer.whole()
            history.append(ModelResult(step, 1, 0.0, text, wanted, done.finish_reason))
            for call in wanted:
                ready = agent.tools.prepare(call)
                assert isinstance(ready, Ready)
                ran = await agent.tools.run(ready, ToolContext(""), LIMITS)
                assert isinstance(ran, Ran)
                result: AnyEvent = ToolResult(step, call.call_id, 0.0, ran.output)
                history.append(result)
        tick(max(1, shape.steps))

    gc.collect()
    before = time.process_time()
    await _each(one, shape)
    return time.process_time() - before


async def sqlite(shape: Shape, folder: Path, tick: Callable[[int], None]) -> float:
    """The floor: the transactions alone."""
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE e (c INTEGER, s INTEGER, p TEXT, PRIMARY KEY (c, s))")
    insert = "INSERT INTO e VALUES (?,?,?),(?,?,?)"
    before = time.process_time()
    for number in range(shape.sessions):
        for seq in range(0, shape.steps * 4, 2):
            connection.execute(insert, (number, seq, "x" * 250, number, seq + 1, "x" * 250))
        tick(max(1, shape.steps))
    spent = time.process_time() - before
    connection.close()
    return spent


Case = Callable[[Shape, Path, Callable[[int], None]], Coroutine[Any, Any, float]]


def measure(name: str, case: Case, shape: Shape, base: Path | None, progress: Progress) -> Figures:
    """Run a case in fresh folders, with its steps and without any."""
    idle_cpu_s, _ = _once(name, case, replace(shape, steps=0), base, progress)
    cpu_s, wall_s = _once(name, case, shape, base, progress)
    steps = shape.sessions * shape.steps
    return Figures(
        name=name,
        sessions=shape.at_once,
        steps=steps,
        cpu_ms_per_step=(cpu_s - idle_cpu_s) * 1000 / steps,
        steps_per_s=steps / wall_s,
        cpu_ms_per_response=idle_cpu_s * 1000 / shape.sessions,
    )


def _once(
    name: str, case: Case, shape: Shape, base: Path | None, progress: Progress
) -> tuple[float, float]:
    """CPU seconds of the case, and seconds that passed, setting up included."""
    total = shape.sessions * max(1, shape.steps)
    task = progress.add_task(f"{name}, {shape.at_once} at once", total=total)

    def tick(steps: int) -> None:
        progress.advance(task, steps)

    with tempfile.TemporaryDirectory(dir=base, prefix="durable-step-") as folder:
        began = time.perf_counter()
        cpu_s = uvloop.run(case(shape, Path(folder), tick))
        return cpu_s, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--alone", type=int, default=150, help="conversations one after another")
    parser.add_argument("--sessions", type=int, default=1000, help="conversations at once")
    parser.add_argument("--dir", type=Path, help="where the journal lies; default: the temp folder")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    console = Console()
    figures: list[Figures] = []
    shapes = [Shape(args.alone, 1), Shape(args.sessions, args.sessions)]
    with Progress(console=console, transient=True, refresh_per_second=1) as progress:
        for shape in shapes:
            cases: list[tuple[str, Case]] = [("bare", bare), ("durable", durable)]
            if shape.at_once == 1:
                cases.append(("sqlite", sqlite))
            for name, case in cases:
                figures.append(measure(name, case, shape, args.dir, progress))
    _print(console, figures)
    if args.json:
        args.json.write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n")


def _print(console: Console, figures: list[Figures]) -> None:
    table = Table(title="Durable step (scripted model, fsynced)")
    for heading in (
        "case",
        "sessions",
        "steps",
        "CPU ms/step",
        "steps/s",
        "of bare",
        "CPU ms/response",
    ):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for each in figures:
        plain = next(f for f in figures if f.name == "bare" and f.sessions == each.sessions)
        table.add_row(
            each.name,
            f"{each.sessions:,}",
            f"{each.steps:,}",
            f"{each.cpu_ms_per_step:.3f}",
            f"{each.steps_per_s:,.0f}",
            f"{each.steps_per_s / plain.steps_per_s:.2f}",
            f"{each.cpu_ms_per_response:.2f}",
        )
    console.print(table)
    worst = max(each.cpu_ms_per_step for each in figures if each.name == "durable")
    verdict = "met" if worst <= BAR_MS else "MISSED"
    console.print(f"bar {BAR_MS} ms CPU a step: {verdict}; aim {AIM_MS} ms; worst {worst:.3f} ms")


if __name__ == "__main__":
    main()
