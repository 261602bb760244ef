"""One turn's place among all others, from its arrival to its end.

    place() ──► began() ──► ended(usage) ──► left
       └── again, without those that failed

What a turn shows on its way is learned here: how fast its replica computes, what that now holds,
how many tokens there were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from types import TracebackType
from typing import TYPE_CHECKING

from router.placing.admission import Permit
from router.placing.claim import Claim, Placed
from router.placing.desk import Booking, Held
from router.placing.pool import Gone, Pool
from serving.protocol import Usage

if TYPE_CHECKING:
    from router.placing.scheduler import Scheduler

_SLACK_TOKENS = 512
"""An engine that finds less than predicted by no more than this rounds to blocks."""
_AT_ONCE_S = 0.002
"""A prompt that takes less is mostly cached, and not worth a timer."""


class Slot:
    """A context manager. Leaving it frees everything, whether the answer ended, the engine failed,
    the client hung up, or the turn still waited."""

    __slots__ = (
        "_booking",
        "_claim",
        "_mark",
        "_permit",
        "_pool",
        "_program",
        "_scheduler",
        "_timer",
        "arrived_s",
        "give_way",
    )

    def __init__(self, scheduler: Scheduler, claim: Claim, permit: Permit) -> None:
        self._scheduler = scheduler
        self._claim = claim
        self._permit = permit
        self._pool: Pool | None = None
        self._mark = ""
        self._booking: Booking | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.arrived_s = scheduler.clock()
        self.give_way: Callable[[], None] | None = None
        """Of a spare turn: ends it, while its prompt is computed."""
        programs = scheduler.programs
        self._program = programs.begin(claim.model, claim.identity.key)
        if not claim.spare:
            programs.returned(self._program, self.arrived_s)

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free()
        self._permit.__exit__(kind, error, trace)

    async def place(self, without: Collection[str] = ()) -> Placed | None:
        """The replica to try now, not one of `without`; None when there is none.

        Waits until there is room. The turn counts as that replica's load from here on, and no
        longer as another's. Raises Unavailable when it has waited too long, or is spare and would
        have to wait.
        """
        self._free()
        scheduler = self._scheduler
        while True:
            ready = scheduler.ready(self._claim.model)
            if without:
                ready = [e for e in ready if e.replica not in without]
            engines = scheduler.health.usable(ready)
            if not engines:
                return None
            self._pool = pool = scheduler.pool(engines[0].model)
            found = pool.arrive(self._claim, self._program, engines, self.arrived_s)
            if isinstance(found, Held):
                try:
                    placed, booking = await found.placed
                except Gone:
                    continue
                except asyncio.CancelledError:
                    pool.give_up(found)
                    raise
            else:
                placed, booking = found
            self._booking = booking
            if self.give_way is not None:
                booking.desk.spares[booking] = self.give_way
            self._sent(booking)
            self._mark = scheduler.outside.sent(booking.desk.replica, self._claim.identity.hashes)
            return placed

    @property
    def mark(self) -> str:
        """What the engine is to publish the turn's blocks under; empty: nobody listens."""
        return self._mark

    def began(self) -> None:
        """The engine's answer is there, or its first byte, and it is no refusal."""
        booking, scheduler = self._booking, self._scheduler
        assert booking is not None  # noqa: S101  place() came before
        desk, now = booking.desk, scheduler.clock()
        if self._claim.streams:
            since = max(booking.sent_s, desk.first_byte_s)
            if scheduler.rates.prefilled(desk.replica, desk.model, booking.backlog, now - since):
                scheduler.compare(desk.replica, desk.model)
            desk.first_byte_s = now
        identity = self._claim.identity
        scheduler.sessions.remember(identity, first=self._program.turns == 0)
        booking.begun = True
        if booking.node is not None:
            scheduler.outside.began(self._claim, desk.replica, booking.node, self._mark)
        self._computed()

    def ended(self, usage: Usage) -> None:
        """The engine's own count of the turn's tokens."""
        booking, scheduler = self._booking, self._scheduler
        if booking is None:
            return
        desk, identity = booking.desk, self._claim.identity
        rates, model = scheduler.rates, booking.desk.model
        rates.counted(model, identity.total_bytes, usage.prompt_tokens)
        if not self._claim.spare:
            rates.answered(model, usage.output_tokens)
            rates.lasted(model, scheduler.clock() - booking.sent_s)
        rates.found(model, booking.warm - booking.whole, usage.cached_tokens - booking.whole)
        desk.reports_cache = desk.reports_cache or usage.cached_tokens > 0
        if desk.reports_cache:
            missing = booking.whole - usage.cached_tokens
            if missing > max(_SLACK_TOKENS, booking.whole // 20):
                desk.held.shrink(missing)
            elif booking.whole:
                desk.held.confirm(usage.cached_tokens - booking.warm)
            if usage.cached_tokens > booking.warm:
                desk.held.missed(usage.cached_tokens - booking.warm)
        if booking.node is not None:
            # A bare prompt's last block belongs to what comes after the last boundary.
            rest = int(
                (identity.total_bytes - identity.ends_bytes[-1]) / rates.bytes_per_token(model)
            )
            # What was generated last is nobody's input yet: it is in no cache.
            tail = max(0, usage.output_tokens - 1) + rest
            desk.held.grow(booking.node, usage.prompt_tokens - rest, tail)
            scheduler.outside.ended(self._claim, desk.replica, booking.node, self._mark, usage)
        if self._pool is not None:
            self._pool.owes(self._claim, usage.output_tokens)
        held = usage.prompt_tokens + usage.output_tokens
        scheduler.programs.settle(self._program, desk.replica, held)

    def _sent(self, booking: Booking) -> None:
        self._permit.use(booking.desk.replica)
        if not self._claim.streams:
            # Nobody will say when its prompt is computed.
            rate = self._scheduler.rates.prefill(booking.desk.replica, booking.desk.model)
            ahead_s = booking.desk.backlog_tokens / rate
            if ahead_s < _AT_ONCE_S:
                self._computed()
            else:
                self._timer = asyncio.get_running_loop().call_later(ahead_s, self._computed)

    def _computed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        booking, pool = self._booking, self._pool
        if booking is not None and pool is not None and booking.computed():
            pool.pump(booking.desk)

    def _free(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        booking, self._booking = self._booking, None
        if booking is not None and self._pool is not None:
            booking.end()
            self._pool.freed(booking, self._program)
