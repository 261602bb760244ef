"""Tasks of an agent as the cost benchmark plays them without engines: 15 prompts that grow.

    trace file ──► recorded ──┐                     (a coding agent's own turns, as they were)
    seed ────────► synthetic ─┴──► tasks ──► compressed ──► the same tasks, tool results cut

Synthetic ones have the shape of 355 recorded coding agents (callanjfox/kv-cache-tester): the head
of tools and instructions, the first prompt, an answer and a tool's result each turn, results with
their long tail (median 313 tokens, mean 2,344). The CPU's are an eighth of it, for 8k of context.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.tiers_sessions import Turn
from serving.config.agent import AgentLimits
from serving.errors import ConfigError

TURNS = 15
BYTES_PER_TOKEN = 4
READ_ON_SHARE = 0.1
"""ASSUMED: of the results that were cut, how many the model reads on in, by one more turn each."""
READ_ON_OUTPUT = 40
"""Tokens of such a call."""


@dataclass(frozen=True, slots=True)
class AgentTurn(Turn):
    """A turn, and what of its prompt came from a tool."""

    key: str = ""
    """Which of the task's turns it is, whatever was put between them."""
    result_tokens: int = 0
    """At the end of the prompt: the result of the last turn's call."""
    checked: bool = True
    """False for one that only reads on in a result: nobody asks whether it was right."""


Task = tuple[AgentTurn, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """How large the tasks are (tokens)."""

    context: int
    head: int
    """Tools and instructions, the same in all tasks of an agent."""
    first: int
    """The first prompt, head included; median."""
    result: int
    """Of a tool, median; `result_spread`: sigma of the logarithm."""
    result_spread: float
    output: int
    limit: int
    """What compression shows of a result."""


SIZES = {
    "cpu": Size(8_192, 1_900, 2_700, 40, 2.0, 30, 128),
    "gpu": Size(
        65_536, 15_000, 25_000, 313, 2.0, 236,
        AgentLimits().tool_result_bytes // BYTES_PER_TOKEN,
    ),
}  # fmt: skip


def synthetic(size: Size, tasks: int, seed: int) -> list[Task]:
    """The same for the same arguments."""
    rng = random.Random(seed)
    made: list[Task] = []
    while len(made) < tasks:
        prompt = size.head + round(_lognormal(rng, size.first - size.head, 0.5))
        turns: list[AgentTurn] = []
        shared = result = 0
        for n in range(TURNS):
            output = max(8, round(_lognormal(rng, size.output, 0.8)))
            turns.append(AgentTurn(prompt, shared, output, str(n), result))
            shared = prompt
            result = min(
                size.context // 4, max(4, round(_lognormal(rng, size.result, size.result_spread)))
            )
            prompt += output + result
        if turns[-1].prompt_tokens + turns[-1].output_tokens <= size.context:
            made.append(tuple(turns))
    return made


def recorded(path: Path, size: Size, most: int) -> list[Task]:
    """The first tasks of a trace of which 15 turns fit the context. Raises ConfigError."""
    made: list[Task] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                session = json.loads(line)
                requests = [each for each in session["requests"] if "in" in each][:TURNS]
                if len(made) < most and _fits(requests, size.context):
                    made.append(_task(requests, session["block_size"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: is no gzipped file of traces: {error!r}") from None
    if not made:
        raise ConfigError(
            f"{path}: no session has {TURNS} turns within {size.context} tokens; take the larger "
            "--profile gpu, or another trace"
        )
    return made


def _fits(requests: Sequence[Mapping[str, Any]], context: int) -> bool:
    return len(requests) == TURNS and all(r["in"] + r["out"] <= context for r in requests)


def _task(requests: Sequence[Mapping[str, Any]], block: int) -> Task:
    turns: list[AgentTurn] = []
    before: list[int] = []
    for n, request in enumerate(requests):
        blocks = [i for first, count in request["hash_ranges"] for i in range(first, first + count)]
        pairs = enumerate(zip(before, blocks, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(before), len(blocks)))
        prompt, result = max(1, int(request["in"])), 0
        if turns and "tool_result" in request["input_types"]:
            result = max(0, prompt - turns[-1].prompt_tokens - turns[-1].output_tokens)
        shared = min(prompt, same * block)
        turns.append(AgentTurn(prompt, shared, max(1, int(request["out"] or 1)), str(n), result))
        before = blocks
    return tuple(turns)


def compressed(task: Task, limit: int, seed: int) -> Task:
    """The same task where no more than `limit` tokens of a result are shown, and some read on.

    What is cut from one prompt is missing in all that follow, as far as they still hold it.
    """
    made: list[AgentTurn] = []
    left_out = 0
    """Of the history that the next prompt shares with this one."""
    for turn in task:
        rng = random.Random(f"{seed}/{turn.key}/{turn.prompt_tokens}")
        before = made[-1] if made else None
        shared = max(0, turn.shared_tokens - left_out)
        if before is not None and shared < 0.9 * before.prompt_tokens:
            left_out = 0  # the history was rewritten: what was cut is not in it any more
            shared = min(turn.shared_tokens, before.prompt_tokens)
        cut = max(0, turn.result_tokens - limit)
        left_out += cut
        now = replace(
            turn,
            prompt_tokens=max(1, turn.prompt_tokens - left_out),
            shared_tokens=min(shared, max(1, turn.prompt_tokens - left_out)),
            result_tokens=turn.result_tokens - cut,
        )
        if cut and rng.random() < READ_ON_SHARE:
            made.append(
                replace(now, output_tokens=READ_ON_OUTPUT, key=f"{now.key}+", checked=False)
            )
            more = min(cut, limit)
            left_out -= more + READ_ON_OUTPUT
            now = replace(
                now,
                prompt_tokens=now.prompt_tokens + READ_ON_OUTPUT + more,
                shared_tokens=now.prompt_tokens,
                result_tokens=more,
            )
        made.append(now)
    return tuple(made)


def _lognormal(rng: random.Random, median: float, sigma: float) -> float:
    return rng.lognormvariate(math.log(median), sigma)
