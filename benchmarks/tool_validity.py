"""Is every call valid? `python -m benchmarks.tool_validity [--generations N] [--json FILE]`.

Real models at temperature 1 are asked to call tools of some sixty schema shapes (schema_shapes.py),
through the front door, by turns with

    tool_choice     auto, required, named
    parallel calls  one, several
    form            chat completions, messages; whole, streamed

and everything that comes back is judged from outside: each call by the jsonschema library against
the schema as it was given, each text for calls that are none.

    valid       a call that fits           pseudo     a call as text              must be 0
    text        words, in auto             invalid    a call that does not fit    must be 0
    truncated   finish_reason `length`     broken     anything else               must be 0
    failed      the typed failure          refused    at registration     at most 5 % of shapes
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
from rich.console import Console
from rich.progress import Progress

from benchmarks.engines import PATIENCE, engine, front_door, model_of
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from benchmarks.harness.show import console as console_of
from benchmarks.harness.show import table
from benchmarks.schema_shapes import SHAPES, Shape
from serving.config.model import ModelConfig
from serving.protocol import CHAT, MESSAGES, SseEvent, split_sse

MAX_TOKENS = 256
AT_ONCE = 8
ALLOWED_REFUSALS = 0.05
WRONG = ("pseudo", "invalid", "broken")
CHOICES = ("auto", "required", "named")
DEFAULT_MODELS = ("configs/cpu-small.yaml:small", "configs/cpu-small.yaml:frontier")
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One generation to be."""

    number: int
    model: str
    shape: Shape
    choice: str
    several: bool
    form: str
    stream: bool


@dataclass(frozen=True)
class Said:
    """An answer in plain values, whatever its form was."""

    text: str
    calls: tuple[tuple[str, str], ...]
    reason: str


def cases(models: list[str], generations: int) -> Iterator[Case]:
    """Every way of asking comes up for every shape, in an order that does not depend on luck."""
    # Models innermost: they are asked side by side.
    ways = itertools.cycle(
        itertools.product(CHOICES, (False, True), (CHAT, MESSAGES), (False, True), models)
    )
    shapes = itertools.cycle(SHAPES)
    for number, shape, way in zip(range(generations), shapes, ways, strict=False):
        choice, several, form, stream, model = way
        yield Case(number, model, shape, choice, several, form, stream)


def body(case: Case) -> Json:
    """The request in its form."""
    tool = case.shape.tool()["function"]
    common: Json = {
        "model": case.model,
        "messages": [{"role": "user", "content": case.shape.request}],
        "temperature": 1.0,
        "max_tokens": MAX_TOKENS,
        "stream": case.stream,
    }
    name = tool["name"]
    if case.form == CHAT:
        named = {"type": "function", "function": {"name": name}}
        choice: Any = named if case.choice == "named" else case.choice
        tools = [{"type": "function", "function": tool}]
        return {
            **common,
            "seed": case.number,
            "tools": tools,
            "tool_choice": choice,
            "parallel_tool_calls": case.several,
        }
    kinds = {"auto": {"type": "auto"}, "required": {"type": "any"}}
    choice = kinds.get(case.choice, {"type": "tool", "name": name})
    schema = tool.get("parameters") or {"type": "object"}
    own = {"name": name, "description": tool["description"], "input_schema": schema}
    single = {"disable_parallel_tool_use": not case.several}
    return {**common, "tools": [own], "tool_choice": {**choice, **single}}


async def ask(http: aiohttp.ClientSession, url: str, case: Case) -> str:
    """One generation; returns what it was."""
    async with http.post(url + case.form, json=body(case)) as answer:
        if answer.status != 200:
            error = (await answer.json()).get("error", {})
            known = {"invalid_tool_schema": "refused", "invalid_tool_call": "failed"}
            return known.get(error.get("code"), f"broken: {answer.status} {error}")
        if not case.stream:
            said = _whole(case.form, await answer.json())
        else:
            events = [event async for event in split_sse(answer.content.iter_any())]
            errors = [
                e.data for e in events if e.data != b"[DONE]" and "error" in json.loads(e.data)
            ]
            if errors:
                typed = b"invalid_tool_call" in errors[0]
                return "failed" if typed else f"broken: {errors[0]!r}"
            said = (_chat_stream if case.form == CHAT else _messages_stream)(events)
    return judge(case, said)


def judge(case: Case, said: Said) -> str:
    """What the client got, seen from outside."""
    name = re.escape(case.shape.name)
    if re.search(rf'"name"\s*:\s*"{name}"|<tool_call|\b{name}\s*\(\{{', said.text):
        return f"pseudo: {said.text!r}"
    if said.reason == "length":
        return "truncated" if not said.calls or case.stream else _judge_calls(case, said)
    if not said.calls:
        return "text" if case.choice == "auto" else "broken: no call"
    if said.reason != "tool_calls":
        return f"broken: calls, and finish reason {said.reason}"
    return _judge_calls(case, said)


def _judge_calls(case: Case, said: Said) -> str:
    schema = case.shape.parameters or {"type": "object"}
    validator = _draft_of(schema)(schema)
    for name, arguments in said.calls:
        try:
            value = json.loads(arguments)
        except ValueError:
            return "invalid"
        if name != case.shape.name or not validator.is_valid(value):
            return "invalid"
    return "valid"


def _draft_of(schema: Any) -> Any:
    """The validator of the draft that a schema is written in: tuples and bounds were once spelt
    otherwise, and the newest draft reads the old spellings as something else."""
    text = json.dumps(schema)
    if re.search(r'"exclusiveM(in|ax)imum": (true|false)', text):
        return jsonschema.Draft4Validator
    old_tuple = re.search(r'"items": \[', text)
    return jsonschema.Draft7Validator if old_tuple else jsonschema.Draft202012Validator


def _whole(form: str, answer: Json) -> Said:
    if form == CHAT:
        choice = answer["choices"][0]
        message = choice["message"]
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        made = tuple((call["name"], call["arguments"]) for call in calls)
        return Said(message.get("content") or "", made, choice["finish_reason"])
    blocks = answer["content"]
    made = tuple((b["name"], json.dumps(b["input"])) for b in blocks if b["type"] == "tool_use")
    text = "".join(b["text"] for b in blocks if b["type"] == "text")
    return Said(text, made, _reason(answer["stop_reason"]))


def _reason(stop_reason: str) -> str:
    return {"tool_use": "tool_calls", "max_tokens": "length"}.get(stop_reason, "stop")


def _chat_stream(events: list[SseEvent]) -> Said:
    text, reason = "", ""
    calls: dict[int, list[str]] = {}
    for event in events:
        chunk = json.loads(event.data) if event.data != b"[DONE]" else {}
        for choice in chunk.get("choices", ()):
            text += choice["delta"].get("content") or ""
            reason = choice.get("finish_reason") or reason
            for call in choice["delta"].get("tool_calls") or ():
                made = calls.setdefault(call["index"], ["", ""])
                made[0] += call["function"].get("name") or ""
                made[1] += call["function"].get("arguments") or ""
    return Said(text, tuple((name, arguments) for name, arguments in calls.values()), reason)


def _messages_stream(events: list[SseEvent]) -> Said:
    text, reason = "", ""
    calls: list[list[str]] = []
    for event in events:
        data = json.loads(event.data)
        if data["type"] == "content_block_start" and data["content_block"]["type"] == "tool_use":
            calls.append([data["content_block"]["name"], ""])
        delta = data.get("delta") or {}
        text += delta.get("text") or ""
        if "partial_json" in delta:
            calls[-1][1] += delta["partial_json"]
        reason = delta.get("stop_reason") or reason
    return Said(text, tuple((name, arguments) for name, arguments in calls), _reason(reason))


async def measure(
    models: Mapping[str, ModelConfig], generations: int, asked: Callable[[], None]
) -> list[tuple[Case, str]]:
    """Every case and what it was; all models side by side."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(http: aiohttp.ClientSession, url: str, case: Case) -> tuple[Case, str]:
        async with slots:
            outcome = await ask(http, url, case)
        asked()
        return case, outcome

    async with AsyncExitStack() as stack:
        engines = {}
        for name, model in models.items():
            engines[name] = (model, await stack.enter_async_context(engine(name, model)))
        door = await stack.enter_async_context(front_door(engines))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=PATIENCE))
        every = [one(http, door.url, case) for case in cases([*models], generations)]
        return await asyncio.gather(*every)


def show(console: Console, outcomes: list[tuple[Case, str]]) -> list[Bar]:
    """The table, and what was wrong; returns the bars."""
    kinds = ("valid", "text", "truncated", "failed", "refused", "pseudo", "invalid", "broken")
    groups: dict[tuple[str, str], Counter[str]] = {}
    for case, outcome in outcomes:
        kind = outcome.partition(":")[0]
        groups.setdefault((case.model, case.choice), Counter())[kind] += 1
    rows = [
        (*key, *(str(counts[kind]) for kind in kinds)) for key, counts in sorted(groups.items())
    ]
    title = f"{len(outcomes)} generations at temperature 1"
    console.print(table(title, ("model", "tool_choice", *kinds), rows, left=2))
    for case, outcome in outcomes:
        if outcome.partition(":")[0] in WRONG:
            console.print(f"{case.shape.name} {case.choice} {case.form}: {outcome}", markup=False)
    totals = sum(groups.values(), Counter())
    refused = {case.shape.name for case, outcome in outcomes if outcome == "refused"}
    return [
        *(Bar(f"calls that are {kind}", totals[kind], 0) for kind in WRONG),
        Bar("calls that are valid", totals["valid"], 1, at_most=False),
        Bar(f"of {len(SHAPES)} shapes refused", len(refused) / len(SHAPES), ALLOWED_REFUSALS),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generations", type=int, default=1000)
    parser.add_argument(
        "--model",
        action="append",
        metavar="FILE:NAME",
        help=f"a model of a stack file; default: {', '.join(DEFAULT_MODELS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    options = parser.parse_args()
    models: dict[str, ModelConfig] = {}
    for each in options.model or DEFAULT_MODELS:
        file, _, name = each.rpartition(":")
        model = model_of(Path(file), name)
        models[f"{name}-{len(models)}"] = model.model_copy(update={"max_running": AT_ONCE})
    console, run = console_of(120), Run("tool_validity", options)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("asking", total=options.generations)
        outcomes = asyncio.run(measure(models, options.generations, lambda: progress.advance(task)))
    bars = show(console, outcomes)
    if options.json:
        rows = [
            {"model": c.model, "shape": c.shape.name, "choice": c.choice, "form": c.form,
             "stream": c.stream, "several": c.several, "outcome": outcome}
            for c, outcome in outcomes
        ]  # fmt: skip
        run.write(options.json, rows, bars)
    return conclude(console, bars)


if __name__ == "__main__":
    sys.exit(main())
