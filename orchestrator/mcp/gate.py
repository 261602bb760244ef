"""May a call go to this MCP server now? Its rate, its breaker, and how many may be there at once.

    enter() ──► the call ──► succeeded() | failed()
      └── NotSent: which limit, and when to come back

    breaker   closed ──failures in a row──► open ──pause──► half open: one call goes through to try
                ▲                             ▲                 │
                └───────── it succeeds ───────┴─── it fails, and the pause doubles

Failures are those of the server as a whole: unreachable, lost, silent. A tool that answers with an
error has answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from orchestrator.mcp.failures import NotSent, OutcomeOpen
from serving.config.mcp import BreakerConfig, McpServerConfig, RateConfig

Condition = Literal["closed", "open", "half_open"]


class Breaker:
    """Counts failures in a row; all times in seconds of the clock that is handed in."""

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self._failures = 0
        self._pause_s = config.pause_s
        self._open_until = 0.0
        self._trying = False

    def condition(self, now: float) -> Condition:
        if self._failures < self._config.failures:
            return "closed"
        return "half_open" if self._trying or now >= self._open_until else "open"

    def enter(self, now: float) -> None:
        """Raises NotSent while calls shall not go; else, half open, this one is the try."""
        condition = self.condition(now)
        if condition == "open" or (condition == "half_open" and self._trying):
            wait_s = max(0.0, self._open_until - now)
            raise NotSent(
                f"it failed {self._failures} times in a row and is left alone for a while",
                retry_after_s=max(1.0, wait_s),
            )
        self._trying = condition == "half_open"

    def succeeded(self) -> None:
        self._failures = 0
        self._pause_s = self._config.pause_s
        self._trying = False

    def failed(self, now: float) -> None:
        if self._trying:  # calls that were under way when it opened lengthen nothing
            self._pause_s = min(self._config.max_pause_s, self._pause_s * 2)
        self._failures += 1
        self._trying = False
        if self._failures >= self._config.failures:
            self._open_until = now + self._pause_s

    def forget_try(self) -> None:
        """The try was given up before it could tell anything."""
        self._trying = False


class Rate:
    """A token bucket: `burst` calls at one moment, `per_minute` in the long run."""

    def __init__(self, config: RateConfig, now: float) -> None:
        self._config = config
        self._level = float(config.burst)
        self._at = now

    def enter(self, now: float) -> None:
        """Take one; raises NotSent with the seconds until there is one again."""
        per_s = self._config.per_minute / 60
        self._level = min(self._config.burst, self._level + max(0.0, now - self._at) * per_s)
        self._at = now
        if self._level < 1:
            raise NotSent(
                f"its limit of {self._config.per_minute:g} calls a minute is reached",
                retry_after_s=(1 - self._level) / per_s,
            )
        self._level -= 1


class Gate:
    """All that stands before one server; `now` is a monotonic clock."""

    def __init__(self, config: McpServerConfig, now: Callable[[], float]) -> None:
        self._now = now
        self.breaker = Breaker(config.breaker)
        self._rate = Rate(config.rate, now())
        self._slots = asyncio.Semaphore(config.max_concurrent)

    @property
    def is_shut(self) -> bool:
        """Calls fail at once now: it failed too often in a row."""
        return self.breaker.condition(self._now()) == "open"

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one call: waits for a slot, and learns from how the call ends."""
        async with self._slots:
            self.breaker.enter(self._now())
            try:
                self._rate.enter(self._now())
            except NotSent:
                self.breaker.forget_try()
                raise
            try:
                yield
            except NotSent as unsent:
                if unsent.retry_after_s is None:
                    self.breaker.failed(self._now())
                else:  # it lives, and asks for patience
                    self.breaker.succeeded()
                raise
            except OutcomeOpen:
                self.breaker.failed(self._now())
                raise
            except BaseException as error:
                if isinstance(error, Exception):
                    self.breaker.succeeded()  # it answered, if with an error
                else:
                    self.breaker.forget_try()
                raise
            self.breaker.succeeded()
