"""From a request to its place: which conversation it belongs to, and with what history.

    Idempotency-Key known        the response that it made
    no predecessor               a new conversation
    conversation                 that one, if nothing runs in it
    previous_response_id         its newest response: that conversation goes on
                                 an older one, or another agent: a fork with the history up to it

A response and its conversation belong to the tenant that made them: to all others they are not
there, and an Idempotency-Key is one tenant's own.

The worker stores the request and runs it. From the look at a conversation's log until then this
module lets no other request of this process near that conversation; of two that come to two
processes at once one is the next. `_next` says so to the other under the conversation's lease: with
`previous_response_id` it is then a fork, as if it had come later.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from orchestrator.agents import Agent, Agents
from orchestrator.api.approvals import decisions, has_decision, waiting_calls
from orchestrator.api.capabilities import check, check_tools
from orchestrator.api.open_calls import check_outputs
from orchestrator.api.response_request import CreateRequest
from orchestrator.clock import Clock
from orchestrator.journal.base import Journal, Recorded, ResponseRef
from orchestrator.loop.events import ConversationStarted, HistoryImported, Item, ResponseAccepted
from orchestrator.loop.history import items_of, upto
from orchestrator.loop.machine import fold_all
from orchestrator.loop.state import State
from orchestrator.worker.acceptance import Admission, Fits, always
from router.tenancy.limits import Limits
from router.tenancy.tenants import OPEN, Tenant
from router.turn import Urgency
from serving.config.model import ModelConfig
from serving.errors import BadRequest, Conflict, NotFound

LOCKS = 256
LOCKED = "conversation_locked"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and how much it matters to them."""

    tenant: Tenant = OPEN
    urgency: Urgency = "interactive"
    deadline_s: float | None = None
    """Seconds from its acceptance."""
    traceparent: str = ""
    """W3C trace context that the request came with."""

    @property
    def name(self) -> str:
        return self.tenant.name


ANYBODY = Caller()


@dataclass(frozen=True, slots=True)
class Asked:
    """A validated request, and what came with it."""

    request: CreateRequest
    agent: Agent
    key: str
    fingerprint: str
    """Hash of the body: an Idempotency-Key stands for one request only."""
    caller: Caller
    size_bytes: int


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


class Acceptor(Protocol):
    """What this module needs of the worker."""

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
        """Store durably and begin to run; see `Worker.accept`."""


class Intake:
    """Finds each request its place; the worker stores it there and runs it."""

    def __init__(
        self,
        journal: Journal,
        worker: Acceptor,
        agents: Agents,
        clock: Clock,
        require_engine: Callable[[str], None] = lambda _: None,
        *,
        limits: Limits | None = None,
        models_of: Callable[[str], Iterable[ModelConfig]] = lambda _: (),
    ) -> None:
        """`models_of` gives what may answer for a model's name, `auto` included."""
        self._limits = limits
        self._models_of = models_of
        self._require_engine = require_engine
        self._journal = journal
        self._worker = worker
        self._agents = agents
        self._clock = clock
        # From looking at a log to adding to it nobody else may add: one lock for a conversation,
        # shared with some others, so that the number of locks is bounded.
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

    async def accept(
        self,
        request: CreateRequest,
        key: str,
        fingerprint: str,
        caller: Caller = ANYBODY,
        size_bytes: int = 0,
    ) -> ResponseRef:
        """Raises BadRequest, NotFound, Conflict, JournalFull, Unavailable, RateLimited; nothing
        was stored then.

        Unavailable: no engine can take the agent's first turn now. A run that was accepted waits
        for its engine; one that was not is better told at once.
        """
        agent = self._agents.get(request.model, caller.tenant)
        if key and caller.name:
            key = f"{caller.name}\n{key}"  # no header holds a line break: nobody else has this key
        asked = Asked(request, agent, key, fingerprint, caller, size_bytes)
        if key and (known := await self._journal.find_idempotent(key)):
            return await self._again(known, asked)
        self._require_engine(asked.agent.model)
        admission = await self._place(asked)
        if admission.created:
            return admission.ref
        return await self._again(admission.ref, asked)

    def agent(self, name: str, caller: Caller) -> Agent:
        """Raises NotFound."""
        return self._agents.get(name, caller.tenant)

    async def beside(self, request: CreateRequest, caller: Caller, size_bytes: int) -> ResponseRef:
        """A side response, in a conversation of its own: we choose its model, not the tenant.
        Raises what `accept` raises."""
        agent = self._agents.get(request.model)
        self._require_engine(agent.model)
        return (await self._open(Asked(request, agent, "", "", caller, size_bytes), None)).ref

    async def history(self, previous: str, agent: Agent, caller: Caller) -> list[Item]:
        """What a request of this agent that follows that response finds before it. Raises what
        `state_after` raises."""
        return _items_for(agent, await self.state_after(previous, caller))

    async def state_after(self, previous: str, caller: Caller) -> State:
        """The conversation at that response's end. Raises BadRequest, also for a response of
        another tenant, and Conflict while it is in progress."""
        ref = await self._journal.find_response(previous)
        log = await self._journal.read(ref.conversation) if ref is not None else []
        if ref is None or not _is_stored(log, ref, caller.name):
            raise _unknown_previous(previous)
        before = fold_all(upto(log, previous))
        if before.run is not None:
            raise _busy(f"previous_response_id: {previous} is still in progress")
        return before

    async def items_in(self, conversation: str, agent: Agent, caller: Caller) -> list[Item]:
        """What its next request finds before it. Raises NotFound, Conflict."""
        log = await self._journal.read(conversation)
        state = fold_all(log)
        if not log or state.purged or state.tenant != caller.name:
            raise unknown_conversation(conversation)
        if state.run is not None:
            raise _busy(f"conversation: {state.run.response_id} is still in progress in it")
        return _items_for(agent, state)

    async def _again(self, ref: ResponseRef, asked: Asked) -> ResponseRef:
        log = await self._journal.read(ref.conversation, ref.first_seq - 1)
        first = log[0].event
        if isinstance(first, ResponseAccepted) and (
            first.request.get("fingerprint") != asked.fingerprint
            or first.tenant != asked.caller.name
        ):
            raise Conflict(
                "Idempotency-Key: was used with another body; send a new key with a new request",
                code="idempotency_key_reused",
            )
        return ref

    async def _place(self, asked: Asked) -> Admission:
        if previous := asked.request.previous_response_id:
            return await self._after(asked, previous)
        if conversation := asked.request.conversation:
            return await self._within(asked, conversation)
        self._check(asked)
        decisions(State(), asked.request.items(), 0.0)  # nothing waits yet
        check_outputs((), asked.request.items())
        return await self._open(asked, None)

    async def _after(self, asked: Asked, previous: str) -> Admission:
        ref = await self._journal.find_response(previous)
        if ref is None:
            raise _unknown_previous(previous)
        async with self._lock(ref.conversation):
            log = await self._journal.read(ref.conversation)
            if not _is_stored(log, ref, asked.caller.name):
                raise _unknown_previous(previous)
            state = fold_all(log)
            if state.run is not None and state.run.response_id == previous:
                raise _busy(f"previous_response_id: {previous} is still in progress")
            decides = has_decision(asked.request.items())
            if (state.last_response_id == previous or decides) and _is_agent(state, asked):
                # A decision belongs to the conversation that waits for it, never to a fork.
                begun = self._as_begun(state, asked)
                _check_open(state, begun)
                try:
                    return await self._run(ref.conversation, begun, _next)
                except Conflict as conflict:
                    log = await self._journal.read(ref.conversation)
                    overtaken = fold_all(log).last_response_id != previous
                    if decides or not overtaken or conflict.code != LOCKED:
                        raise
                    if not _is_stored(log, ref, asked.caller.name):  # deleted meanwhile
                        raise _unknown_previous(previous) from None
        before = fold_all(upto(log, previous))
        self._check(asked)
        items = items_of(before.history, as_calls=_is_agent(before, asked))
        decisions(State(), asked.request.items(), 0.0)  # in a fork nothing waits
        check_outputs(items, asked.request.items())
        return await self._open(asked, HistoryImported(ref.conversation, previous, items))

    async def _within(self, asked: Asked, conversation: str) -> Admission:
        async with self._lock(conversation):
            log = await self._journal.read(conversation)
            state = fold_all(log)
            if not log or state.purged or state.tenant != asked.caller.name:
                raise unknown_conversation(conversation)
            if state.run is not None:
                raise _busy(f"conversation: {state.run.response_id} is still in progress in it")
            _check_within(state, asked)
            asked = self._as_begun(state, asked)
            return await self._run(conversation, asked, _check_within, start=self._start(asked))

    def _check(self, asked: Asked) -> None:
        check(asked.request, asked.agent, self._models_of(asked.agent.model))

    def _as_begun(self, state: State, asked: Asked) -> Asked:
        """A conversation stays on the version of its agent that it began with."""
        if state.agent and state.agent != asked.agent.key:
            asked = replace(asked, agent=self._version(state.agent, asked))
        self._check(asked)
        return asked

    def _version(self, key: str, asked: Asked) -> Agent:
        try:
            return self._agents.get(key, asked.caller.tenant)
        except NotFound:
            raise Conflict(
                f"model: the conversation is on {key!r}, which is not configured any more; put "
                f"that version back under agents.{asked.agent.name}.versions, or branch off: "
                f"send previous_response_id with model {asked.agent.key!r}",
                param="model",
                code="agent_version_removed",
            ) from None

    async def _open(self, asked: Asked, imported: HistoryImported | None) -> Admission:
        """A new conversation."""
        start = self._start(asked)
        return await self._run(new_id("conv"), asked, start=start, imported=imported)

    async def _run(
        self,
        conversation: str,
        asked: Asked,
        place: Callable[[State, Asked], None] = lambda *_: None,
        *,
        start: ConversationStarted | None = None,
        imported: HistoryImported | None = None,
    ) -> Admission:
        """Let the worker have it, within the tenant's limits; they hold it until its end.

        `place` raises unless the conversation is still the request's place.
        """

        def fits(state: State, agent: Agent) -> None:
            place(state, asked)
            check_tools(asked.request, agent)  # a call that is decided brings tools, too

        accept = partial(
            self._worker.accept,
            conversation,
            self._accepted(asked),
            start=start,
            imported=imported,
            fits=fits,
        )
        if self._limits is None:
            return await accept()
        hold = self._limits.enter(
            asked.caller.tenant, conversation.encode(), asked.size_bytes, charge=False
        )
        held = ExitStack()  # its close does nothing the second time
        held.enter_context(hold)
        try:
            admission = await accept(at_end=held.close)
        except BaseException:
            held.close()
            raise
        if not admission.created:
            held.close()
        return admission

    def _start(self, asked: Asked) -> ConversationStarted:
        return ConversationStarted(asked.agent.key, self._clock.now(), asked.caller.name)

    def _accepted(self, asked: Asked) -> ResponseAccepted:
        request, caller = asked.request, asked.caller
        facts = {**request.facts(), "fingerprint": asked.fingerprint}
        facts.setdefault("temperature", asked.agent.settings.get("temperature", 1.0))
        if caller.urgency != "interactive" or request.service_tier == "flex":
            facts["urgency"] = "batch"
        if caller.deadline_s is not None:
            facts["deadline_s"] = caller.deadline_s
        if caller.traceparent:
            facts["traceparent"] = caller.traceparent
        return ResponseAccepted(
            new_id("resp"),
            at=self._clock.now(),
            input=request.items(),
            request=facts,
            previous_response_id=request.previous_response_id or "",
            idempotency_key=asked.key,
            tenant=caller.name,
        )

    def _lock(self, conversation: str) -> asyncio.Lock:
        return self._locks[hash(conversation) % LOCKS]


def _check_open(state: State, asked: Asked) -> None:
    """Raises BadRequest or Conflict unless the input fits what is open in the conversation."""
    items = asked.request.items()
    decisions(state, items, 0.0)
    check_outputs(items_of(state.history), items, waiting_calls(state))


def _check_within(state: State, asked: Asked) -> None:
    """Raises BadRequest or Conflict unless the request can be the conversation's next one."""
    if state.agent and not _is_agent(state, asked):
        raise BadRequest(
            f"model: the conversation belongs to {state.agent!r}, not to "
            f"{asked.request.model!r}; use previous_response_id to branch off",
            param="model",
        )
    _check_open(state, asked)


def _next(state: State, asked: Asked) -> None:
    """Raises Conflict if another request has come after the same response meanwhile, BadRequest
    or Conflict if the input does not fit what is open."""
    previous = asked.request.previous_response_id
    if state.last_response_id != previous and not has_decision(asked.request.items()):
        raise _busy(f"previous_response_id: {state.last_response_id} came after {previous} first")
    _check_open(state, asked)


def _busy(message: str) -> Conflict:
    return Conflict(
        f"{message}; wait for its end, or cancel it",
        code=LOCKED,
        retry_after_s=1.0,
    )


def _unknown_previous(previous: str) -> BadRequest:
    # OpenAI answers 400 here, and 404 where the id stands in the path.
    return BadRequest(
        f"Previous response with id '{previous}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def unknown_conversation(conversation: str) -> NotFound:
    return NotFound(f"Conversation with id '{conversation}' not found.", param="conversation")


def _is_stored(log: Sequence[Recorded], ref: ResponseRef, tenant: str) -> bool:
    accepted = log[ref.first_seq - 1].event
    return (
        isinstance(accepted, ResponseAccepted)
        and accepted.tenant == tenant
        and accepted.request.get("store") is not False
    )


def _items_for(agent: Agent, state: State) -> list[Item]:
    return items_of(state.history, as_calls=state.agent.partition("@")[0] == agent.name)


def _is_agent(state: State, asked: Asked) -> bool:
    """Does this conversation belong to the agent that is asked for? It stays on its version,
    unless another one is asked for by number."""
    if "@" in asked.request.model:
        return state.agent == asked.agent.key
    return state.agent.partition("@")[0] == asked.agent.name
