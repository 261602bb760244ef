"""Time as a collaborator: what the clock says, and being called later.

Everything in the orchestrator that waits does it through a `Clock`, so that tests drive time by
hand. `now` is Unix time, because deadlines are kept in the journal and must survive a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget the call; harmless when it has happened."""


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Unix time in seconds."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call back on the running loop after `delay_s`."""


class SystemClock:
    """The machine's clock, and the running loop's timers."""

    now = staticmethod(time.time)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)


async def sleep(clock: Clock, delay_s: float) -> None:
    """Wait by that clock."""
    if delay_s <= 0:
        return
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    timer = clock.call_later(delay_s, wake)
    try:
        await woken
    finally:
        timer.cancel()


class FakeClock:
    """Time that stands still until a test moves it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now
        self._timers: list[_FakeTimer] = []

    def now(self) -> float:
        return self._now

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        timer = _FakeTimer(self._now + delay_s, callback)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Move time on; what falls due is called in order of its time."""
        end = self._now + seconds
        while True:
            self._timers = [timer for timer in self._timers if not timer.cancelled]
            due = min(self._timers, key=lambda timer: timer.at, default=None)
            if due is None or due.at > end:
                break
            self._timers.remove(due)
            self._now = max(self._now, due.at)
            due.callback()
        self._now = end

    @property
    def waiting(self) -> int:
        """Timers that are set."""
        return sum(not timer.cancelled for timer in self._timers)


class _FakeTimer:
    __slots__ = ("at", "callback", "cancelled")

    def __init__(self, at: float, callback: Callable[[], object]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
