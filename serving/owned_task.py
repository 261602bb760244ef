"""A task with an owner: started once, cancelled and awaited when its owner stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine


class OwnedTask:
    """At most one task; for one event loop."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, run: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        """Begin, and return at once; nothing happens while it has begun before."""
        if self._task is None:
            self._task = asyncio.create_task(run(), name=name)

    @property
    def started(self) -> bool:
        return self._task is not None

    async def stop(self) -> None:
        """Cancel it and wait for its end. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
