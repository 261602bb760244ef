"""Leases: the journal's word against other processes, taken, renewed and given up for claims.

A renewal that comes back with another token, or not at all, means that another process has the
conversation: its run here is fenced and stores nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from orchestrator.claims import Claim, Claims
from orchestrator.clock import Clock, sleep
from orchestrator.journal import Journal, JournalFull, Lease

log = logging.getLogger("warmloop.worker")


class Leases:
    """The leases that one owner holds."""

    def __init__(self, journal: Journal, clock: Clock, owner: str, lease_s: float) -> None:
        self._journal = journal
        self._clock = clock
        self._owner = owner
        self._lease_s = lease_s

    async def take(self, claim: Claim) -> Lease | None:
        """Give the claim its lease; None while another process holds the conversation."""
        claim.lease = await self._ask(claim)
        return claim.lease

    async def wait_for(self, claim: Claim) -> Lease:
        """Another process runs it; if that one dies, its lease runs out."""
        while (lease := await self.take(claim)) is None:
            await sleep(self._clock, self._lease_s / 4)
        return lease

    async def release(self, claim: Claim) -> None:
        if claim.lease is not None:
            with suppress(JournalFull):  # then it runs out by itself
                await self._journal.release(claim.lease)

    async def keep(self, claims: Claims) -> None:
        """Renew what is held, for ever."""
        while True:
            await sleep(self._clock, self._lease_s / 3)
            held = [claim for claim in claims if claim.lease is not None]
            await asyncio.gather(*(self._renew(claim) for claim in held))

    async def _renew(self, claim: Claim) -> None:
        held = claim.lease
        try:
            lease = await self._ask(claim)
        except JournalFull as error:
            log.warning("%s: the lease cannot be renewed: %s", claim.conversation, error)
            return
        if claim.done.done() or held is None:
            return
        lost = lease is None or lease.token != held.token
        if lost and claim.runner is not None:
            claim.runner.fence()

    async def _ask(self, claim: Claim) -> Lease | None:
        return await self._journal.lease(claim.conversation, self._owner, self._lease_s)
