"""Steady load on a front door: sessions that talk, streaming and not, and how each turn ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PATIENCE_S = 180.0


@dataclass
class Outcome:
    """One turn, from its first byte to its end."""

    status: int = 0
    replica: str = ""
    finished: bool = False
    """A whole answer; of a stream: it reached [DONE] without an error event."""
    error: Any = None
    """OpenAI's error object, from the body or from an event of the stream."""
    broken: str = ""
    """What the client's connection raised."""

    @property
    def well(self) -> bool:
        return self.status == 200 and self.finished and not self.broken

    @property
    def said_so(self) -> bool:
        """It failed, as OpenAI's errors do: with a message and a type."""
        return isinstance(self.error, dict) and {"message", "type"} <= self.error.keys()


@dataclass
class Load:
    """What the sessions have seen so far."""

    turns: list[Outcome] = field(default_factory=list)
    stopping: bool = False

    @property
    def failed(self) -> list[Outcome]:
        return [turn for turn in self.turns if not turn.well]

    @property
    def replicas(self) -> set[str]:
        return {turn.replica for turn in self.turns if turn.replica}

    async def more(self, count: int) -> None:
        """Wait until so many more turns have ended."""
        due = len(self.turns) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.turns) < due:  # noqa: ASYNC110 the turns are other tasks' doing
                await asyncio.sleep(0.05)


async def ask(
    http: aiohttp.ClientSession,
    url: str,
    model: str,
    *,
    stream: bool,
    words: int,
    session: str,
    max_tokens: int | None = None,
    fresh_bytes: int = 0,
    on_begin: Callable[[], object] = lambda: None,
) -> Outcome:
    """One turn of about `words` tokens (a simulated engine's), at most `max_tokens`.

    Its prompt begins with `fresh_bytes` that no cache holds. `on_begin` is called when the
    answer's headers are here: an engine is at work on it.
    """
    text = "and " * words
    messages = [{"role": "user", "content": f"SIMULATE: {json.dumps({'text': text})}"}]
    if fresh_bytes:
        fresh = secrets.token_hex(fresh_bytes // 2)
        messages = [{"role": "system", "content": fresh}, *messages]
    body = {
        "model": model,
        "messages": messages,
        "stream": stream,
        **({} if max_tokens is None else {"max_tokens": max_tokens}),
    }
    seen = Outcome()
    try:
        async with http.post(
            f"{url}/v1/chat/completions", json=body, headers={"x-session-id": session}
        ) as answer:
            seen.status = answer.status
            seen.replica = answer.headers.get("x-warmloop-replica", "")
            on_begin()
            await (_events(answer, seen) if stream else _whole(answer, seen))
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.broken = repr(error)
    return seen


async def _whole(answer: aiohttp.ClientResponse, seen: Outcome) -> None:
    said = await answer.json()
    seen.error = said.get("error")
    seen.finished = bool(said.get("choices"))


async def _events(answer: aiohttp.ClientResponse, seen: Outcome) -> None:
    if answer.status != 200:
        return await _whole(answer, seen)
    async for line in answer.content:
        if line.startswith(b"data: [DONE]"):
            seen.finished = seen.error is None
        elif line.startswith(b"data: "):
            seen.error = json.loads(line[6:]).get("error") or seen.error
    return None


def client() -> aiohttp.ClientSession:
    """No limit on connections; a turn that takes longer than the patience hangs."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
    )


@asynccontextmanager
async def steady(
    url: str,
    model: str,
    *,
    sessions: int,
    words: int,
    max_tokens: int | None = None,
    fresh_bytes: int = 0,
    named: str = "s",
) -> AsyncIterator[Load]:
    """`sessions` that talk without a pause, each turn streaming and not in turn."""
    load = Load()

    async def talk(http: aiohttp.ClientSession, number: int) -> None:
        for turn in itertools.count(number):
            if load.stopping:
                return
            seen = await ask(
                http,
                url,
                model,
                stream=bool(turn % 2),
                words=words,
                session=f"{named}{number}",
                max_tokens=max_tokens,
                fresh_bytes=fresh_bytes,
            )
            load.turns.append(seen)
            if not seen.well:
                await asyncio.sleep(0.2)  # a failure is counted, not repeated a thousand times

    async with client() as http, asyncio.TaskGroup() as group:
        for number in range(sessions):
            group.create_task(talk(http, number))
        try:
            yield load
        finally:
            load.stopping = True
