"""Is a turn's own output found in the cache? `python -m benchmarks.token_stability`.

A turn is asked through the front door, and then the next one, whose history holds the first one's
answer. The engine tells the token ids of both (`return_token_ids`):

    turn 1    prompt p1, output o1          turn 2    prompt p2

Stable are the tokens that p1+o1 and p2 begin with in common. What comes after the first difference
is computed again; both sides of the difference are printed, since they say why. Beside it, what the
cache really gave: whole blocks of the stable part, as the engine reports them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from benchmarks.engines import PATIENCE, engine, front_door, model_of
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from benchmarks.harness.show import console as console_of
from benchmarks.harness.show import table
from serving.protocol import CHAT

BLOCK = 32
SHOWN = 3
DEFAULT_MODELS = (
    "configs/cpu-small.yaml:small",
    "configs/cpu-small.yaml:frontier",
    "configs/cpu.yaml:frontier",
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather and forecast for a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 40},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "units": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "days", "units"],
            "additionalProperties": False,
        },
    },
}
HEAD = "You are the assistant of a travel agency. Answer briefly and kindly. " * 6


@dataclass(frozen=True)
class Turn:
    """What the engine told of one answer."""

    message: dict[str, Any]
    prompt: list[int]
    output: list[int]
    cached: int


@dataclass(frozen=True)
class Stability:
    """One pair of turns. Counts are tokens."""

    kind: str
    output: int
    lost: int
    """Of turn 1's prompt and output, what turn 2 does not begin with."""
    wrote: tuple[int, ...]
    """The first tokens that differ, as they were generated."""
    rendered: tuple[int, ...]
    """... and as the template renders them."""
    cached: int
    possible: int
    """Whole blocks of the stable part."""


async def pair(
    http: aiohttp.ClientSession, url: str, model: str, kind: str, temperature: float = 0.0
) -> Stability:
    """Two turns of a conversation: `call`, `reply` (words beside tools) or `text` (no tools)."""
    asked = "What is the weather in Rome?" if kind == "call" else "Say hello to our guest."
    messages: list[Any] = [
        {"role": "system", "content": f"{HEAD}({kind}, {temperature})"},
        {"role": "user", "content": asked},
    ]
    tools = {"tools": [WEATHER]} if kind != "text" else {}
    choice = {"tool_choice": "required", "parallel_tool_calls": False} if kind == "call" else {}
    first = await _turn(http, url, model, messages, temperature, {**tools, **choice})
    messages.append(first.message)
    for call in first.message.get("tool_calls") or ():
        result = "18 degrees and sunny"
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    messages.append({"role": "user", "content": "Thank you. And tomorrow?"})
    second = await _turn(http, url, model, messages, 0.0, {**tools, **choice})
    before = first.prompt + first.output
    stable = 0
    for old, new in zip(before, second.prompt, strict=False):
        if old != new:
            break
        stable += 1
    return Stability(
        kind=kind if temperature == 0 else f"{kind}, temperature {temperature:g}",
        output=len(first.output),
        lost=len(before) - stable,
        wrote=tuple(before[stable : stable + SHOWN]),
        rendered=tuple(second.prompt[stable : stable + SHOWN]),
        cached=second.cached,
        # The last generated token is never computed as input, so its block may not be there.
        possible=min(stable, len(before) - 1) // BLOCK * BLOCK,
    )


async def _turn(  # noqa: PLR0917  all of one request
    http: aiohttp.ClientSession,
    url: str,
    model: str,
    messages: list[Any],
    temperature: float,
    more: dict[str, Any],
) -> Turn:
    body = {
        "model": model,
        "messages": messages,
        "temperature": temperature,
        "seed": 11,
        "max_tokens": 200,
        "return_token_ids": True,
        **more,
    }
    async with http.post(url + CHAT, json=body) as answer:
        said = await answer.json()
        assert answer.status == 200, said
    choice = said["choices"][0]
    message = {k: v for k, v in choice["message"].items() if k in ("role", "content", "tool_calls")}
    cached = (said["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Turn(message, said["prompt_token_ids"], choice["token_ids"], cached)


async def words(
    http: aiohttp.ClientSession, url: str, model: str, tokens: tuple[int, ...]
) -> list[str]:
    """The text of each token, by the engine itself."""
    found = []
    for token in tokens:
        body = {"model": model, "tokens": [token]}
        async with http.post(f"{url}/detokenize", json=body) as answer:
            found.append((await answer.json())["prompt"])
    return found


async def measure(engine_url: str, door_url: str, model: str) -> list[tuple[Stability, str]]:
    """Every kind of turn on one model, and why tokens were lost, in words."""
    results = []
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:
        for kind, temperature in (
            ("call", 0.0),
            ("call", 1.0),
            ("reply", 0.0),
            ("reply", 1.0),
            ("text", 0.0),
        ):
            found = await pair(http, door_url, model, kind, temperature)
            why = ""
            if found.lost:
                wrote = await words(http, engine_url, model, found.wrote)
                rendered = await words(http, engine_url, model, found.rendered)
                why = f"wrote {wrote}, the template renders {rendered}"
            results.append((found, why))
    return results


def show(console: Console, model: str, results: list[tuple[Stability, str]]) -> None:
    title = f"{model}: the first turn's tokens in the second turn's prompt"
    rows = [
        (each.kind, why, *map(str, (each.output, each.lost, each.cached, each.possible)))
        for each, why in results
    ]
    columns = ("turn", "why", "output", "lost", "cached", "whole blocks")
    console.print(table(title, columns, rows, left=2))


async def measured(each: str) -> list[tuple[Stability, str]]:
    """Of a model `FILE:NAME`, with an engine and a front door of its own."""
    file, _, name = each.rpartition(":")
    model = model_of(Path(file), name)
    async with engine(name, model) as url, front_door({name: (model, url)}) as door:
        return await measure(url, door.url, name)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.token_stability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", action="append", metavar="FILE:NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every pair there")
    options = parser.parse_args()
    console, run = console_of(140), Run("token_stability", options)
    found: dict[str, list[tuple[Stability, str]]] = {}
    for each in options.model or DEFAULT_MODELS:
        found[each] = asyncio.run(measured(each))
        show(console, each, found[each])
    lost = sum(p.possible - min(p.cached, p.possible) for pairs in found.values() for p, _ in pairs)
    bars = [Bar("tokens in whole blocks of what is stable that the cache did not give", lost, 0)]
    if options.json:
        figures = {
            name: [{**asdict(p), "why": why} for p, why in pairs] for name, pairs in found.items()
        }
        run.write(options.json, figures, bars)
    return conclude(console, bars)


if __name__ == "__main__":
    sys.exit(main())
