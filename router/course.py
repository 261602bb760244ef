"""One turn on its way through the router, and what is known of it so far.

What an answer shows as it passes (its usage, that it was cut) is told to its course, which is the
`Watcher` of `answer.py` and the stream's owner for `continued.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from router import logs
from router.calls.plan import ToolPlan
from router.http.answer import Answer
from router.http.forward import Upstream
from router.http.http1 import Failed
from router.placing.claim import Claim, Placed
from router.placing.health import Trial
from router.placing.slot import Slot
from router.streams.continuation import Continuation, Rest
from router.streams.continued import Outcome, continued
from router.streams.sent import Sent
from router.tenancy.limits import BYTES_PER_TOKEN, Hold
from router.turn import TurnRequest
from serving.errors import RequestError, UpstreamError, UpstreamTimeout
from serving.protocol import AnyAsk, Usage
from serving.tables.base import Engine

if TYPE_CHECKING:
    from router.dispatch import Router


@dataclass(slots=True)
class Course:
    """One turn on its way through `dispatch`."""

    router: Router
    turn: TurnRequest
    record: logs.TurnRecord
    ask: AnyAsk
    claim: Claim
    plan: ToolPlan | None
    """What the request's tools mean; None where it has none."""
    path: str
    """The engine's route: the turn's, until it goes on by another."""
    hold: Hold
    """What its tenant's limits have let in."""
    slot: Slot | None = None
    engine: Engine | None = None
    """The one that is being tried, or that answered."""
    due_unix_s: float | None = None
    """Its rank in that one's queue; front doors on several machines share this clock."""
    body: bytes = b""
    """What it was sent."""
    trial: Trial | None = None
    """Its stay there, where the replica takes one turn at a time."""
    suspects: list[Engine] = field(default_factory=list)
    """Those that answered 5xx."""
    upstream: Upstream | None = None
    """The connection on which its answer comes."""
    answer: Answer | None = None
    """... and what its client gets of it."""
    how: Continuation | None = None
    """How it goes on, once its stream was cut."""
    rest: Rest | None = None
    """Reads the answer to that."""

    @property
    def model(self) -> str:
        """The model or adapter that answers."""
        return self.claim.model

    def goes_to(self, placed: Placed) -> None:
        """It is that replica's turn from here on."""
        self.left()
        self.engine = engine = placed.engine
        self.due_unix_s = None if placed.due_in_s is None else time.time() + placed.due_in_s
        self.record.attempts += 1
        self.record.replica = engine.replica
        self.trial = self.router.health.enter(engine.replica)

    def left(self) -> None:
        """No replica has it any more."""
        if self.trial is not None:
            self.trial.leave()
            self.trial = None

    def over(self) -> None:
        """The client has what it gets. Learn from it, and let all go."""
        if self.answer is not None:
            self.answer.over()
        self.close()

    def used(self, usage: Usage) -> None:
        prompt, cached, output = usage.prompt_tokens, usage.cached_tokens, usage.output_tokens
        self.record.prompt_tokens = prompt
        self.record.cached_tokens = cached
        self.record.output_tokens = output
        prices = self.router.config.models[self.record.model].prices
        self.record.cost_usd = prices.cost_usd(prompt=prompt, cached=cached, output=output)
        self.record.uncached_cost_usd = prices.cost_usd(prompt=prompt, cached=0, output=output)
        assert self.slot is not None  # noqa: S101  an answer comes from somewhere
        self.slot.ended(usage)
        self.hold.used(usage, self.record.cost_usd)

    @property
    def counts_tokens(self) -> bool:
        return self.hold.counts_tokens

    def streamed(self, events: int) -> None:
        prompt = len(self.turn.body) // BYTES_PER_TOKEN
        cached = min(prompt, self.record.predicted_cached_tokens or 0)
        prices = self.router.config.models[self.record.model].prices
        cost_usd = prices.cost_usd(prompt=prompt, cached=cached, output=events)
        self.hold.streamed(events, cost_usd)

    def cut(self, failure: Failed) -> RequestError:
        assert self.engine is not None  # noqa: S101  an answer comes from somewhere
        self.close()
        if failure.cause == "status":
            self.suspects.append(self.engine)
        else:
            self.router.eject(self.engine, failure.cause)
        error = UpstreamTimeout if failure.cause == "timeout" else UpstreamError
        return error(f"engine {self.engine.replica} failed in mid-answer: {failure.detail}")

    def close(self) -> None:
        """The engine's work is no longer wanted, or done."""
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None

    # What `continued` needs of a stream

    @property
    def continuations(self) -> int:
        return self.router.config.router.failure.continuations

    def continued(self, sent: Sent, failure: Failed) -> AsyncGenerator[bytes, None]:
        return continued(self, sent, failure)

    async def elsewhere(self, how: Continuation, failure: Failed) -> tuple[Upstream, Rest, str]:
        self.how, self.path = how, how.path
        upstream, placed = await self.router.attempts.elsewhere(self, failure)
        assert self.rest is not None  # noqa: S101  made with the request
        return upstream, self.rest, placed.engine.replica

    def noted(self, outcome: Outcome, why: str = "") -> None:
        self.record.continued += outcome == "continued"
        self.record.not_continued = why or ("" if outcome == "continued" else outcome)
        self.router.metrics.continued(self.record.model, outcome)
