"""What the grammar costs: `python -m benchmarks.grammar_cost [--json FILE]`.

One real engine, asked directly. The same prompts, tools and number of generated tokens, by turns

    free       tool_choice none, end of text ignored
    grammar    tool_choice required: a call whose schema has text, numbers, enums and a list that is
               longer than the answer may be, so that each token is chosen under the grammar

at batch 1 and at batch 8. Prompts are warm and grammars compiled before anything is timed. Each
pair gives one ratio; printed are the median and its 95 % interval (bootstrap).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import Progress

from benchmarks.engines import PATIENCE, engine, model_of
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from benchmarks.harness.show import table
from benchmarks.harness.stats import paired
from serving.protocol import CHAT

BAR = 0.95
TOKENS = 64
BATCHES = (1, 8)
LINE = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 200},
        "amount": {"type": "number"},
        "unit": {"type": "string", "enum": ["hour", "piece", "kilogram"]},
        "done": {"type": "boolean"},
    },
    "required": ["text", "amount", "unit", "done"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "write_report",
        "description": "Write a report of what was done.",
        "parameters": {
            "type": "object",
            "properties": {
                "title": {"type": "string", "maxLength": 80},
                "lines": {"type": "array", "items": LINE, "minItems": 40, "maxItems": 64},
            },
            "required": ["title", "lines"],
            "additionalProperties": False,
        },
    },
}


def body(model: str, number: int, choice: str) -> dict[str, Any]:
    prompt = f"Report on day {number} in the workshop: what was repaired, how long it took."
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "tools": [TOOL],
        "tool_choice": choice,
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }


async def tokens_per_s(
    http: aiohttp.ClientSession, url: str, model: str, batch: int, choice: str
) -> float:
    """Generated tokens a second of `batch` requests that go out together."""

    async def one(number: int) -> int:
        async with http.post(url + CHAT, json=body(model, number, choice)) as answer:
            said = await answer.json()
            assert answer.status == 200, said
            return int(said["usage"]["completion_tokens"])

    began = time.perf_counter()
    counts = await asyncio.gather(*(one(number) for number in range(batch)))
    took_s = time.perf_counter() - began
    assert set(counts) == {TOKENS}, f"not all answers have {TOKENS} tokens: {counts}"
    return sum(counts) / took_s


async def measure(
    stack: Path, name: str, rounds: int, asked: Callable[[], None]
) -> dict[int, list[tuple[float, float]]]:
    """Batch → pairs of tokens/s (free, grammar)."""
    model = model_of(stack, name)
    model = model.model_copy(update={"max_running": max(BATCHES), "kv_cache_gib": 1.0})
    pairs: dict[int, list[tuple[float, float]]] = {batch: [] for batch in BATCHES}
    async with engine(name, model) as url, aiohttp.ClientSession(timeout=PATIENCE) as http:
        for choice in ("none", "required") * 2:
            await tokens_per_s(http, url, name, max(BATCHES), choice)
        for number in range(rounds):
            for batch in BATCHES:
                # Now one first, now the other: what drifts hits both.
                order = ("none", "required") if number % 2 else ("required", "none")
                got = {c: await tokens_per_s(http, url, name, batch, c) for c in order}
                pairs[batch].append((got["none"], got["required"]))
                asked()
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grammar_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=Path("configs/cpu-small.yaml"))
    parser.add_argument("--model", default="small", help="a model of that file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every pair there")
    options = parser.parse_args()
    console, run = Console(), Run("grammar_cost", options)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("asking", total=options.rounds * len(BATCHES))
        pairs = asyncio.run(
            measure(options.config, options.model, options.rounds, lambda: progress.advance(task))
        )
    rows, bars = [], []
    for batch, of_batch in pairs.items():
        free, grammar = zip(*of_batch, strict=True)
        ratio = paired(grammar, free)
        rates = (f"{statistics.median(side):.1f}/s" for side in (free, grammar))
        spread = f"{ratio.low:.3f} to {ratio.high:.3f}"
        rows.append((str(batch), *rates, f"{ratio.value:.3f}", spread))
        what = f"tokens/s under the grammar ÷ free, batch {batch} ({spread})"
        bars.append(Bar(what, ratio.value, BAR, at_most=False))
    title = f"{options.config.name}: {options.model}, {TOKENS} tokens an answer"
    columns = ("batch", "free", "grammar", "ratio, median", "95 %")
    console.print(table(title, columns, rows, left=0))
    if options.json:
        run.write(options.json, pairs, bars)
    return conclude(console, bars)


if __name__ == "__main__":
    sys.exit(main())
