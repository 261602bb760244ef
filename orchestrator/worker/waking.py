"""Waking: runs that no process has, and that have something to do.

    a process died       its lease runs out ──┐
    a run waits (timer,  wake_at comes ───────┼─► journal.due ─► submit ─► lease ─► Runner
    retry, approval)                          │
    a process let go ─► a note ───────────────┘

A run that only waits has no task, no lease and no state in memory: it is a row in the journal's
index, and only rows that are due are ever read. All processes on a journal look, and the lease
says who has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.clock import Clock
from orchestrator.journal.base import Journal, JournalFull
from orchestrator.worker.claims import Claims

log = logging.getLogger("warmloop.worker")

BATCH = 256
"""Runs that one look picks up."""
AGAIN_S = 0.05
"""Between looks while there are more than one batch."""
MAX_AWAKE = 4096
"""While so many conversations run here, none is woken: those that wait can wait a little longer."""


class Waking:
    """Looks for what is due: every `poll_s`, when a known `wake_at` comes, and when told to."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        claims: Claims,
        submit: Callable[[str], None],
        poll_s: float,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._claims = claims
        self._submit = submit
        self._poll_s = poll_s
        self._bell = asyncio.Event()
        self._next_at = 0.0

    async def look(self) -> int:
        """Pick up what is due; returns how much there was. Raises JournalFull."""
        now = self._clock.now()
        self._next_at = now + self._poll_s
        room = min(BATCH, MAX_AWAKE - len(self._claims))
        if room <= 0:
            return 0
        refs = await self._journal.due(now, room)
        for ref in refs:
            if self._claims.get(ref.conversation) is None:
                self._submit(ref.conversation)
        if len(refs) == room:
            self._next_at = now + AGAIN_S
        elif (wake_at := await self._journal.next_wake(now)) is not None:
            self._next_at = min(self._next_at, wake_at)
        return len(refs)

    def at(self, wake_at: float) -> None:
        """Look then at the latest."""
        if wake_at < self._next_at:
            self._next_at = wake_at
            self._bell.set()

    async def keep(self) -> None:
        """Look, for ever."""
        while True:
            await self._sleep()
            try:
                await self.look()
            except JournalFull as error:
                log.warning("cannot look for runs that are due: %s", error)

    async def _sleep(self) -> None:
        while (left_s := self._next_at - self._clock.now()) > 0:
            self._bell.clear()
            timer = self._clock.call_later(left_s, self._bell.set)
            try:
                await self._bell.wait()
            finally:
                timer.cancel()
