"""What running tools show to whoever watches, on its way into the log in small batches.

A tool may report faster than anybody reads: of a batch the newest reports are kept. What is still
here when a call ends goes into the log before its result.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from orchestrator.clock import Timer
from orchestrator.loop.events import AnyEvent, ToolProgress
from orchestrator.tools.toolbox import as_text, clip
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.run_log import RunLog

SHOWN_BYTES = 4096
BATCH = 32


class Progress:
    """Of one conversation."""

    def __init__(self, shared: Collaborators, book: RunLog) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._book = book
        self._reports: deque[ToolProgress] = deque(maxlen=BATCH)
        self._timer: Timer | None = None

    def report(self, call_id: str, value: Any) -> None:
        """A tool shows something; it is in the log within a batch's time."""
        step, shown = self._book.state.step, clip(as_text(value), SHOWN_BYTES)
        self._reports.append(ToolProgress(step, call_id, self._clock.now(), shown))
        if self._timer is None:
            self._timer = self._clock.call_later(self._shared.delta_batch_s, self._due)

    def take(self) -> list[AnyEvent]:
        """What has not been stored yet."""
        taken: list[AnyEvent] = [*self._reports]
        self._reports.clear()
        return taken

    def stop(self) -> None:
        """Nobody is told any more."""
        self._reports.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._shared.spawn(self._store())

    async def _store(self) -> None:
        await self._book.store_soon(lambda: self.take() or None)
