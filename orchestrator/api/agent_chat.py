"""Agents as models of /v1/chat/completions: any chat client can run one.

    open(turn) ── the model is an agent ──► a response in a new conversation ──► chat completion
               └─ anything else ──────────► the router, untouched

Chat is stateless: each request brings its whole history and begins a conversation of its own. What
an agent's tools do on the way stays in the journal, a chat client sees the text. A client that
hangs up cancels the run, since it has no id to come back with.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from orchestrator.agents import Agents
from orchestrator.api.chat_answer import ChatAnswer
from orchestrator.api.chat_request import ChatRequest
from orchestrator.api.inbound import validate
from orchestrator.api.intake import Caller, Intake
from orchestrator.api.responses import Runs
from orchestrator.journal.base import Journal, JournalFull
from router.tenancy.deadlines import until
from router.turn import Dispatched, TurnRequest, Turns
from serving.errors import Unavailable
from serving.protocol import CHAT


class _Model(msgspec.Struct):
    model: str = ""


_model = msgspec.json.Decoder(_Model)


class AgentTurns:
    """A `Turns` before the router's: takes the turns of agents, passes on all others."""

    def __init__(
        self,
        turns: Turns,
        journal: Journal,
        worker: Runs,
        intake: Intake,
        agents: Agents,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is the one that turns' deadlines are told by."""
        self._clock = clock
        self._turns = turns
        self._journal = journal
        self._worker = worker
        self._intake = intake
        self._names = {name: name.encode() for name in agents.names()}

    def open(self, turn: TurnRequest) -> AbstractAsyncContextManager[Dispatched]:
        return self._run(turn) if self._is_for_agent(turn) else self._turns.open(turn)

    def _is_for_agent(self, turn: TurnRequest) -> bool:
        if turn.path != CHAT or not any(name in turn.body for name in self._names.values()):
            return False  # most turns are for models, and a look is cheaper than a scan
        try:
            return _model.decode(turn.body).model.partition("@")[0] in self._names
        except msgspec.DecodeError:
            return False  # the router says what is wrong with it

    @asynccontextmanager
    async def _run(self, turn: TurnRequest) -> AsyncGenerator[Dispatched, None]:
        request = validate(ChatRequest, turn.body)
        key = turn.headers.get("idempotency-key", "")
        fingerprint = hashlib.sha256(turn.body).hexdigest()[:32]
        caller = Caller(turn.tenant, turn.urgency)
        try:
            ref = await self._intake.accept(
                request.as_response(), key, fingerprint, caller, len(turn.body)
            )
        except JournalFull as error:
            raise Unavailable(str(error), code="journal_unavailable", retry_after_s=5) from error
        answer = ChatAnswer(self._journal, ref, request)
        try:
            async with until(turn.deadline_s, self._clock):
                if not request.stream:
                    await answer.prepare()
                yield answer
        finally:
            if not answer.finished:
                await self._worker.cancel(ref.response_id)
