"""What the adapter is worth: the base and it, same questions, same engine, same grammar, in turns.

One real vLLM on CPU serves both. Each question is asked of the base and of the adapter one after
the other, with `tool_choice: required` at temperature 0. Only the decision counts, which is the
name of the tool that is called; it is read from the stream, and the rest is not waited for. The
rates come with Wilson's 95 % intervals, their difference with that of a paired bootstrap over sets
of tools, since questions over the same tools are not independent.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from examples.tool_adapter import data
from serving import reply
from serving.config.model import LoraConfig, ModelConfig
from serving.engines import adapter_for
from serving.engines.base import EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess

SEED = 2027
"""Of the held-out questions; never tuned on."""
BASE, TUNED = "small", "smollm2-tools"
RESAMPLES = 10_000
WORKERS = 3
PATIENCE = aiohttp.ClientTimeout(total=900)
MAX_TOKENS = 60  # a name and its braces; the stream is left as soon as the name is there


def run(
    config: ModelConfig,
    weights: Path,
    adapter: Path,
    series: Mapping[str, Sequence[data.Example]],
    keep: Path | None,
) -> None:
    """Ask each series, print its figures, and write every answer to `keep`."""
    asyncio.run(_run(config, weights, adapter, series, keep))


def everyday() -> list[data.Example]:
    """benchmarks/everyday_questions.py: thirty questions over all ten tools at once."""
    from benchmarks.everyday_questions import QUESTIONS, TOOLS

    return [
        data.Example(
            [*TOOLS, reply.DEFINITION],
            [{"role": "user", "content": question.text}, {}],
            question.tool or data.REPLY,
            "call" if question.tool else "no tool",
        )
        for question in QUESTIONS
    ]


async def _run(
    config: ModelConfig,
    weights: Path,
    adapter: Path,
    series: Mapping[str, Sequence[data.Example]],
    keep: Path | None,
) -> None:
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    lora = LoraConfig(enabled=True, max_rank=rank, max_resident=1, max_cached=1)
    config = config.model_copy(update={"lora": lora})
    engine = adapter_for("vllm")
    answers: dict[str, list[dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with aiohttp.ClientSession(timeout=PATIENCE) as http:
            process = EngineProcess(engine, http)
            print("starting the engine", flush=True)
            process.start(EngineSpec(BASE, config, weights, free_port()), Path(folder, "log"))
            try:
                await process.wait_ready(config.ready_timeout_s)
                await engine.load_adapter(http, process.spec.url, TUNED, adapter)
                for name, asked in series.items():
                    answers[name] = await _ask_all(http, process.spec.url, asked)
                    print("\n".join([name, *report(answers[name])]), flush=True)
                    if keep is not None:
                        _write(keep, answers)
            finally:
                await process.stop(drain_s=0)


def _write(path: Path, answers: Any) -> None:
    path.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


async def _ask_all(
    http: aiohttp.ClientSession, url: str, asked: Sequence[data.Example]
) -> list[dict[str, str]]:
    sets: dict[int, list[int]] = {}
    for number, example in enumerate(asked):
        sets.setdefault(id(example.tools), []).append(number)
    waiting = iter(enumerate(sets.values()))
    answers: dict[int, dict[str, str]] = {}
    began = time.monotonic()

    async def work() -> None:
        # Sets side by side, a set's questions in turn: the first leaves its tools in the cache.
        for place, numbers in waiting:
            for number in numbers:
                example = asked[number]
                answer = {"set": str(place), "kind": example.kind, "right": example.decision}
                answer["question"] = example.messages[-2]["content"]
                for model in (BASE, TUNED) if number % 2 else (TUNED, BASE):
                    answer[model] = await _decision(http, url, model, example)
                answers[number] = answer
                if len(answers) % 10 == 0:
                    spent = (time.monotonic() - began) / 60
                    print(f"{len(answers)} of {len(asked)} asked in {spent:.1f} min", flush=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work())
    return [answers[number] for number in sorted(answers)]


async def _decision(
    http: aiohttp.ClientSession, url: str, model: str, example: data.Example
) -> str:
    """The name of the tool that `model` calls; empty if it called none."""
    body = {
        "model": model,
        "messages": example.messages[:-1],
        "tools": example.tools,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
    }
    async with http.post(f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"the engine answered {answer.status}: {await answer.text()}")
        async for line in answer.content:
            name = _name(line)
            if name:
                answer.close()  # leaving frees the engine's slot
                return name
    return ""


def _name(line: bytes) -> str:
    if not line.startswith(b"data: {"):
        return ""
    chunk: dict[str, Any] = json.loads(line[6:])
    for choice in chunk.get("choices", ()):
        for call in choice["delta"].get("tool_calls") or ():
            if name := (call.get("function") or {}).get("name"):
                return str(name)
    return ""


def report(answers: Sequence[dict[str, str]]) -> list[str]:
    """The figures as lines, by kind and in all."""
    lines = []
    kinds = [*dict.fromkeys(answer["kind"] for answer in answers), ""]
    for kind in kinds:
        some = [answer for answer in answers if kind in ("", answer["kind"])]
        base = [answer[BASE] == answer["right"] for answer in some]
        tuned = [answer[TUNED] == answer["right"] for answer in some]
        lines.append(
            f"{kind or 'all':>8}: base {said(base)}, adapter {said(tuned)}, of {len(some)}"
        )
    low, high = gain([answer["set"] for answer in answers], base, tuned)
    points = 100 * (sum(tuned) - sum(base)) / len(base)
    lines.append(
        f"the adapter gains {points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    )
    return lines


def said(right: Sequence[bool]) -> str:
    """A rate in percent with Wilson's 95 % interval."""
    count, z = len(right), 1.96
    rate = sum(right) / count
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{100 * rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def gain(sets: Sequence[str], base: Sequence[bool], tuned: Sequence[bool]) -> tuple[float, float]:
    """The 95 % interval of the gain in points: a paired bootstrap over sets of tools."""
    rng = random.Random(0)
    by_set: dict[str, tuple[int, int]] = {}
    for name, before, after in zip(sets, base, tuned, strict=True):
        gained, count = by_set.get(name, (0, 0))
        by_set[name] = gained + int(after) - int(before), count + 1
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(list(by_set.values()), k=len(by_set))
        means.append(100 * sum(g for g, _ in drawn) / sum(n for _, n in drawn))
    means.sort()
    return means[RESAMPLES // 40], means[-RESAMPLES // 40 - 1]
