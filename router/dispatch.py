"""Router: one turn from its bytes to an engine's answer. The story of every request:

    parse → identity → tier → admission → [ placement → forward ] → answer
                                          └── again on another replica, while no byte has come

    Router(config: StackConfig, table: EngineTable, *,
           also_models: Callable[[], Sequence[str]] = ..., clock=time.monotonic, sink=stderr)
    await router.start() / await router.stop()      # its connections; the table is the caller's
    async with router.open(turn) as answer: ...     # router.turn.Turns

What is decided is decided by pure functions (tiers, placement) on snapshots; this module makes
them happen, and says of each turn what happened: in the headers, the log line and the metrics.

An engine is ejected when it refuses, is silent or is cut. A 5xx answer ejects it only after another
replica has answered the same turn: a request that kills every engine it meets must not take the
fleet out. 503 means a full queue and ejects nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from router import logs, placement, rewrites, tiers
from router.admission import Admission, Permit
from router.answer import Answer
from router.fleet import Fleet, wire_name
from router.forward import Forwarder, Upstream
from router.health import Clock, Health
from router.http1 import Cause, Failed
from router.identity import Identity, Sessions
from router.metrics import Metrics
from router.turn import Decision, TurnRequest
from serving.config import StackConfig, nearest
from serving.errors import (
    NotFound,
    RequestError,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from serving.protocol import AnyAsk, Usage, parse
from serving.table import Engine, EngineTable

_HUNG_UP = 499  # nginx's status for it; only ever in the log
_NOT_READY_RETRY_S = 5.0


@dataclass(slots=True)
class _Course:
    """One turn on its way through this module, and what is known of it so far."""

    router: Router
    turn: TurnRequest
    record: logs.TurnRecord
    permit: Permit
    ask: AnyAsk
    identity: Identity
    tiering: tiers.Tiering
    engine: Engine | None = None
    """The one that is being tried, or that answered."""
    suspects: list[Engine] = field(default_factory=list)
    """Those that answered 5xx."""

    @property
    def model(self) -> str:
        return self.tiering.model

    def used(self, usage: Usage) -> None:
        self.record.prompt_tokens = usage.prompt_tokens
        self.record.cached_tokens = usage.cached_tokens
        self.record.output_tokens = usage.output_tokens
        assert self.engine is not None  # noqa: S101  an answer comes from somewhere
        held = usage.prompt_tokens + usage.output_tokens
        self.router.sessions.grew(self.model, self.identity, self.engine.replica, held)

    def cut(self, failure: Failed) -> RequestError:
        assert self.engine is not None  # noqa: S101  an answer comes from somewhere
        self.router.eject(self.engine, failure.cause)
        error = UpstreamTimeout if failure.cause == "timeout" else UpstreamError
        return error(f"engine {self.engine.replica} failed in mid-answer: {failure.detail}")


class Router:
    """The one real `Turns`."""

    def __init__(
        self,
        config: StackConfig,
        table: EngineTable,
        *,
        also_models: Callable[[], Sequence[str]] = lambda: (),
        clock: Clock = time.monotonic,
        sink: logs.Sink = logs.to_stderr,
    ) -> None:
        self.config = config
        self.table = table
        self.also_models = also_models
        self.admission = Admission(config.front.max_inflight)
        self.health = Health(config.router.eject_s, clock)
        self.sessions = Sessions(config.router.max_sessions)
        self.metrics = Metrics(table.snapshot, lambda: self.admission.total)
        self._forwarder = Forwarder(config.front)
        self._clock = clock
        self._sink = sink
        self._fleet = Fleet()

    async def start(self) -> None:
        """Nothing to do yet: connections are opened by the turns that need them. Idempotent."""

    async def stop(self) -> None:
        """Close all connections to engines, also those in use. Idempotent."""
        self._forwarder.close()

    def fleet(self) -> Fleet:
        """The table's newest snapshot, indexed; rebuilt only when the table has a new one."""
        snapshot = self.table.snapshot()
        if snapshot != self._fleet.engines:  # cheap: engines that did not change are identical
            self._fleet = Fleet(snapshot)
            self.health.keep_only(self._fleet.replicas)
        return self._fleet

    def require_ready(self, model: str) -> None:
        """Raises Unavailable when no engine could take a turn for `model` (or `auto`) now."""
        fleet = self.fleet()
        models = self.config.models if model == tiers.AUTO else (model,)
        if not any(fleet.ready(name) for name in models):
            why = "; ".join(f"{name}: {fleet.why_not(name)}" for name in models)
            raise _not_ready(model, why)

    @asynccontextmanager
    async def open(self, turn: TurnRequest) -> AsyncGenerator[Answer]:
        """See `Turns.open`."""
        started = self._clock()
        record = logs.TurnRecord(logs.utc_now(), turn.request_id, turn.path)
        try:
            with self.admission.admit() as permit:
                course = self._course(turn, record, permit)
                upstream, reason = await self._attempt(course)
                record.first_byte_s = round(self._clock() - started, 6)
                try:
                    yield self._answered(course, upstream, reason)
                finally:
                    upstream.close()
        except RequestError as error:
            record.status = record.status or error.status
            record.error = error.code or error.type
            raise
        except (asyncio.CancelledError, GeneratorExit):
            record.status = record.status or _HUNG_UP
            record.error = "hung_up"
            raise
        finally:
            record.total_s = round(self._clock() - started, 6)
            record.status = record.status or 500
            # The last bytes leave at the end of the loop's turn; the books are kept after that.
            asyncio.get_running_loop().call_soon(self.report, record)

    def report(self, record: logs.TurnRecord) -> None:
        """Log and count one request that has ended."""
        self.metrics.observe(record)
        logs.write(record, self._sink)

    def eject(self, engine: Engine, cause: Cause) -> None:
        """No turns for this replica for a while."""
        self.health.eject(engine.replica)
        self.metrics.ejected(engine.model, cause)

    def _course(self, turn: TurnRequest, record: logs.TurnRecord, permit: Permit) -> _Course:
        """Everything that can be decided before a replica is: what is asked, by whom, of which."""
        ask = parse(turn.path, turn.body)
        identity = self.sessions.identify(turn, ask)
        record.identity = identity.source
        fleet = self.fleet()
        turn_type = turn.turn_type or tiers.declared(turn.headers.get(tiers.TURN_HEADER))
        if ask.model == tiers.AUTO:
            turn_type = turn_type or tiers.inferred(ask)
        elif ask.model not in self.config.models and ask.model not in fleet.adapters:
            raise self._unknown(ask.model, fleet)
        tiering = tiers.choose(
            ask.model, turn_type, self.config.models, fleet.ready_names, self.config.router
        )
        record.turn_type = turn_type or ""
        record.model = tiering.model
        return _Course(self, turn, record, permit, ask, identity, tiering)

    def _unknown(self, model: str, fleet: Fleet) -> NotFound:
        if model.partition("@")[0] in self.also_models():
            return NotFound(
                f"model: {model[:80]!r} is an agent; "
                "send it to /v1/responses or /v1/chat/completions",
                param="model",
                code="model_not_found",
            )
        names = [tiers.AUTO, *self.config.models, *fleet.adapters, *self.also_models()]
        return NotFound(
            f"model: {model[:80]!r} is not known; {nearest(model, names)}"
            " (GET /v1/models lists all)",
            param="model",
            code="model_not_found",
        )

    async def _attempt(self, course: _Course) -> tuple[Upstream, str]:
        """Try replicas until one answers; returns the answer, and why that replica."""
        knobs = self.config.router
        tried: set[str] = set()
        failure: Failed | None = None
        while course.record.attempts < knobs.attempts:
            ready = self.fleet().ready(course.model)
            choice = placement.choose(
                self.health.usable([e for e in ready if e.replica not in tried]),
                self.admission.by_replica,
                self.sessions.home(course.model, course.identity),
                course.identity.key,
                knobs,
            )
            if choice is None:
                break
            reason = choice.reason
            if failure is not None:
                reason = f"retry:{failure.cause}"
                self.metrics.retried(course.model, failure.cause)
            course.engine = choice.engine
            course.record.attempts += 1
            course.record.replica = choice.engine.replica
            tried.add(choice.engine.replica)
            try:
                return await self._forward(course, choice.engine), reason
            except Failed as failed:
                failure = failed
                if failed.cause == "status":
                    course.suspects.append(choice.engine)
                elif failed.cause != "busy":
                    self.eject(choice.engine, failed.cause)
        raise self._exhausted(course, failure)

    async def _forward(self, course: _Course, engine: Engine) -> Upstream:
        course.permit.use(engine.replica)
        turn = course.turn
        name = wire_name(engine, course.model)
        body = turn.body if name == course.ask.model else rewrites.alias(turn.body, name)
        upstream = await self._forwarder.send(
            engine.url, turn.path, body, turn.headers, turn.request_id
        )
        if upstream.status >= 500:
            upstream.close()
            cause: Cause = "busy" if upstream.status == 503 else "status"
            raise Failed(cause, f"it answered {upstream.status}")
        return upstream

    def _answered(self, course: _Course, upstream: Upstream, reason: str) -> Answer:
        """Learn from a success, and hand it on."""
        engine, record = course.engine, course.record
        assert engine is not None  # noqa: S101  it has just answered
        for suspect in course.suspects:
            self.eject(suspect, "status")
        self.health.restore(engine.replica)
        warm = self.sessions.warm_tokens(course.model, course.identity, engine.replica)
        if upstream.status < 400:
            self.sessions.remember(course.model, course.identity, engine.replica)
        if course.tiering.reason:
            reason = f"{course.tiering.reason}; {reason}"
        record.reason, record.status = reason, upstream.status
        decision = Decision(course.model, engine.replica, engine.url, reason, warm)
        return Answer(upstream, decision, course)

    def _exhausted(self, course: _Course, failure: Failed | None) -> RequestError:
        """Why no replica answered, as the client's error."""
        model = course.model
        if failure is None:
            return _not_ready(model, self.fleet().why_not(model))
        count = course.record.attempts
        tries = "1 replica" if count == 1 else f"{count} replicas"
        said = f"model {model!r}: {tries} tried, none answered; of the last: {failure.detail}"
        if failure.cause == "busy":
            return Unavailable(said, code="engine_busy", retry_after_s=1)
        if failure.cause == "connect":
            # Nothing listens any more where the table still says so: no engine has seen the turn.
            return Unavailable(said, retry_after_s=_NOT_READY_RETRY_S)
        if failure.cause == "timeout":
            return UpstreamTimeout(said)
        return UpstreamError(said, retry_after_s=self.config.router.eject_s)


def _not_ready(model: str, why: str) -> Unavailable:
    return Unavailable(
        f"model {model!r} has no engine ready: {why}", retry_after_s=_NOT_READY_RETRY_S
    )
