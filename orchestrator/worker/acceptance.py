"""Accepting: from a request to a claim whose log begins with it.

    Idempotency-Key known ─► the response that it made
    else claim ─► lease ─► fold the log ─► does it fit? ─► append ResponseAccepted ─► ready to run
              └ Conflict while a response of the conversation is in progress, here or elsewhere

Whoever looked at the log before, to find out where the request belongs, had no lease: another
process may have been quicker since. So what must be true of the conversation is asked again here.

Whatever fails leaves nothing behind: no claim, no lease, nothing stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from orchestrator.agents import Agent, Agents
from orchestrator.api import approvals
from orchestrator.clock import Clock, sleep
from orchestrator.journal.base import AlreadyAccepted, Journal, Lease, ResponseRef
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    ResponseAccepted,
    ToolsListed,
    ToolsOffered,
)
from orchestrator.loop.machine import fold, fold_all
from orchestrator.loop.state import State
from orchestrator.mcp.offer import shared
from orchestrator.worker.claims import Claim, Claims
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.leases import Leases
from orchestrator.worker.parking import Parked, Parking
from orchestrator.worker.runner import Runner
from serving.errors import Conflict, NotFound, WarmloopError

Fits = Callable[[State, Agent], None]
"""Raises RequestError unless a request fits the conversation as it is, and its agent with all that
it has. In this moment nobody else can change them."""
LET_GO_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Pauses in which a process may let go of a conversation that it has just done with."""


def always(state: State, agent: Agent) -> None:
    """For those that know that it fits."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A response that is in the journal; `created` is False for a repeated Idempotency-Key."""

    ref: ResponseRef
    created: bool


class Acceptance:
    """Stores requests. `leave` gives a claim up."""

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        agents: Agents,
        claims: Claims,
        leases: Leases,
        parking: Parking,
        shared: Collaborators,
        leave: Callable[[Claim], Awaitable[None]],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._agents = agents
        self._claims = claims
        self._leases = leases
        self._parking = parking
        self._shared = shared
        self._leave = leave

    async def known(self, accepted: ResponseAccepted) -> Admission | None:
        """The response that its Idempotency-Key has made before."""
        if accepted.idempotency_key:
            ref = await self._journal.find_idempotent(accepted.idempotency_key)
            if ref is not None:
                return Admission(ref, created=False)
        return None

    async def idle(self, conversation: str) -> None:
        """Returns when nobody here has a claim; waits for a run that just ended."""
        while (busy := self._claims.get(conversation)) is not None:
            if busy.runner is None or busy.runner.state.run is not None:
                raise _locked(conversation)
            await asyncio.shield(busy.done)

    async def store(
        self, conversation: str, accepted: ResponseAccepted, opening: Sequence[AnyEvent], fits: Fits
    ) -> tuple[Claim | None, Admission]:
        """The claim on the stored request, to be run; None when it was stored before."""
        claim = self._claims.take(conversation)
        try:
            claim.runner, ref = await self._store(claim, accepted, opening, fits)
        except AlreadyAccepted as repeated:
            await self._leave(claim)
            return None, Admission(repeated.ref, created=False)
        except BaseException:
            await self._leave(claim)
            raise
        return claim, Admission(ref, created=True)

    async def _store(
        self, claim: Claim, accepted: ResponseAccepted, opening: Sequence[AnyEvent], fits: Fits
    ) -> tuple[Runner, ResponseRef]:
        conversation = claim.conversation
        lease = await self._lease(claim)
        parked = await self._parking.load(lease)
        if parked.state.run is not None:
            claim.again = True  # nobody drives it: do, and let the caller come again
            raise _locked(conversation)
        try:
            return await self._add(lease, parked, accepted, opening, fits)
        except WarmloopError:
            self._parking.put_back(lease, parked)
            raise

    async def _add(
        self,
        lease: Lease,
        parked: Parked,
        accepted: ResponseAccepted,
        opening: Sequence[AnyEvent],
        fits: Fits,
    ) -> tuple[Runner, ResponseRef]:
        conversation, state = lease.conversation, parked.state
        if state.purged:
            raise NotFound(f"no conversation {conversation!r}", param="conversation")
        first = opening[0] if opening else None
        name = state.agent or (first.agent if isinstance(first, ConversationStarted) else "")
        if not name:
            raise NotFound(f"no conversation {conversation!r}", param="conversation")
        agent = self._agents.get(name)
        offers = self._shared.offers
        told = await offers.begin(agent, state, accepted)
        listed = {e.server: shared(e.listing) for e in told if isinstance(e, ToolsListed)}
        offered = {each.server: each for each in told if isinstance(each, ToolsOffered)}
        fits(state, offers.bind(agent, {**state.offers, **listed}, offered))
        decided = approvals.decisions(state, accepted.input, accepted.at)
        events = [*(() if state.agent else opening), accepted, *told, *decided]
        seq = await self._journal.append(lease, events)
        for event in events:
            fold(state, event)
        state.seq = seq
        runner = Runner(self._shared, lease, agent, state, parked.prompt)
        first_seq = seq - len(told) - len(decided)
        return runner, ResponseRef(accepted.response_id, conversation, first_seq)

    async def _lease(self, claim: Claim) -> Lease:
        """Raises Conflict while another process is at it; one that has come to the end of a run,
        as its client has heard already, lets go of the conversation in a moment."""
        conversation = claim.conversation
        for pause_s in LET_GO_S:
            if lease := await self._leases.take(claim):
                return lease
            if fold_all(await self._journal.read(conversation)).run is not None:
                break
            await sleep(self._clock, pause_s)
        raise _locked(conversation)


def _locked(conversation: str) -> Conflict:
    return Conflict(
        f"conversation {conversation!r} has a response in progress; wait for it or cancel it",
        param="conversation",
        code="conversation_locked",
        retry_after_s=1,
    )
