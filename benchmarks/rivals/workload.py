"""The loop that every framework runs, in nothing but the standard library.

    python -m benchmarks.rivals.NAME FOLDER SESSIONS AT_ONCE STEPS

A conversation has 15 turns behind it; then its model asks for one tool STEPS times and answers. A
step is a model turn and a tool call, with the prompt rendered to JSON, the arguments checked, and
both kept on disk as durably as the framework can. What a conversation costs without any step is
measured first, and printed beside the whole: JSON on stdout, one line. The garbage collector is set
for all as our front door sets its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serving import collector

HISTORY_TURNS = 15
INSTRUCTIONS = "You are the desk assistant of a bicycle shop. " * 20
TOOL = "look_up"
TOOL_SAYS = "Find an item's price."


def looked_up(item: str, count: int) -> str:
    """What the tool finds."""
    return f"{count} x {item}: 12.90 EUR each, 63 in stock, shelf A1, delivered within two days"


def arguments(step: int) -> dict[str, Any]:
    return {"item": f"bell {step}", "count": step}


def past() -> list[dict[str, Any]]:
    """What a conversation has behind it: 15 turns of question, call, result, answer."""
    items: list[dict[str, Any]] = []
    for turn in range(HISTORY_TURNS):
        call_id = f"past_{turn}"
        items += [
            {"type": "message", "role": "user", "content": f"What do {turn} bells cost? " * 4},
            {
                "type": "function_call",
                "call_id": call_id,
                "name": TOOL,
                "arguments": json.dumps(arguments(turn)),
            },
            {"type": "function_call_output", "call_id": call_id, "output": "12.90 EUR each " * 8},
            {"type": "message", "role": "assistant", "content": "They cost 12.90 EUR each. " * 4},
        ]
    return [*items, {"type": "message", "role": "user", "content": "And now?"}]


Case = Callable[[Path, int], Awaitable[tuple[Callable[[str], Awaitable[None]], Callable[[], Any]]]]
"""Folder, steps ─► what runs one conversation by its name, and what closes everything."""


def measure(case: Case, run: Callable[[Any], Any] = asyncio.run) -> dict[str, float]:
    """After a warm-up: once without steps, once with them."""
    folder, sessions, at_once, steps = Path(sys.argv[1]), *map(int, sys.argv[2:5])

    async def once(label: str, sessions: int, steps: int) -> tuple[float, float]:
        here = folder / label
        here.mkdir()
        one, close = await case(here, steps)
        names = iter([f"{label}_{number}" for number in range(sessions)])

        async def lane() -> None:
            for name in names:
                await one(name)

        collector.settle()
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(at_once)))
        figures = time.process_time() - cpu, time.perf_counter() - wall
        await close()
        return figures

    run(once("warm", 1, 2))
    idle_cpu_s, idle_wall_s = run(once("idle", sessions, 0))
    cpu_s, wall_s = run(once("whole", sessions, steps))
    return {
        "idle_cpu_s": idle_cpu_s,
        "idle_wall_s": idle_wall_s,
        "cpu_s": cpu_s,
        "wall_s": wall_s,
    }
