"""May this call of a tool begin now? Calls at once, calls a minute, and a breaker.

    closed ── failures in a row ──► open ── open_s ──► half open ── one call ──► closed | open

What is counted is one process's own, and forgotten with it: a limit that must hold across
processes belongs to what stands behind the tool.
"""

from __future__ import annotations

import asyncio

from orchestrator.clock import Clock, sleep
from orchestrator.tools.base import ToolError, ToolLimits


class ToolGate:
    """In front of one tool: `async with gate` around each call."""

    def __init__(self, name: str, limits: ToolLimits, clock: Clock) -> None:
        self._name = name
        self._limits = limits
        self._clock = clock
        self._slots = asyncio.Semaphore(limits.at_once) if limits.at_once else None
        self._next_at = 0.0
        self._failures = 0
        self._open_until = 0.0
        self._probing = False

    async def __aenter__(self) -> None:
        """Wait for a call's turn. Raises ToolError while the breaker is open."""
        if self._open_until:
            self._pass_breaker()
        try:
            if self._limits.per_minute:
                await self._wait_for_rate(self._limits.per_minute)
            if self._slots is not None:
                await self._slots.acquire()
        except BaseException:
            self._probing = False
            raise

    async def __aexit__(self, *error: object) -> None:
        self._probing = False
        if self._slots is not None:
            self._slots.release()

    def worked(self) -> None:
        """A call came to an end that speaks for the tool, be it a permanent refusal."""
        self._failures = 0
        self._open_until = 0.0

    def failed(self) -> None:
        """A call failed for a reason that may hit the next one as well."""
        self._failures += 1
        if self._failures >= self._limits.breaker_failures:
            self._open_until = self._clock.now() + self._limits.breaker_open_s

    def _pass_breaker(self) -> None:
        left_s = self._open_until - self._clock.now()
        if left_s > 0 or self._probing:
            raise ToolError(
                "tool_unavailable",
                f"{self._name} failed {self._failures} times in a row and is left alone now",
                retry_after_ms=round(max(left_s, 1.0) * 1000),
                transient=True,
            )
        self._probing = True

    async def _wait_for_rate(self, per_minute: float) -> None:
        now = self._clock.now()
        begins = max(now, self._next_at)
        self._next_at = begins + 60.0 / per_minute
        await sleep(self._clock, begins - now)
