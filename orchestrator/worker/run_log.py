"""One conversation's state and its log, kept in step by whoever holds the lease.

    emit(event)   into the state now, into the log with the next flush
    flush()       all that was emitted is durable when it returns
    store_soon()  the same without waiting for the disk: for streamed output only

The one rule of whoever uses it: flush before every effect. The state runs ahead of the log between
flushes; one that is fenced or dies is thrown away with its state, and whoever comes next folds
the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.clock import Clock, sleep
from orchestrator.journal.base import Fenced, Journal, JournalFull, Lease
from orchestrator.loop.events import AnyEvent, ModelRouted, OutputDelta, ToolProgress
from orchestrator.loop.machine import fold
from orchestrator.loop.state import State
from orchestrator.worker.ledger import Purse
from orchestrator.worker.turn_outcomes import TurnOutcomes

SOFT = (OutputDelta, ModelRouted, ToolProgress)
"""Events that nothing depends on: a batch of these alone needs no fsync."""

log = logging.getLogger("warmloop.worker")


class RunLog:
    """`on_fenced` is called when another worker turns out to hold the conversation."""

    def __init__(
        self,
        journal: Journal,
        lease: Lease,
        state: State,
        clock: Clock,
        on_fenced: Callable[[], None],
        *,
        outcomes: TurnOutcomes,
        purse: Purse | None = None,
    ) -> None:
        self.lease = lease
        self.state = state
        self.stopping = False
        """When the journal cannot store, give up instead of waiting."""
        self._journal = journal
        self._clock = clock
        self._on_fenced = on_fenced
        self._outcomes = outcomes
        self._purse = purse
        self._pending: list[AnyEvent] = []
        self._lock = asyncio.Lock()

    @property
    def is_stored(self) -> bool:
        """True when the log has all that the state has."""
        return not self._pending

    def emit(self, event: AnyEvent) -> None:
        """Take an event into the state now, and into the log with the next flush."""
        fold(self.state, event)
        self._outcomes.take(event, self.state)
        if self._purse is not None:
            self._purse.take(event)
        self._pending.append(event)

    def forget(self) -> None:
        """What was not stored never will be."""
        self._pending.clear()

    async def flush(self) -> None:
        """Store all that was emitted; returns when it is durable.

        While the journal cannot store, this waits: no effect may begin that it does not know of.
        """
        delay_s = 0.5
        async with self._lock:
            while self._pending:
                try:
                    await self._append(durable=True)
                except JournalFull as error:
                    if self.stopping:
                        raise
                    log.warning("waiting for the journal: %s", error)
                    await sleep(self._clock, delay_s)
                    delay_s = min(5.0, delay_s * 2)

    async def store_soon(self, more: Callable[[], list[AnyEvent] | None]) -> bool:
        """Emit `more()` and store it in its order; None: nothing. No fsync for what is only to be
        seen. True when all of it is stored."""
        async with self._lock:
            events = more()
            if events is None:
                return False
            for event in events:
                self.emit(event)
            if not self._pending:
                return True
            # Whoever flushes next finds nothing left: what must be durable must be so by now.
            durable = not all(isinstance(event, SOFT) for event in self._pending)
            try:
                await self._append(durable=durable)
            except Fenced:
                self._on_fenced()
                return False
            except JournalFull as error:
                log.warning("streamed output waits for the journal: %s", error)
                return False
            return True

    async def _append(self, *, durable: bool) -> None:
        batch, self._pending = self._pending, []
        account = None if self._purse is None else self._purse.account()
        try:
            seq = await self._journal.append(self.lease, batch, durable=durable, account=account)
        except JournalFull:
            self._pending = batch + self._pending
            if self._purse is not None:
                self._purse.not_stored(account)
            raise
        self.state.seq = seq
