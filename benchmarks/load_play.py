"""Load benchmark, the run: sessions begin when they are due, and take their turns.

    feeder ──at its time──► session ──► due, send, read ──► due: end of the answer + pause ──► ...

The first turn of a session is due when the session arrives, each other one a pause after the
answer before it. Latencies count from then, not from when the request left: a client that is late
must not make the server look quick (coordinated omission). How late requests left is measured too,
and, since a client that is busy also reads late, so is how late the loop's own timers are.

After `seconds` nothing new begins, and what runs may end.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks.load_client import Client, now
from benchmarks.load_stream import Reader
from benchmarks.load_workload import Dialogue, Workload

TOO_MANY = "not sent: too many are open"
_PULSE_S = 0.02
_json = msgspec.json.Encoder()


class Sent(msgspec.Struct, gc=False):
    """One request. Seconds from the beginning of the run; 0 what has not happened."""

    session: int
    turn: int
    due_s: float
    left_s: float = 0.0
    """When its turn came: before it was written as bytes, and before a connection was opened."""
    sent_s: float = 0.0
    first_byte_s: float = 0.0
    token_s: tuple[float, ...] = ()
    end_s: float = 0.0
    error: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int = 0
    """As the server counts, or else chunks with a token."""

    @property
    def ttft_s(self) -> float:
        """From when it was due; only where a token came."""
        return self.token_s[0] - self.due_s

    @property
    def latency_s(self) -> float:
        return self.end_s - self.due_s

    @property
    def lag_s(self) -> float:
        return max(0.0, self.left_s - self.due_s)


@dataclass(slots=True)
class Played:
    """A run, as far as it has come."""

    seconds: float
    sent: list[Sent] = field(default_factory=list)
    """Those that have ended."""
    pulses_s: list[float] = field(default_factory=list)
    """How late the loop's timers were."""
    begun: int = 0
    """Sessions."""
    ended_s: list[float] = field(default_factory=list)
    """When sessions had their last answer."""
    open: int = 0
    failed: int = 0
    cores: float = 0.0
    """CPU that this process used, over the time that the run took."""
    said: dict[str, str] = field(default_factory=dict)
    """By error: what the server, or the system, said the first time."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How each request is written."""

    model: str
    body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request beside ours; null takes one of ours away."""
    session_header: str = ""
    timeout_s: float = 120.0
    most_open: int = 4096

    def bytes_of(self, client: Client, dialogue: Dialogue, turn: int, session: str) -> bytes:
        body = {
            "model": self.model,
            "messages": dialogue.prompt(turn),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": dialogue.script.asks[turn].output_tokens,
            **self.body,
        }
        kept = {name: value for name, value in body.items() if value is not None}
        headers = {self.session_header: session} if self.session_header else {}
        return client.request("POST", "/chat/completions", _json.encode(kept), headers)


class Player:
    """One run. `mark` must be of this run alone: it is in all its prompts."""

    def __init__(
        self, client: Client, workload: Workload, asking: Asking, seconds: float, mark: str
    ) -> None:
        self._client = client
        self._workload = workload
        self._asking = asking
        self._mark = mark
        self.played = Played(seconds)

    async def run(
        self, arrivals_s: Sequence[float], watch: Callable[[Played, float], None] = lambda *_: None
    ) -> Played:
        """To its end. `watch` hears of it several times a second."""
        gc.collect()
        gc.freeze()  # what is there stays: the collector need not walk it while time is measured
        self._began_s, cpu_s = now(), time.process_time()
        pulse = asyncio.create_task(self._pulse(watch))
        try:
            async with asyncio.TaskGroup() as group:
                for number, due_s in enumerate(arrivals_s):
                    await self._until(due_s)
                    group.create_task(self._session(number, due_s))
        finally:
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)
            gc.unfreeze()
        self.played.cores = (time.process_time() - cpu_s) / self._now_s()
        return self.played

    def _now_s(self) -> float:
        return now() - self._began_s

    async def _until(self, due_s: float) -> None:
        """Never before; uvloop's timers have whole milliseconds, and round."""
        while (wait_s := due_s - self._now_s()) > 0:  # noqa: ASYNC110  time passes, no event does
            await asyncio.sleep(math.ceil(wait_s * 1000) / 1000)

    async def _session(self, number: int, due_s: float) -> None:
        played = self.played
        played.begun += 1
        dialogue = Dialogue(self._workload.script(number), self._mark)
        for turn, ask in enumerate(dialogue.script.asks):
            due_s += ask.pause_s if turn else 0.0
            if due_s >= played.seconds:
                return
            await self._until(due_s)
            sent = await self._turn(dialogue, Sent(number, turn, due_s, left_s=self._now_s()))
            played.sent.append(sent)
            if sent.error:
                played.failed += 1
                return
            due_s = sent.end_s
        played.ended_s.append(due_s)

    async def _turn(self, dialogue: Dialogue, sent: Sent) -> Sent:
        played, asking, reader = self.played, self._asking, Reader()
        if played.open >= asking.most_open:
            sent.error, sent.end_s = TOO_MANY, sent.left_s
            return sent
        session = f"{self._mark}-{sent.session}"
        request = asking.bytes_of(self._client, dialogue, sent.turn, session)
        played.open += 1
        try:
            made = await self._client.send(request, reader.feed, asking.timeout_s)
        finally:
            played.open -= 1
        began_s = self._began_s
        sent.sent_s = made.sent_s - began_s if made.sent_s else 0.0
        sent.first_byte_s = made.first_byte_s - began_s if made.first_byte_s else 0.0
        sent.token_s = tuple(at - began_s for at in reader.token_s)
        sent.end_s = made.end_s - began_s
        sent.prompt_tokens, sent.cached_tokens = reader.prompt_tokens, reader.cached_tokens
        sent.output_tokens = reader.output_tokens or len(reader.token_s)
        sent.error = made.error or (reader.error() if made.status == 200 else f"HTTP {made.status}")
        if sent.error:
            said = made.why or reader.said.decode(errors="replace")
            played.said.setdefault(sent.error, said)
        dialogue.answered(sent.turn, reader.text)
        return sent

    async def _pulse(self, watch: Callable[[Played, float], None]) -> None:
        while True:
            for _ in range(10):
                due_s = self._now_s() + _PULSE_S
                await asyncio.sleep(_PULSE_S)
                self.played.pulses_s.append(max(0.0, self._now_s() - due_s))
            watch(self.played, self._now_s())
