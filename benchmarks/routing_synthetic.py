"""Workloads made by code: coding agents by default, and many small chats with one long head.

The agents have the shape of recorded ones (355 sessions of callanjfox/kv-cache-tester, cut to
150,000 tokens of context and pauses of 60 s). Calibrated to: turns a session, first prompt, growth
of the prompt a turn, answer, pause, how often a history is rewritten and to what length, and so the
share of prompt tokens that an endless cache would find (.96 in both). Heads of tools and system
prompt are those of a few agents, and sessions of one agent share them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.routing_workload import Message, Recorder, Workload

AGENTS = 6
SUBAGENT_SHARE = 0.13
"""Of sessions, those that call one."""
REWRITE_SHARE = 0.0165
"""Of turns, those whose prompt keeps only the head of the one before."""


class Numbers:
    """Blocks that nobody has had yet."""

    def __init__(self, block_tokens: int) -> None:
        self.tokens = block_tokens
        self._next = 0

    def take(self) -> int:
        self._next += 1
        return self._next


class _Prompt:
    """A prompt's length and its blocks, which grow at the end."""

    def __init__(self, numbers: Numbers, head: Sequence[int] = (), tokens: int = 0) -> None:
        self._new = numbers
        self._head = list(head)
        self.head_tokens = tokens
        self.tokens = tokens
        self.blocks = list(head)

    def grow(self, tokens: int) -> None:
        self.tokens += tokens
        while (len(self.blocks) + 1) * self._new.tokens <= self.tokens:
            self.blocks.append(self._new.take())

    def rewrite(self, tokens: int) -> None:
        """Only the head stays; something else of so many tokens comes after it."""
        self.tokens, self.blocks = self.head_tokens, list(self._head)
        self.grow(tokens)


def synthetic(
    sessions: int,
    *,
    seed: int,
    context_tokens: int = 150_000,
    most_think_s: float = 60.0,
    block_tokens: int = 64,
    turns_scale: float = 1.0,
) -> Workload:
    """So many coding agents; the same for the same arguments."""
    rng = random.Random(seed)
    numbers = Numbers(block_tokens)
    heads = []
    for _ in range(AGENTS):
        tokens = round(rng.triangular(11_000, 18_000, 15_000))
        heads.append((tokens, [numbers.take() for _ in range(tokens // block_tokens)]))
    made = []
    for i in range(sessions):
        key = f"synthetic-{i}"
        recorder = Recorder(key, block_tokens)
        agent = rng.randrange(AGENTS)
        tokens, blocks = heads[agent]
        prompt = _Prompt(numbers, blocks, tokens)
        turn = recorder.program(Message(f"agent-{agent}", tokens))
        if rng.random() < 0.3:  # resumed: its history is as long as it was left
            prompt.grow(round(rng.uniform(20_000, 115_000)))
        else:
            prompt.grow(round(_lognormal(rng, 5_000, 0.9)))
        turns = max(2, min(350, round(_lognormal(rng, 44, 0.95) * turns_scale)))
        calls = rng.randrange(turns) if rng.random() < SUBAGENT_SHARE else -1
        for n in range(turns):
            output_tokens = max(20, min(18_000, round(_lognormal(rng, 214, 1.16))))
            if n:
                prompt.grow(max(40, round(_lognormal(rng, 628, 1.4))))
            if prompt.tokens + output_tokens > context_tokens:
                if rng.random() < 0.7:
                    break  # most are ended here, or handed to a person
                prompt.rewrite(round(_lognormal(rng, 15_000, 0.6)))
            elif n and rng.random() < REWRITE_SHARE:
                prompt.rewrite(round(rng.uniform(5_000, 110_000)))
            think_s = min(most_think_s, 3 + _lognormal(rng, 6, 1.9)) if n else 0.0
            turn(think_s, prompt.tokens, output_tokens, list(prompt.blocks))
            if n == calls:
                _subagent(rng, recorder, numbers)
        made.append(recorder.session())
    return Workload(f"synthetic coding agents (seed {seed})", tuple(made), block_tokens)


def _subagent(rng: random.Random, recorder: Recorder, numbers: Numbers) -> None:
    """A child with a prompt of its own, while its parent waits."""
    prompt = _Prompt(numbers)
    turn = recorder.program()
    prompt.grow(round(rng.uniform(8_000, 12_000)))
    for n in range(rng.randint(4, 18)):
        if n:
            prompt.grow(round(_lognormal(rng, 1_500, 1.0)))
        turn(2.0, prompt.tokens, round(_lognormal(rng, 200, 0.8)) + 20, list(prompt.blocks))


def _lognormal(rng: random.Random, median: float, sigma: float) -> float:
    return rng.lognormvariate(math.log(median), sigma)


def one_long_head(
    sessions: int, *, seed: int, turns: int = 6, head_tokens: int = 2048, block_tokens: int = 64
) -> Workload:
    """Small chats of one application: all begin with the same 8 KB, and say no id."""
    rng = random.Random(seed)
    numbers = Numbers(block_tokens)
    head = [numbers.take() for _ in range(head_tokens // block_tokens)]
    made = []
    for i in range(sessions):
        recorder = Recorder(f"chat-{i}", block_tokens)
        turn = recorder.program(Message("shared-head", head_tokens))
        prompt = _Prompt(numbers, head, head_tokens)
        for n in range(turns):
            prompt.grow(rng.randint(100, 300))
            think_s = rng.uniform(2.0, 20.0) if n else 0.0
            turn(think_s, prompt.tokens, rng.randint(50, 150), list(prompt.blocks))
        made.append(replace(recorder.session(), key=""))
    return Workload("one shared head of 8 KB", tuple(made), block_tokens)
