"""Effects that can be cut short: cancel, out of time, shutdown reach only them.

    run(effect)  ─► what it returned, or None: it was interrupted
    interrupt()  ─► the effect in progress is cancelled, and none begins any more

Never a flush: what has been handed to the journal must be heard of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Effects:
    """Of one task, the one that calls `begin`."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._in_effect = False
        self._interrupted = False
        self._killed = False

    def begin(self) -> None:
        """From now on effects are this task's."""
        self._task = asyncio.current_task()

    @property
    def allowed(self) -> bool:
        """False once they were interrupted."""
        return not self._interrupted

    async def run(self, effect: Coroutine[Any, Any, T]) -> T | None:
        """Await an effect; None when it was interrupted."""
        if self._interrupted:
            effect.close()
            return None
        self._in_effect = True
        try:
            return await effect
        except asyncio.CancelledError:
            if not self._take_interruption():
                raise
            return None
        finally:
            self._in_effect = False

    def interrupt(self) -> None:
        """Cut the effect in progress, and every later one."""
        if not self._interrupted:
            self._interrupted = True
            if self._in_effect and self._task is not None:
                self._task.cancel()

    def kill(self) -> None:
        """Cancel the task itself, whatever it does."""
        self._killed = True
        if self._task is not None:
            self._task.cancel()

    def _take_interruption(self) -> bool:
        """Was it us who cancelled this task? Then it is not being cancelled any more."""
        if self._killed or not self._interrupted or self._task is None:
            return False
        self._task.uncancel()
        return True
