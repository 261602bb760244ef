"""From a request to its place: which conversation it belongs to, and with what history.

    Idempotency-Key known        the response that it made
    no predecessor               a new conversation
    conversation                 that one, if nothing runs in it
    previous_response_id         its newest response: that conversation goes on
                                 an older one, or another agent: a fork with the history up to it

The worker stores the request and runs it. From the look at a conversation's log until then this
module lets no other request near that conversation, so two requests cannot both be the next.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.agents import Agent, Agents
from orchestrator.clock import Clock
from orchestrator.events import ConversationStarted, HistoryImported, ResponseAccepted
from orchestrator.history import items_of, upto
from orchestrator.journal import Journal, Recorded, ResponseRef
from orchestrator.machine import State, fold_all
from orchestrator.open_calls import check_outputs
from orchestrator.response_request import CreateRequest
from orchestrator.worker import Admission
from serving.errors import BadRequest, Conflict, NotFound

LOCKS = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """A validated request, and what came with it."""

    request: CreateRequest
    agent: Agent
    key: str
    fingerprint: str
    """Hash of the body: an Idempotency-Key stands for one request only."""


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
    ) -> None:
        self._require_engine = require_engine
        self._journal = journal
        self._worker = worker
        self._agents = agents
        self._clock = clock
        # From looking at a log to adding to it nobody else may add: one lock for a conversation,
        # shared with some others, so that the number of locks is bounded.
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

    async def accept(self, request: CreateRequest, key: str, fingerprint: str) -> ResponseRef:
        """Raises BadRequest, NotFound, Conflict, JournalFull, Unavailable; nothing was stored then.

        Unavailable: no engine can take the agent's first turn now. A run that was accepted waits
        for its engine; one that was not is better told at once.
        """
        asked = Asked(request, self._agents.get(request.model), key, fingerprint)
        _check_tool_names(asked)
        if key and (known := await self._journal.find_idempotent(key)):
            return await self._again(known, fingerprint)
        self._require_engine(asked.agent.model)
        admission = await self._place(asked)
        if admission.created:
            return admission.ref
        return await self._again(admission.ref, fingerprint)

    async def _again(self, ref: ResponseRef, fingerprint: str) -> ResponseRef:
        log = await self._journal.read(ref.conversation, ref.first_seq - 1)
        first = log[0].event
        if isinstance(first, ResponseAccepted) and first.request.get("fingerprint") != fingerprint:
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
        check_outputs((), asked.request.items())
        return await self._open(asked, None)

    async def _after(self, asked: Asked, previous: str) -> Admission:
        ref = await self._journal.find_response(previous)
        if ref is None:
            raise _unknown_previous(previous)
        async with self._lock(ref.conversation):
            log = await self._journal.read(ref.conversation)
            if not _is_stored(log, ref):
                raise _unknown_previous(previous)
            state = fold_all(log)
            if state.run is not None and state.run.response_id == previous:
                raise _busy(f"previous_response_id: {previous} is still in progress")
            if state.last_response_id == previous and _is_agent(state, asked):
                check_outputs(items_of(state.history), asked.request.items())
                return await self._worker.accept(ref.conversation, self._accepted(asked))
        before = fold_all(upto(log, previous))
        items = items_of(before.history, as_calls=_is_agent(before, asked))
        check_outputs(items, asked.request.items())
        return await self._open(asked, HistoryImported(ref.conversation, previous, items))

    async def _within(self, asked: Asked, conversation: str) -> Admission:
        async with self._lock(conversation):
            log = await self._journal.read(conversation)
            if not log:
                raise unknown_conversation(conversation)
            state = fold_all(log)
            if state.run is not None:
                raise _busy(f"conversation: {state.run.response_id} is still in progress in it")
            if state.agent and not _is_agent(state, asked):
                raise BadRequest(
                    f"model: the conversation belongs to {state.agent!r}, not to "
                    f"{asked.request.model!r}; use previous_response_id to branch off",
                    param="model",
                )
            check_outputs(items_of(state.history), asked.request.items())
            start = self._start(asked)
            return await self._worker.accept(conversation, self._accepted(asked), start=start)

    async def _open(self, asked: Asked, imported: HistoryImported | None) -> Admission:
        """A new conversation."""
        accepted, start = self._accepted(asked), self._start(asked)
        return await self._worker.accept(new_id("conv"), accepted, start=start, imported=imported)

    def _start(self, asked: Asked) -> ConversationStarted:
        return ConversationStarted(asked.agent.key, self._clock.now())

    def _accepted(self, asked: Asked) -> ResponseAccepted:
        request = asked.request
        return ResponseAccepted(
            new_id("resp"),
            at=self._clock.now(),
            input=request.items(),
            request={**request.facts(), "fingerprint": asked.fingerprint},
            previous_response_id=request.previous_response_id or "",
            idempotency_key=asked.key,
        )

    def _lock(self, conversation: str) -> asyncio.Lock:
        return self._locks[hash(conversation) % LOCKS]


def _check_tool_names(asked: Asked) -> None:
    own = asked.agent.tools.names
    for index, each in enumerate(asked.request.tools or ()):
        if each.name in own:
            param = f"tools[{index}].name"
            raise BadRequest(
                f"{param}: {each.name!r} is a tool of the agent {asked.agent.name!r}; rename yours",
                param=param,
            )


def _busy(message: str) -> Conflict:
    return Conflict(
        f"{message}; wait for its end, or cancel it",
        code="conversation_locked",
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


def _is_stored(log: Sequence[Recorded], ref: ResponseRef) -> bool:
    accepted = log[ref.first_seq - 1].event
    return isinstance(accepted, ResponseAccepted) and accepted.request.get("store") is not False


def _is_agent(state: State, asked: Asked) -> bool:
    """Does this conversation belong to the agent that is asked for? It stays on its version,
    unless another one is asked for by number."""
    if "@" in asked.request.model:
        return state.agent == asked.agent.key
    return state.agent.partition("@")[0] == asked.agent.name
