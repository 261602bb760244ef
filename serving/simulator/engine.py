"""The time that an engine takes, without the engine: a queue, one prefill at a time, decode.

    arrive → wait (in order) → prefill, alone → decode, side by side → release
             for a slot and room   fresh tokens / rate   tokens / rate

What is modelled: prefill is one shared resource, so queued prompts wait for each other; cached
blocks cost nothing; a sequence that does not fit waits, and so do those behind it. What is not:
decode slowing down with the batch, chunked prefill, preemption (room for the whole answer is
reserved at the start).

Time comes from a `Clock`, so that the same model runs in virtual time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from serving.config.model import SimulatorConfig
from serving.simulator.cache import BlockCache, Chain, Pins
from serving.tables.base import EngineLoad


class Clock(Protocol):
    """Seconds from an arbitrary start, and a way to let them pass."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the engine sees it: blocks and token counts, no text."""

    prompt: Chain
    """Hashes of the prompt's whole blocks."""
    prompt_tokens: int
    output_tokens: int
    answer: Chain = ()
    """Hashes of the whole blocks of prompt and output together: what the next turn can reuse."""
    session: str = ""
    """What its blocks are published under."""


class Running:
    """A job whose prompt is computed; `decode()` lets the time of its next tokens pass."""

    def __init__(self, engine: SimulatedEngine, cached_tokens: int, came_s: float) -> None:
        """It came at `came_s`, and its prefill begins now."""
        self.cached_tokens = cached_tokens
        self._engine = engine
        self._came_s = came_s
        self._scheduled_s = self._started_s = engine.clock.now()
        self._decoded = 0

    def computed(self) -> None:
        """The prompt is."""
        self._started_s = self._engine.clock.now()

    def times_ms(self) -> dict[str, float]:
        """As vLLM says them at an answer's end."""
        parts = {
            "time_to_first_token_ms": self._started_s - self._scheduled_s,
            "generation_time_ms": self._engine.clock.now() - self._started_s,
            "queue_time_ms": self._scheduled_s - self._came_s,
        }
        return {name: round(1000 * seconds, 3) for name, seconds in parts.items()}

    async def decode(self, tokens: int) -> None:
        """Wait until `tokens` more are generated; measured from the start, so it cannot drift."""
        self._decoded += tokens
        due_s = self._started_s + self._decoded / self._engine.config.decode_tokens_per_s
        wait_s = due_s - self._engine.clock.now()
        if wait_s > 0:
            await self._engine.clock.sleep(wait_s)
        await self._engine.produced(generated_tokens=tokens)


class SimulatedEngine:
    """Queue, cache and clock of one engine. For one event loop."""

    def __init__(
        self, config: SimulatorConfig, *, max_running: int = 256, clock: Clock | None = None
    ) -> None:
        self.config = config
        self.clock: Clock = clock or RealClock()
        self.cache = BlockCache(max(1, config.capacity_tokens // config.block_tokens))
        self._max_running = max_running
        self._head = asyncio.Lock()
        """Held by the first in the queue until its prefill is done; asyncio's lock is fair."""
        self._freed = asyncio.Event()
        self._admitted = 0
        self._running = 0
        self._queried_tokens = 0
        self._hit_tokens = 0
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._produces = asyncio.Event()
        self._produces.set()

    def hang(self) -> None:
        """Take requests and produce nothing from now on, as an engine whose GPU is stuck does."""
        self._produces.clear()

    async def produced(self, *, prompt_tokens: int = 0, generated_tokens: int = 0) -> None:
        """Count tokens, the moment that they are there; for ever later when it hangs."""
        await self._produces.wait()
        self._prompt_tokens += prompt_tokens
        self._generated_tokens += generated_tokens

    def load(self) -> EngineLoad:
        """The same figures that vLLM reports."""
        return EngineLoad(
            running=self._running,
            waiting=self._admitted - self._running,
            kv_usage=self.cache.used_blocks / self.cache.capacity_blocks,
            queried_tokens=self._queried_tokens,
            hit_tokens=self._hit_tokens,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
        )

    @asynccontextmanager
    async def run(self, job: Job) -> AsyncIterator[Running]:
        """Queue, prefill, and enter when the prompt is computed; leaving frees all at once.

        Cancelling at any point frees the slot. Raises ValueError for a job that could never fit.
        """
        block_tokens = self.config.block_tokens
        blocks = -(-(job.prompt_tokens + job.output_tokens) // block_tokens)
        if blocks > self.cache.capacity_blocks:
            raise ValueError(f"the job needs {blocks} blocks of {self.cache.capacity_blocks}")
        # An engine computes at least the last token, so a hit never covers the whole prompt.
        reusable = job.prompt[: (job.prompt_tokens - 1) // block_tokens]
        came_s = self.clock.now()
        self._admitted += 1
        pins: Pins | None = None
        try:
            async with self._head:
                pins = await self._reserve(reusable, blocks)
                pins.session = job.session
                self._running += 1
                cached_tokens = len(pins.held) * block_tokens
                running = Running(self, cached_tokens, came_s)
                self._queried_tokens += job.prompt_tokens
                self._hit_tokens += cached_tokens
                fresh_tokens = job.prompt_tokens - cached_tokens
                await self.clock.sleep(fresh_tokens / self.config.prefill_tokens_per_s)
                await self.produced(prompt_tokens=job.prompt_tokens)
                self.cache.commit(pins, job.prompt)
            running.computed()
            yield running
            self.cache.commit(pins, job.answer)
        finally:
            self._admitted -= 1
            if pins is not None:
                self._running -= 1
                self.cache.release(pins)
                self._freed.set()

    async def _reserve(self, reusable: Chain, blocks: int) -> Pins:
        """Wait for a slot and for room in the cache."""
        while True:
            if self._running < self._max_running:
                pins = self.cache.acquire(reusable, blocks)
                if pins is not None:
                    return pins
            self._freed.clear()
            await self._freed.wait()
