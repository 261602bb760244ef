"""Load benchmark, what is said: scripts of sessions, and their prompts as text.

    Shape, seed ──► Synthetic ──┐
    trace file ───► Recorded ───┴──► script(i) ──► Dialogue(script, mark) ──► prompt(turn)

A script is sizes and pauses; a dialogue is one session that plays it: its prompts hold the answers
that the server really gave, and so grow at their end. Equal names are equal texts, and a text
begins with its name: prompts share what their scripts share, and nothing else. `mark` is in each
name, so that no run finds what an earlier one left in a cache.

Sizes are in tokens, and are kept in common words, a little more than a token each. What they came
to is said by the server's own count.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol

from benchmarks import routing_workload as recorded
from benchmarks.replicas_load import WORDS

HEAD = "head"
"""The name of a system prompt, which all sessions have."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text."""

    name: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One turn: what its prompt shows, and how long it is waited for."""

    pause_s: float
    """From the end of the answer before it: a tool, or a person."""
    shows: tuple[int, ...]
    """Indices into the script's messages."""
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Script:
    """What one session will say."""

    messages: tuple[tuple[Piece, ...], ...]
    asks: tuple[Ask, ...]


class Workload(Protocol):
    """Sessions without end."""

    @property
    def name(self) -> str: ...

    @property
    def starts_s(self) -> Sequence[float]:
        """When they began, where somebody recorded it."""

    def script(self, number: int) -> Script:
        """The same for the same number."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A synthetic session. Sizes and pauses are medians; `spread` is the sigma of the lognormal
    that they are drawn from, and 0 makes all sessions alike."""

    turns: int = 5
    head_tokens: int = 300
    first_tokens: int = 400
    next_tokens: int = 120
    answer_tokens: int = 48
    tool_s: float = 0.5
    think_s: float = 5.0
    tool_share: float = 0.75
    """Of the turns after the first, those that a tool's result begins; the others, a person."""
    spread: float = 0.5
    context_tokens: int = 8192
    """A session ends before a turn that would not fit."""


class Synthetic:
    """Agents: one system prompt, a task of their own, then results of tools and words of people."""

    starts_s: Sequence[float] = ()

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape = shape
        self._seed = seed
        self.name = f"synthetic, {shape.turns} turns"

    def script(self, number: int) -> Script:
        shape, rng = self._shape, random.Random(f"{self._seed}/{number}")

        def size(median: int) -> int:
            return max(1, round(median * math.exp(rng.gauss(0, shape.spread))))

        messages = [(Piece(HEAD, shape.head_tokens),)] if shape.head_tokens else []
        used = shape.head_tokens
        asks: list[Ask] = []
        for n in range(size(shape.turns) if shape.turns > 1 else 1):
            tokens = size(shape.next_tokens if n else shape.first_tokens)
            output_tokens = size(shape.answer_tokens)
            if asks and used + tokens + output_tokens > shape.context_tokens:
                break
            used += tokens + output_tokens
            messages.append((Piece(f"{number}/{n}", tokens),))
            median_s = shape.tool_s if rng.random() < shape.tool_share else shape.think_s
            pause_s = median_s * math.exp(rng.gauss(0, shape.spread)) if n else 0.0
            asks.append(Ask(pause_s, tuple(range(len(messages))), output_tokens))
        return Script(tuple(messages), tuple(asks))


class Recorded:
    """Sessions of a trace, in their order, and from the beginning again with other texts."""

    def __init__(self, name: str, scripts: Sequence[Script], starts_s: Sequence[float]) -> None:
        self.name = name
        self.starts_s = starts_s
        self._scripts = scripts

    def script(self, number: int) -> Script:
        again, number = divmod(number, len(self._scripts))
        script = self._scripts[number]
        if not again:
            return script
        other = [[Piece(f"{again}+{p.name}", p.tokens) for p in m] for m in script.messages]
        return Script(tuple(map(tuple, other)), script.asks)


def read(path: Path, *, context_tokens: int, most_think_s: float, scale: float) -> Recorded:
    """A trace of sessions, or of requests with their times (see `routing_workload`).

    Sizes are multiplied by `scale`, and then a session ends, or a request is left out, where it
    does not fit the context. Raises ValueError when nothing is left.
    """
    whole = int(context_tokens / scale)
    if recorded.is_open(path):
        found = recorded.open_requests(path, seconds=math.inf)
        fit = [s for s in found.sessions if _tokens(s.turns[0]) <= whole]
        scripts = [_request(s, i, found.block_tokens, scale) for i, s in enumerate(fit)]
        made = Recorded(path.name, scripts, [s.start_s for s in fit])
    else:
        found = recorded.agent_sessions(
            path, context_tokens=whole, most_think_s=most_think_s, coarser=1
        )
        scripts = [_session(session, scale) for session in found.sessions]
        made = Recorded(path.name, scripts, ())
    if not scripts:
        raise ValueError(
            f"{path}: no session fits {context_tokens} tokens; raise --context-tokens, or lower "
            f"--scale (now {scale:g})"
        )
    return made


def _tokens(turn: recorded.Turn) -> int:
    return turn.prompt_tokens + turn.output_tokens


def _request(session: recorded.Session, number: int, block_tokens: int, scale: float) -> Script:
    """One message; its blocks are shared with other requests that have them, the rest is not."""
    turn = session.turns[0]
    pieces = [Piece(f"b{block}", _scaled(block_tokens, scale)) for block in turn.blocks]
    if rest := turn.prompt_tokens - len(turn.blocks) * block_tokens:
        pieces.append(Piece(f"r{number}", _scaled(rest, scale)))
    return Script((tuple(pieces),), (Ask(0.0, (0,), _scaled(turn.output_tokens, scale)),))


def _session(session: recorded.Session, scale: float) -> Script:
    """A recorded message holds the answer before it; here the server's own stands there."""
    answered: dict[int, int] = {}
    tokens = [message.tokens for message in session.messages]
    known: set[int] = set()
    for turn in session.turns:
        for before, index in pairwise(turn.messages):
            if index not in known:
                tokens[index] -= answered.get(before, 0)
        known.update(turn.messages)
        answered[turn.messages[-1]] = turn.output_tokens
    messages = [
        (Piece(message.name, _scaled(count, scale)),)
        for message, count in zip(session.messages, tokens, strict=True)
    ]
    asks = [Ask(t.think_s, t.messages, _scaled(t.output_tokens, scale)) for t in session.turns]
    return Script(tuple(messages), tuple(asks))


def _scaled(tokens: int, scale: float) -> int:
    return max(1, round(tokens * scale))


class Dialogue:
    """One session that plays its script."""

    def __init__(self, script: Script, mark: str) -> None:
        self.script = script
        self._mark = mark
        self._texts: dict[int, str] = {}
        self._answers: dict[int, str] = {}

    def prompt(self, turn: int) -> list[dict[str, str]]:
        """The messages of that turn: roles alternate after the system prompt, as templates ask."""
        made: list[dict[str, str]] = []
        shows = self.script.asks[turn].shows
        for index in shows:
            pieces = self.script.messages[index]
            text = self._texts.get(index)
            if text is None:
                text = self._texts[index] = " ".join(_text(self._mark, each) for each in pieces)
            role = "system" if pieces[0].name == HEAD and index == 0 else "user"
            if made and made[-1]["role"] == role:
                made[-1]["content"] += f"\n\n{text}"
            else:
                made.append({"role": role, "content": text})
            if index in self._answers and index != shows[-1]:
                made.append({"role": "assistant", "content": self._answers[index]})
        return made

    def answered(self, turn: int, text: str) -> None:
        """The server's answer, for the prompts to come."""
        self._answers[self.script.asks[turn].shows[-1]] = text


def _text(mark: str, piece: Piece) -> str:
    name = f"{mark}.{piece.name}"
    words = max(0, piece.tokens - _NAME_TOKENS)
    at = zlib.crc32(name.encode()) % (_LONGEST // 2)
    parts = [name]
    while words:  # once, but for very long ones
        taken = min(words, _LONGEST - at)
        parts.append(_CORPUS[_STARTS[at] : _STARTS[at + taken] - 1])
        words, at = words - taken, 0
    return " ".join(parts)


def _corpus(words: int) -> tuple[str, Mapping[int, int] | Sequence[int]]:
    """Words in a row, and where each begins: a text is a slice, which costs nothing to make."""
    drawn = random.Random(1).choices(WORDS, k=words)
    return " ".join(drawn) + " ", [0, *accumulate(len(word) + 1 for word in drawn)]


_LONGEST = 1 << 16
_NAME_TOKENS = 8
_CORPUS, _STARTS = _corpus(_LONGEST)
