"""Purging: deletes at once what a client deletes, and in the background what nobody keeps.

    DELETE, or a sweep ─► its run is cancelled ─► lease ─► tombstones, in one transaction ─► scrub
                                                       └ first the same for its calls' conversations

A sweep looks, in small batches, for responses that were not to be stored, `unstored_s` after their
end, and for conversations without news for `retention_s`. Several front doors may sweep one
journal: what one of them has at hand is left alone by the others. Agents that were asked as tools
have conversations of their own (`tools/children.py`): these go before their caller's, which is the
only one that knows of them, so that whatever a crash leaves can be purged again. `scrub` makes the
store's own files forget; it may have to be tried again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from orchestrator.clock import Clock
from orchestrator.journal.base import Fenced, Journal, JournalFull, Lease, Recorded, ResponseRef
from orchestrator.loop import purge
from orchestrator.loop.events import ResponseAccepted
from orchestrator.loop.machine import fold_all
from orchestrator.tools.children import ids_of
from orchestrator.worker.claims import Claim, Claims
from orchestrator.worker.leases import Leases
from orchestrator.worker.parking import Parking
from serving.errors import Conflict, NotFound, WarmloopError

log = logging.getLogger("warmloop.worker")

SWEEP_S = 60.0
SCRUB_S = 1.0
"""Between a purge and the scrub: many purges share one."""
BATCH = 50


class Purger:
    """Purges for one worker. `cancel` ends a response, `leave` gives a claim up."""

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        claims: Claims,
        leases: Leases,
        parking: Parking,
        cancel: Callable[[str], Awaitable[object]],
        leave: Callable[[Claim], Awaitable[None]],
        unstored_s: float = 60.0,
        retention_s: float | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._claims = claims
        self._leases = leases
        self._parking = parking
        self._cancel = cancel
        self._leave = leave
        self._unstored_s = unstored_s
        self._retention_s = retention_s
        self._dirty = False
        self._bell = asyncio.Event()

    async def response(self, response_id: str) -> ResponseRef:
        """Delete a response; see `purge.without`. Raises NotFound, Conflict, JournalFull."""
        ref = await self._journal.find_response(response_id)
        if ref is None:
            raise NotFound(f"response_id: no response {response_id!r}", param="response_id")
        state = fold_all(await self._journal.read(ref.conversation))
        if state.run is not None and state.run.response_id == response_id:
            await self._cancel(response_id)

        async def tombs(recorded: list[Recorded]) -> purge.Tombstones:
            asked = (e.event.response_id for e in recorded if isinstance(e.event, ResponseAccepted))
            gone = [each for each in asked if await self._journal.find_response(each) is None]
            return purge.without(recorded, {*gone, response_id})

        await self._replace(ref.conversation, tombs, beside_a_run=True)
        return ref

    async def conversation(self, conversation: str) -> None:
        """Delete a conversation and all responses in it. Raises NotFound, Conflict, JournalFull."""
        recorded = await self._journal.read(conversation)
        state = fold_all(recorded)
        if not recorded or state.purged:
            raise NotFound(f"conversation: no conversation {conversation!r}", param="conversation")
        if state.run is not None:
            await self._cancel(state.run.response_id)

        async def tombs(recorded: list[Recorded]) -> purge.Tombstones:
            return purge.whole(recorded)

        await self._replace(conversation, tombs, beside_a_run=False)

    async def sweep(self) -> int:
        """Purge a batch of what is not kept; returns how much there was."""
        now = self._clock.now()
        idle_before = now - self._retention_s if self._retention_s is not None else -1.0
        found = await self._journal.purgeable(
            ended_before=now - self._unstored_s, idle_before=idle_before, limit=BATCH
        )
        done = 0
        for ref in found.responses:
            done += await self._try(self.response(ref.response_id))
        return done + await self._forget_all(found.conversations, idle_before)

    async def older(self, than_s: float) -> int:
        """Purge a batch of the conversations without news for so long; returns how many."""
        before = self._clock.now() - than_s
        found = await self._journal.purgeable(ended_before=-1.0, idle_before=before, limit=BATCH)
        return await self._forget_all(found.conversations, before)

    async def _forget_all(self, conversations: Sequence[str], idle_before: float) -> int:
        return sum([await self._try(self._forget(each, idle_before)) for each in conversations])

    async def keep(self) -> None:
        """Sweep and scrub, for ever."""
        while True:
            try:
                swept = await self.sweep()
                await self._scrub()
            except JournalFull as error:
                log.warning("cannot purge what is not kept: %s", error)
                swept = 0
            await self._rest(SCRUB_S if self._dirty or swept >= BATCH else SWEEP_S)

    async def _scrub(self) -> None:
        if self._dirty:
            self._dirty = False  # a purge meanwhile makes it true again
            done = False
            try:
                done = await self._journal.scrub()
            finally:
                self._dirty = self._dirty or not done

    async def _rest(self, seconds: float) -> None:
        self._bell.clear()
        timer = self._clock.call_later(seconds, self._bell.set)
        try:
            await self._bell.wait()
        finally:
            timer.cancel()

    async def _try(self, work: Awaitable[object]) -> bool:
        try:
            await work
        except JournalFull:
            raise
        except WarmloopError as error:  # somebody else is at it, or it is gone
            log.info("not purged now: %s", error)
            return False
        except Exception:  # a log that cannot be read must not end the worker
            log.exception("not purged: it failed in an unforeseen way")
            return False
        return True

    async def _forget(self, conversation: str, idle_before: float) -> None:
        """A conversation for which time is up; one that never got an event, too."""

        async def tombs(recorded: list[Recorded]) -> purge.Tombstones:
            # Between the look and the lease somebody may have used it.
            if any(getattr(each.event, "at", 0.0) > idle_before for each in recorded):
                raise _in_use(conversation)
            return purge.whole(recorded)

        await self._replace(conversation, tombs, beside_a_run=False)

    async def _replace(
        self,
        conversation: str,
        tombs: Callable[[list[Recorded]], Awaitable[purge.Tombstones]],
        *,
        beside_a_run: bool,
    ) -> None:
        while (busy := self._claims.get(conversation)) is not None:
            running = busy.runner is not None and busy.runner.state.run is not None
            if running and busy.lease is not None:
                if not beside_a_run:
                    raise _in_use(conversation)
                # A response before the one that runs: what it leaves is not what the run has read.
                await self._store(busy.lease, tombs)
                self._parking.forget(conversation)  # it may have ended meanwhile
                return
            await asyncio.shield(busy.done)
        claim = self._claims.take(conversation)
        try:
            lease = await self._leases.take(claim)
            if lease is None:
                raise _in_use(conversation)
            await self._store(lease, tombs)
            self._parking.forget(conversation)
        except Fenced as fenced:
            raise _in_use(conversation) from fenced
        finally:
            await self._leave(claim)

    async def _store(
        self, lease: Lease, tombs: Callable[[list[Recorded]], Awaitable[purge.Tombstones]]
    ) -> None:
        found = await tombs(await self._journal.read(lease.conversation))
        # Most calls were not to agents, and left no conversation.
        left = await self._journal.present([ids_of(key).conversation for key in found.keys])
        for conversation in left:
            with suppress(NotFound):  # somebody else was quicker
                await self.conversation(conversation)
        await self._journal.purge(lease, found.events, found.responses, whole=found.whole)
        self._dirty = True
        self._clock.call_later(SCRUB_S, self._bell.set)


def alone(journal: Journal, clock: Clock, lease_s: float = 30.0) -> Purger:
    """For a process that purges, and runs nothing."""
    claims, parking = Claims(), Parking(journal)
    leases = Leases(journal, clock, f"purge-{secrets.token_hex(4)}", lease_s)

    async def cancel(response_id: str) -> None:
        raise Conflict(f"{response_id} is in progress", code="conversation_locked")

    async def leave(claim: Claim) -> None:
        try:
            await leases.release(claim, 0.0)
        finally:
            claims.drop(claim)
            claim.done.set_result(None)

    return Purger(
        journal=journal,
        clock=clock,
        claims=claims,
        leases=leases,
        parking=parking,
        cancel=cancel,
        leave=leave,
    )


def _in_use(conversation: str) -> Conflict:
    return Conflict(
        f"conversation {conversation!r} is in use; wait for its response to end, or cancel it",
        param="conversation",
        code="conversation_locked",
        retry_after_s=1,
    )
