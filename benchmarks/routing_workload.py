"""What agents ask for, as a benchmark replays it: sessions of turns, each a list of token blocks.

    trace file ──► agent_sessions ──┐
    seed ────────► synthetic ───────┼──► Workload ──► routing_world.Stage
    trace file ──► open_requests ───┘

A block is a number; equal numbers mean equal prefixes, all blocks before included. A message is
what the router sees of the same growth: each turn's prompt is its session's earlier messages and
new ones, or, after a compaction, fewer.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

Blocks = Sequence[int]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session."""

    think_s: float
    """From the end of the answer before it: tools, or a person."""
    prompt_tokens: int
    output_tokens: int
    blocks: Blocks
    """Whole blocks of the prompt."""
    messages: tuple[int, ...]
    """Indices into the session's messages; empty where the trace has blocks only."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message's text stands for itself; equal names are equal texts."""

    name: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Session:
    """One program: an agent, with its subagents where they ran."""

    key: str
    """Its id; empty where the trace names no sessions."""
    turns: tuple[Turn, ...]
    messages: tuple[Message, ...]
    start_s: float = 0.0
    """When it arrives, in an open loop."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Sessions in their recorded order."""

    name: str
    sessions: tuple[Session, ...]
    block_tokens: int

    @property
    def turns(self) -> int:
        return sum(len(s.turns) for s in self.sessions)


def oracle_tokens(sessions: Sequence[Session], block_tokens: int) -> int:
    """Tokens that one endless cache for all replicas would find: the most that any policy can.

    Of each prompt, at least the last token is computed.
    """
    seen: set[int] = set()
    total = 0
    for session in sessions:
        for turn in session.turns:
            usable = turn.blocks[: (turn.prompt_tokens - 1) // block_tokens]
            hits = next((i for i, b in enumerate(usable) if b not in seen), len(usable))
            total += hits
            seen.update(turn.blocks[hits:])
    return total * block_tokens


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading blocks two prompts share.

    Bisected: a block stands for all before it too, so equality never comes back.
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high) // 2
        if a[middle] == b[middle]:
            low = middle + 1
        else:
            high = middle
    return low


class Recorder:
    """Builds a session's turns, and the messages that its prompts are made of."""

    def __init__(self, key: str, block_tokens: int) -> None:
        self._key = key
        self._block_tokens = block_tokens
        self.turns: list[Turn] = []
        self.messages: list[Message] = []

    def session(self, start_s: float = 0.0) -> Session:
        return Session(self._key, tuple(self.turns), tuple(self.messages), start_s)

    def program(self, head: Message | None = None) -> Callable[[float, int, int, Blocks], None]:
        """Adds the turns of one agent, or of one subagent: a line of prompts that grow.

        `head` is a first message that other sessions may have too.
        """
        stack: list[tuple[int, int]] = []
        if head is not None:
            self.messages.append(head)
            stack.append((len(self.messages) - 1, head.tokens))
        before: Blocks = ()

        def turn(think_s: float, prompt_tokens: int, output_tokens: int, blocks: Blocks) -> None:
            nonlocal before
            common = common_prefix(before, blocks)
            # Of the newest prompt all but the last block may be common, when what follows the
            # history (the words that ask for an answer) fell into it: nothing was taken back.
            if common < len(before) - 1:
                while stack and stack[-1][1] > common * self._block_tokens:
                    stack.pop()
            done = stack[-1][1] if stack else 0
            if prompt_tokens > done:
                self.messages.append(
                    Message(f"{self._key}/{len(self.messages)}", prompt_tokens - done)
                )
                stack.append((len(self.messages) - 1, prompt_tokens))
            before = blocks
            messages = tuple(index for index, _ in stack)
            self.turns.append(Turn(think_s, prompt_tokens, max(1, output_tokens), blocks, messages))

        return turn


def agent_sessions(
    path: Path, *, context_tokens: int, most_think_s: float, coarser: int = 1
) -> Workload:
    """Recorded coding agents, one session a line (callanjfox/kv-cache-tester's format).

    A session ends before the first turn that does not fit `context_tokens`, as it would on a model
    of such a context; pauses longer than `most_think_s` (a person went home) are cut to it.
    `coarser` recorded blocks make one block of the replay.
    """
    sessions = []
    limits = _Limits(context_tokens, most_think_s, coarser)
    numbers = count()
    block_tokens = 64
    for record in _lines(path):
        block_tokens = int(record["block_size"]) * coarser
        recorder = Recorder(record["id"], block_tokens)
        known: defaultdict[int, int] = defaultdict(lambda: next(numbers))
        _replay(record["requests"], recorder, known, limits)
        if recorder.turns:
            sessions.append(recorder.session())
    return Workload(path.name, tuple(sessions), block_tokens)


@dataclass(frozen=True, slots=True)
class _Limits:
    context_tokens: int
    most_think_s: float
    coarser: int


def _replay(
    requests: Sequence[Mapping[str, Any]],
    recorder: Recorder,
    known: Mapping[int, int],
    limits: _Limits,
) -> None:
    """Requests in order, a subagent's where it was called, since its parent waits for it."""
    turn = recorder.program()
    for request in requests:
        if request["type"] == "subagent":
            _replay(request["requests"], recorder, known, limits)
            continue
        if request["in"] + request["out"] > limits.context_tokens:
            return
        ids = [i for first, n in request["hash_ranges"] for i in range(first, first + n)]
        blocks = [known[i] for i in ids[limits.coarser - 1 :: limits.coarser]]
        think_s = min(request.get("think_time", 0.0), limits.most_think_s)
        turn(think_s, request["in"], request["out"], blocks)


def open_requests(path: Path, *, seconds: float) -> Workload:
    """Requests with arrival times and no sessions (Mooncake's format): an open loop."""
    block_tokens = 512
    sessions = []
    for record in _lines(path):
        start_s = record["timestamp"] / 1000
        if start_s > seconds:
            break
        tokens = record["input_length"]
        whole = record["hash_ids"][: tokens // block_tokens]
        turn = Turn(0.0, tokens, max(1, record["output_length"]), whole, ())
        sessions.append(Session("", (turn,), (), start_s))
    return Workload(path.name, tuple(sessions), block_tokens)


def is_open(path: Path) -> bool:
    """Whether a trace is of requests with timestamps, not of sessions."""
    return "timestamp" in next(_lines(path), {})


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            yield json.loads(line)
