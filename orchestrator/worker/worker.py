"""The worker: which conversations this process runs, and how they begin and end.

    accept ──┐                                    ┌─ Runner.drive ─► idle ─► release, park
    submit ──┼─► claim ─► lease ─► fold the log ──┼─ only waits: release until wake_at
    waking ──┘                                    └─ fenced: forget all

A claim (`claims.py`) is this process's own word that it deals with a conversation; a lease
(`leases.py`) is the journal's word against other processes. `acceptance.py` is the first line of
the drawing, `waking.py` the third, `parking.py` its end.

    async with Worker(...) as worker:            # recovers what a dead process left behind
        admission = await worker.accept(conversation, ResponseAccepted(...), start=...)
        while await journal.wait(conversation, seq, timeout_s): ...journal.read(conversation, seq)
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from orchestrator.agents import Agents
from orchestrator.clock import Clock, SystemClock
from orchestrator.journal.base import Fenced, Journal, JournalFull, ResponseRef
from orchestrator.loop import call_rules
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    HistoryImported,
    ResponseAccepted,
    ResponseFinished,
)
from orchestrator.loop.machine import fold_all
from orchestrator.model import ModelClient
from orchestrator.tools.children import Children
from orchestrator.worker.acceptance import Acceptance, Admission, Fits, always
from orchestrator.worker.claims import Claim, Claims
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.guard_metrics import GuardMetrics
from orchestrator.worker.leases import CANCEL, DUE, Leases
from orchestrator.worker.ledger import Ledger
from orchestrator.worker.offers import NoOffers, Offers
from orchestrator.worker.parking import Parking
from orchestrator.worker.purging import Purger
from orchestrator.worker.run_metrics import RunMetrics
from orchestrator.worker.runner import Runner
from orchestrator.worker.tool_times import ToolTimes
from orchestrator.worker.turn_outcomes import Report
from orchestrator.worker.waking import Waking
from router.tenancy.budgets import Budgets
from serving.config.model import Prices
from serving.errors import NotFound, Unavailable

T = TypeVar("T")
log = logging.getLogger("warmloop.worker")


class Worker:
    """Runs responses. Use it as an async context manager; `prices` are by model name.

    A run with nothing to do for `park_s` or longer is let go of until then.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        agents: Agents,
        models: ModelClient,
        offers: Offers | None = None,
        prices: Mapping[str, Prices] | None = None,
        outcomes: Report = lambda *_: None,
        clock: Clock | None = None,
        owner: str | None = None,
        lease_s: float = 10.0,
        delta_batch_s: float = 0.05,
        guard: GuardMetrics | None = None,
        runs: RunMetrics | None = None,
        context_tokens: Callable[[str], int] = lambda _: 0,
        park_s: float = 5.0,
        stop_grace_s: float = 5.0,
        unstored_s: float = 60.0,
        retention_s: float | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self._journal = journal
        self._agents = agents
        self._clock = clock or SystemClock()
        self._stop_grace_s = stop_grace_s
        self._group = asyncio.TaskGroup()
        owner = owner or f"{os.getpid()}-{secrets.token_hex(4)}"
        self._ledger = Ledger(journal, self._clock, budgets or Budgets({}), secrets.token_hex(8))
        self._shared = Collaborators(
            journal=journal,
            models=models,
            offers=offers or NoOffers(),
            clock=self._clock,
            prices=prices or {},
            delta_batch_s=delta_batch_s,
            guard=guard or GuardMetrics(),
            runs=runs or RunMetrics(),
            times=ToolTimes(),
            context_tokens=context_tokens,
            park_s=park_s,
            outcomes=outcomes,
            children=Children(journal, self, lambda name: agents.get(name).key),
            spawn=self._spawn,
            ledger=self._ledger,
        )
        self._keeping: list[asyncio.Task[None]] = []
        self._claims = Claims()
        self._unreadable: set[str] = set()
        """Conversations whose response could not even be ended, which the log has been told."""
        self._leases = Leases(journal, self._clock, owner, lease_s)
        self._parking = Parking(journal)
        self._acceptance = Acceptance(
            journal=journal,
            clock=self._clock,
            agents=agents,
            claims=self._claims,
            leases=self._leases,
            parking=self._parking,
            shared=self._shared,
            leave=self._leave,
        )
        self._waking = Waking(journal, self._clock, self._claims, self.submit, lease_s / 3)
        self._purger = Purger(
            journal=journal,
            clock=self._clock,
            claims=self._claims,
            leases=self._leases,
            parking=self._parking,
            cancel=self.cancel,
            leave=self._leave,
            unstored_s=unstored_s,
            retention_s=retention_s,
        )
        self._stopping = False

    async def __aenter__(self) -> Worker:
        await self._group.__aenter__()
        self._journal.listen(self._heard)
        await self._ledger.look()
        await self.recover()
        keeping = [self._leases.keep(self._claims), self._waking.keep(), self._purger.keep()]
        if self._ledger.is_kept:
            keeping.append(self._ledger.keep())
        self._keeping += map(self._group.create_task, keeping)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.stop()
        finally:
            for kept in self._keeping:
                kept.cancel()
            await self._ledger.close()
            await self._group.__aexit__(kind, error, trace)

    @property
    def active(self) -> int:
        """Conversations that are being run now."""
        return len(self._claims)

    async def accept(
        self,
        conversation: str,
        accepted: ResponseAccepted,
        *,
        start: ConversationStarted | None = None,
        imported: HistoryImported | None = None,
        fits: Fits = always,
        at_end: Callable[[], None] | None = None,
    ) -> Admission:
        """Store a request durably and begin to run it; returns when it is stored.

        `fits` has the last word, when the conversation is held and nobody else can change it: it
        is given the state and the agent with all its tools, and raises what refuses the request.
        `at_end` is called when this process has done with it, if it has stored it.

        `start` (and `imported`) open the conversation if its log is empty. With an Idempotency-Key
        that was used before, nothing is stored and the first response is returned. Raises Conflict
        while another response of the conversation is in progress, NotFound for an unknown agent
        or conversation, JournalFull, Unavailable while stopping.
        """
        opening = [event for event in (start, imported) if event is not None]
        # In a task of its own: a client that hangs up must not leave a request stored, not run.
        stored: asyncio.Future[Admission] = asyncio.get_running_loop().create_future()
        stored.add_done_callback(_look_at)
        self._spawn(
            self._answer(stored, self._accept(conversation, accepted, opening, fits, at_end))
        )
        return await asyncio.shield(stored)

    def submit(self, conversation: str) -> None:
        """There may be something to do in that conversation; returns at once."""
        claim = self._claims.get(conversation)
        if claim is not None:
            # It may be just letting go: then look into the log once more.
            claim.again = True
        elif not self._stopping:
            self._begin(self._claims.take(conversation))

    async def run(self, conversation: str) -> None:
        """`submit`, and wait until there is nothing to do in it."""
        self.submit(conversation)
        while claim := self._claims.get(conversation):
            claim.patient = True
            await asyncio.shield(claim.done)

    async def cancel(self, response_id: str) -> ResponseRef:
        """End a response as cancelled; returns when it has ended, however it did.

        A response that had ended before stays as it is. Raises NotFound.
        """
        ref = await self._journal.find_response(response_id)
        if ref is None:
            raise NotFound(f"response_id: no response {response_id!r}", param="response_id")
        self.submit(ref.conversation)
        while claim := self._claims.get(ref.conversation):
            claim.cancel_id = response_id
            if claim.runner is not None:
                claim.runner.cancel(response_id)
            await asyncio.shield(claim.done)
            if not _left_open(claim):
                break
        return ref

    async def purge_response(self, response_id: str) -> ResponseRef:
        """Delete a response for good, after cancelling it; `purge.py` says what stays of it.

        Raises NotFound, Conflict, JournalFull.
        """
        return await self._purger.response(response_id)

    async def purge_conversation(self, conversation: str) -> None:
        """Delete a conversation for good, with all its responses; what runs in it is cancelled.

        Raises NotFound, Conflict, JournalFull.
        """
        await self._purger.conversation(conversation)

    async def purge_older(self, than_s: float) -> int:
        """Delete a batch of the conversations without news for so long; returns how many."""
        return await self._purger.older(than_s)

    async def sweep(self) -> int:
        """Purge some of what is not kept; a worker does so by itself every minute."""
        return await self._purger.sweep()

    async def recover(self) -> int:
        """Begin to pick up what dead processes left behind and what has waited long enough;
        returns how much of it at once. The rest follows, and later what comes due."""
        return await self._waking.look()

    async def stop(self) -> None:
        """Drop model turns, let running tools end within the grace, and let go of all leases.

        Nothing is finished by this: the next start continues every run where the log ends.
        """
        self._stopping = True
        for claim in self._claims:
            if claim.runner is not None:
                claim.runner.stop(now=False)
        if waiting := [claim.done for claim in self._claims]:
            await asyncio.wait(waiting, timeout=self._stop_grace_s)
        for claim in self._claims:
            if claim.runner is not None:
                claim.runner.stop(now=True)
            elif claim.task is not None:
                claim.task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of ours whose failure must not end all the others."""

        async def contained() -> None:
            try:
                await work
            except Exception:
                log.exception("a background task failed in an unforeseen way")

        self._group.create_task(contained())

    @staticmethod
    async def _answer(future: asyncio.Future[T], work: Coroutine[Any, Any, T]) -> None:
        try:
            future.set_result(await work)
        except Exception as error:
            future.set_exception(error)

    async def _accept(
        self,
        conversation: str,
        accepted: ResponseAccepted,
        opening: Sequence[AnyEvent],
        fits: Fits,
        at_end: Callable[[], None] | None,
    ) -> Admission:
        if known := await self._acceptance.known(accepted):
            return known
        await self._acceptance.idle(conversation)
        if self._stopping:
            raise Unavailable("the server is stopping; try again", retry_after_s=5)
        if self._journal.overloaded:
            raise Unavailable(
                "the journal is behind, nothing was accepted; try again (journal.max_queued)",
                code="journal_overloaded",
                retry_after_s=1,
            )
        claim, admission = await self._acceptance.store(conversation, accepted, opening, fits)
        if claim is not None:
            claim.at_end = at_end
            self._begin(claim)
        return admission

    # -- running --

    def _begin(self, claim: Claim) -> None:
        claim.task = self._group.create_task(self._work(claim))

    async def _work(self, claim: Claim) -> None:
        try:
            if claim.runner is None:
                claim.runner = await self._prepare(claim)
            if claim.runner is not None:
                self._unreadable.discard(claim.conversation)
                if claim.cancel_id:
                    claim.runner.cancel(claim.cancel_id)
                await claim.runner.drive()
        except Fenced as fenced:
            log.warning("%s", fenced)
        except asyncio.CancelledError:
            if not claim.fenced:
                raise
            log.warning("%s: the lease is lost", claim.conversation)
        except JournalFull as error:
            log.error("%s: left unfinished: %s", claim.conversation, error)
        except Exception:
            if claim.conversation not in self._unreadable:
                log.exception("%s: the run failed in an unforeseen way", claim.conversation)
            await self._give_up(claim, "internal_error", "an internal error; see the log")
        finally:
            await self._leave(claim)

    async def _prepare(self, claim: Claim) -> Runner | None:
        lease = await self._leases.wait_for(claim)
        if lease is None:
            return None
        parked = await self._parking.load(lease)
        if parked.state.run is None:
            self._parking.put_back(lease, parked)
            return None
        try:
            agent = self._agents.get(parked.state.agent)
        except NotFound as gone:
            await self._give_up(claim, gone.code or "not_found", gone.message)
            return None
        return Runner(self._shared, lease, agent, parked.state, parked.prompt)

    async def _give_up(self, claim: Claim, code: str, message: str) -> None:
        """End a response that cannot be run: a client must not wait for it for ever.

        Where not even that can be done, as with a log that a later release wrote, it is left.
        """
        try:
            recorded = await self._journal.read(claim.conversation)
            state = fold_all(recorded)
            run = state.run
            if run is not None and claim.lease is not None:
                now = self._clock.now()
                agent = claim.runner.agent if claim.runner is not None else None
                kinds = agent.tools.kinds if agent is not None else {}
                ended = ResponseFinished(run.response_id, now, "failed", code, message)
                told = call_rules.cut(state, now, kinds)
                await self._journal.append(claim.lease, [*told, ended])
                self._shared.runs.ended(agent, "failed", run.spent, now - run.spent.since)
        except (Fenced, JournalFull) as error:
            log.error("%s: left unfinished: %s", claim.conversation, error)
        except Exception:
            if claim.conversation not in self._unreadable:
                self._unreadable.add(claim.conversation)
                log.exception("%s: left unfinished", claim.conversation)

    def _heard(self, note: str) -> None:
        """What another worker says."""
        if note == DUE:
            self._waking.at(self._clock.now())
        elif note.startswith(CANCEL):
            for claim in self._claims:
                if claim.runner is not None and claim.runner.cancel(note.removeprefix(CANCEL)):
                    return

    async def _leave(self, claim: Claim) -> None:
        """Give the lease up, keep the state if it is true, and let others claim."""
        conversation = claim.conversation
        runner = claim.runner
        if claim.at_end is not None:
            claim.at_end()
        if runner is not None and claim.lease is not None:
            self._parking.keep(claim.lease, runner)
        try:
            wake_at = runner.wake_at if runner is not None else 0.0
            await self._leases.release(claim, wake_at)
            if wake_at:
                self._waking.at(wake_at)
            elif self._stopping and runner is not None and not runner.is_idle:
                with suppress(JournalFull):
                    await self._journal.send(DUE)  # another process may go on with it at once
        finally:
            self._claims.drop(claim)
            if claim.again and not self._stopping:
                following = self._claims.take(conversation)
                if _left_open(claim):
                    following.cancel_id = claim.cancel_id  # it came when nobody looked any more
                self._begin(following)
            if not claim.done.done():
                claim.done.set_result(None)


def _left_open(claim: Claim) -> bool:
    """Did a run come to its end here before its response did, and does another claim follow?"""
    return claim.again and claim.runner is not None and not claim.runner.is_idle


def _look_at(future: asyncio.Future[Admission]) -> None:
    # Its caller may be gone; an exception that nobody asks for would be reported as lost.
    if not future.cancelled():
        future.exception()
