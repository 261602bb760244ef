"""An asyncio loop whose clock jumps to the next timer when nothing is ready.

Hours pass in seconds, and the same way each time. Sleeping is all that is not real.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Jump(selectors.DefaultSelector):
    """A selector that never waits: it moves the clock instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("virtual time: everybody waits, and for nothing that has a time")
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes when nobody has anything left to do."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def in_virtual_time(
    main: Coroutine[Any, Any, Result], loop: Callable[[], VirtualLoop] = VirtualLoop
) -> Result:
    """Run `main` to its end. Deterministic where `main` is."""
    collects = gc.isenabled()
    gc.disable()  # millions of short-lived tuples, hardly a cycle
    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(main)
    finally:
        if collects:
            gc.enable()


class LoopClock:
    """The running loop's time, for the engines."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
