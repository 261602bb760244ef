"""Leases: the journal's word against other processes, taken, renewed and given up for claims.

Of all that is held, a part is renewed at a time, what runs out first: a thousand renewals in one
moment would hold up the turns of all. A renewal that comes back with another token, or not at all,
means that another process has the conversation, or had it while this one was frozen: its run here
is fenced and stores nothing more. What was granted in its place is given back at once, or nobody
could go on there until it had run out.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from heapq import nsmallest
from math import ceil
from operator import itemgetter

from orchestrator.clock import Clock, sleep
from orchestrator.journal.base import Journal, JournalFull, Lease
from orchestrator.worker.claims import Claim, Claims

PARTS = 10
"""Of the third of a lease's time within which each is renewed."""
PATIENCE_S = 0.5
"""Between two questions whether another process has let go."""
CANCEL = "cancel "
DUE = "due"
"""The notes that workers send each other: end that response; something may be due."""
log = logging.getLogger("warmloop.worker")


def cancel_note(response_id: str) -> str:
    return CANCEL + response_id


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

    async def wait_for(self, claim: Claim) -> Lease | None:
        """The lease, after another process has let go or died; None if nobody waits for that."""
        while (lease := await self.take(claim)) is None:
            if claim.cancel_id:
                await self._journal.send(cancel_note(claim.cancel_id))
            elif not claim.patient:
                return None
            await sleep(self._clock, min(PATIENCE_S, self._lease_s / 4))
        return lease

    async def release(self, claim: Claim, wake_at: float) -> None:
        # Gone from here at once: a renewal behind the release would take it again, for nobody.
        lease, claim.lease = claim.lease, None
        if lease is not None:
            with suppress(JournalFull):  # then it runs out by itself
                await self._journal.release(lease, wake_at=wake_at)

    async def keep(self, claims: Claims) -> None:
        """Renew what is held, for ever: each within a third of a lease's time."""
        within_s, at = self._lease_s / 3, self._clock.now()
        while True:
            await sleep(self._clock, within_s / PARTS)
            now = self._clock.now()
            # By the time that has passed: where a slow journal makes parts few, they are large.
            share, at = max(1 / PARTS, (now - at) / within_s), now
            held = [(c.lease.expires_at, c) for c in claims if c.lease is not None]
            first = nsmallest(ceil(len(held) * share), held, key=itemgetter(0))
            await asyncio.gather(*(self._renew(claim, claims) for _, claim in first))

    async def _renew(self, claim: Claim, claims: Claims) -> None:
        if (held := claim.lease) is None:
            return
        try:
            lease = await self._ask(claim)
        except JournalFull as error:
            log.warning("%s: the lease cannot be renewed: %s", claim.conversation, error)
            return
        if lease is not None and lease.token == held.token:
            if claim.lease is not None:
                claim.lease = lease
            return
        if claim.lease is not None:
            claim.lease = None  # nor is it asked for again: somebody else goes on there
            if claim.runner is not None:
                claim.runner.fence()
        if lease is not None and claims.get(claim.conversation) in (claim, None):
            with suppress(JournalFull):  # then it runs out by itself
                await self._journal.release(lease)

    async def _ask(self, claim: Claim) -> Lease | None:
        return await self._journal.lease(claim.conversation, self._owner, self._lease_s)
