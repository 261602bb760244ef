"""What running tools show to whoever watches, on its way into the log in small batches.

    report ─► pending, by call ─► a batch's time ─► store_soon
                 └ over the call's bytes a second: of what waits only the newest report is kept

A tool may report faster than anybody reads, and the log is for ever: a call has a rate, and what
comes faster is coalesced. Whoever watches sees the newest state, late by as much as the rate asks.
What is still here when a call ends goes into the log before its result, its last report always.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from orchestrator.clock import Timer
from orchestrator.loop.events import AnyEvent, ToolProgress, encode
from orchestrator.tools.toolbox import as_text, clip
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.run_log import RunLog

SHOWN_BYTES = 4096
BATCH = 32
"""Reports of one call that wait for the log at most."""


@dataclass(slots=True)
class _Shown:
    """One call's reports. Its allowance may be overdrawn by one report, and grows back."""

    allowance: float
    at: float
    pending: deque[ToolProgress] = field(default_factory=lambda: deque(maxlen=BATCH))

    def take(self, now: float, rate: float, *, last: bool = False) -> list[ToolProgress]:
        """The newest reports that may be stored now, in order; older ones are dropped."""
        self.allowance = min(rate, self.allowance + (now - self.at) * rate)
        self.at = now
        taken: deque[ToolProgress] = deque()
        while self.pending and (self.allowance > 0 or (last and not taken)):
            report = self.pending.pop()
            self.allowance -= len(encode(report))
            taken.appendleft(report)
        while len(self.pending) > (0 if taken else 1):
            self.pending.popleft()
        return list(taken)


class Progress:
    """Of one conversation; `bytes_per_s` is what one call may put into the log."""

    def __init__(self, shared: Collaborators, book: RunLog, bytes_per_s: int) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._book = book
        self._rate = float(bytes_per_s)
        self._calls: dict[str, _Shown] = {}
        self._timer: Timer | None = None

    def report(self, call_id: str, value: Any) -> None:
        """A tool shows something; it is in the log within a batch's time, or as its rate allows."""
        now, step = self._clock.now(), self._book.state.step
        shown = self._calls.setdefault(call_id, _Shown(self._rate, now))
        text = clip(as_text(value), SHOWN_BYTES)
        shown.pending.append(ToolProgress(step, call_id, now, text))
        self._set_timer()

    def end(self, call_id: str) -> list[AnyEvent]:
        """What has not been stored of a call that has ended, its last report in any case."""
        shown = self._calls.pop(call_id, None)
        return [] if shown is None else [*shown.take(self._clock.now(), self._rate, last=True)]

    def stop(self) -> None:
        """Nobody is told any more."""
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if self._timer is None and any(each.pending for each in self._calls.values()):
            self._timer = self._clock.call_later(self._shared.delta_batch_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._shared.spawn(self._store())

    async def _store(self) -> None:
        await self._book.store_soon(lambda: self._take() or None)
        self._set_timer()

    def _take(self) -> list[AnyEvent]:
        now = self._clock.now()
        return [event for each in self._calls.values() for event in each.take(now, self._rate)]
