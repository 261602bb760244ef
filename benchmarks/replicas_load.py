"""Agents that talk to real engines through a front door: what is sent, and what is measured.

A session is a system prompt that all share, a task of its own, and turns: the answer comes back,
a tool runs (a pause), its result is appended. Nothing but the end of the prompt changes.

Every policy goes through the same front door. Ours asks for the model and lets the router choose;
the others choose here, and ask for the one replica, which the front door knows under a name of its
own. Each run begins with a word that no other run has, so that nothing is warm.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from serving.protocol import CHAT, SseSplitter, usage_in

FLEET = "fleet"
WORDS = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work number night
point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law
""".split()  # noqa: SIM905  easier to read than a list of eighty strings


@dataclass(frozen=True, slots=True)
class Shape:
    """How much is asked. Lengths are words, a little more than a token each."""

    sessions: int = 6
    turns: int = 8
    head_words: int = 300
    task_words: int = 1100
    result_words: int = 90
    answer_tokens: int = 8
    least_pause_s: float = 0.5
    most_pause_s: float = 3.0
    spread_s: float = 0.5
    """Between the sessions' first turns."""
    seed: int = 7


@dataclass(slots=True)
class Seen:
    """One turn as the client saw it."""

    session: int
    turn: int
    ttft_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    pause_s: float
    replica: str


@dataclass(slots=True)
class Played:
    """One policy's run."""

    turns: list[Seen] = field(default_factory=list)
    session_s: list[float] = field(default_factory=list)
    makespan_s: float = 0.0


Choose = Callable[[str], str]
"""Session → the name to ask the front door for."""


class Client:
    """All sessions of one run, against one front door."""

    def __init__(self, http: aiohttp.ClientSession, url: str, shape: Shape, mark: str) -> None:
        self._http = http
        self._url = url
        self._shape = shape
        self._mark = mark
        self.played = Played()

    async def play(self, choose: Choose, left: Callable[[str, str], None]) -> Played:
        """`left` hears of each turn that has ended: its session and the name it was sent to."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for i in range(self._shape.sessions):
                group.create_task(self._session(i, choose, left))
        self.played.makespan_s = time.monotonic() - started
        return self.played

    async def _session(self, index: int, choose: Choose, left: Callable[[str, str], None]) -> None:
        shape, rng = self._shape, random.Random(self._shape.seed * 1000 + index)
        await asyncio.sleep(index * shape.spread_s)
        started = time.monotonic()
        name = f"{self._mark}-{index}"
        head = random.Random(shape.seed)
        messages = [
            {"role": "system", "content": f"{self._mark} {_words(head, shape.head_words)}"},
            {"role": "user", "content": f"Task {index}: {_words(rng, shape.task_words)}"},
        ]
        for turn in range(shape.turns):
            pause_s = rng.uniform(shape.least_pause_s, shape.most_pause_s) if turn else 0.0
            await asyncio.sleep(pause_s)
            model = choose(name)
            try:
                text, seen = await self._turn(model, name, messages)
            finally:
                left(name, model)
            seen.session, seen.turn, seen.pause_s = index, turn, pause_s
            self.played.turns.append(seen)
            messages.append({"role": "assistant", "content": text})
            messages.append({"role": "user", "content": _words(rng, shape.result_words)})
        self.played.session_s.append(time.monotonic() - started)

    async def _turn(
        self, model: str, session: str, messages: Sequence[dict[str, str]]
    ) -> tuple[str, Seen]:
        return await ask(
            self._http, self._url, model, messages, self._shape.answer_tokens, session=session
        )


async def ask(
    http: aiohttp.ClientSession,
    url: str,
    model: str,
    messages: Sequence[dict[str, str]],
    tokens: int,
    *,
    session: str = "",
) -> tuple[str, Seen]:
    """One streamed answer of exactly so many tokens."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
    }
    headers = {"x-session-id": session} if session else {}
    sent = time.monotonic()
    ttft_s, usage, text, splitter = 0.0, None, [], SseSplitter()
    async with http.post(url + CHAT, json=body, headers=headers) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {await answer.text()}")
        replica = answer.headers.get("x-warmloop-replica", "")
        async for chunk in answer.content.iter_any():
            for event in splitter.feed(chunk):
                usage = usage_in(event.data) or usage
                if event.data == b"[DONE]":
                    continue
                for choice in json.loads(event.data)["choices"]:
                    if content := choice["delta"].get("content"):
                        ttft_s = ttft_s or time.monotonic() - sent
                        text.append(content)
    assert usage is not None, "the engine's stream had no usage"
    seen = Seen(
        0, 0, ttft_s, usage.prompt_tokens, usage.cached_tokens, usage.output_tokens, 0.0, replica
    )
    return "".join(text), seen


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


@dataclass(frozen=True, slots=True)
class Rates:
    """What one idle replica does, measured on the spot."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    """Of one sequence among as many as a replica has in a run."""


async def rates(http: aiohttp.ClientSession, url: str, model: str, beside: int) -> Rates:
    """Prompts of 1,500 words, one after the other; then `beside` answers at once."""
    rng, speeds = random.Random(1), []
    for i in range(3):
        text = [{"role": "user", "content": f"{i} {_words(rng, 1200)}"}]
        _, seen = await ask(http, url, model, text, 2)
        speeds.append((seen.prompt_tokens - seen.cached_tokens) / seen.ttft_s)
    started = time.monotonic()
    words = [[{"role": "user", "content": f"{i} {_words(rng, 5)}"}] for i in range(beside)]
    await asyncio.gather(*(ask(http, url, model, each, 48) for each in words))
    return Rates(sorted(speeds)[1], 48 / (time.monotonic() - started))
