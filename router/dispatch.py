"""Router: one turn from its bytes to an engine's answer. The story of every request:

    parse → identity → slot → [ placement → forward ] → answer
                                    attempts

    Router(config: StackConfig, table: EngineTable, *,
           also_models: Callable[[], Sequence[str]] = ..., known: KnownAdapters = ...,
           clock=time.monotonic, sink=stderr)
    await router.start() / await router.stop()      # its connections; the table is the caller's
    async with router.open(turn) as answer: ...     # router.turn.Turns

What is decided is decided by pure functions (placement) on snapshots; this module makes it happen,
and says of each turn what happened: in the headers, the log line and the metrics. Turns come with
their model: `model: auto` is decided one layer above, in auto.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from router import logs, media
from router.adapters.adapter_set import KnownAdapters
from router.attempts import Attempts
from router.calls.again import Again
from router.calls.answer import ToolAnswer
from router.calls.plan import ToolPlan, ToolPlans
from router.calls.whole import checked_whole
from router.catalogue import Catalogue
from router.content import Content
from router.course import Course
from router.http.answer import Answer
from router.http.forward import Forwarder, Upstream
from router.http.http1 import Cause
from router.identity import Identity
from router.kv.listeners import KvListeners
from router.metrics import Metrics
from router.placing.health import Clock, Health
from router.placing.retry_budget import RetryBudget
from router.placing.scheduler import Claim, Placed, Scheduler, Slot
from router.streams.sent import Sent
from router.streams.sent_messages import SentMessages
from router.tenancy import isolation
from router.tenancy.budget_metrics import BudgetMetrics
from router.tenancy.deadlines import Spare, until
from router.tenancy.limits import Hold, Limits
from router.tenancy.tenants import OPEN
from router.tiers import turn_types as tiers
from router.tiers.prices import Quote
from router.turn import Decision, Dispatched, TurnRequest
from serving.config.stack import StackConfig
from serving.errors import DeadlineExceeded, Overloaded, RequestError, Unavailable
from serving.protocol import MESSAGES, AnyAsk, parse
from serving.tables.base import Engine, EngineTable

_HUNG_UP = 499  # nginx's status for it; only ever in the log


class Router:
    """The one real `Turns`."""

    def __init__(
        self,
        config: StackConfig,
        table: EngineTable,
        *,
        also_models: Callable[[], Sequence[str]] = lambda: (),
        known: KnownAdapters | None = None,
        clock: Clock = time.monotonic,
        sink: logs.Sink = logs.to_stderr,
    ) -> None:
        self.config = config
        self.table = table
        self.known = known or KnownAdapters(config)
        self.catalogue = Catalogue(config, table, self.known, also_models, self._keep_only)
        failure = config.router.failure
        self.health = Health(config.router.eject_s, clock, max_eject_s=failure.max_eject_s)
        self.retries = RetryBudget(
            failure.retry_share, failure.retry_floor, failure.retry_window_s, clock
        )
        self.scheduler = Scheduler(
            config.router,
            config.front.max_inflight,
            lambda model: self.catalogue.fleet().ready(model),
            self.health,
            clock,
            replicas=lambda: self.catalogue.fleet().replicas,
            slots=lambda model: _slots(config, model),
        )
        self.sessions = self.scheduler.sessions
        self.outside = self.scheduler.outside
        self.kv = KvListeners(
            table.snapshot, self.outside.residency, listen=config.router.kv_events.listen
        )
        self.admission = self.scheduler.admission
        self.limits = Limits(config.tenants, config.admission, clock)
        self.metrics = Metrics(
            table.snapshot,
            lambda: self.admission.total,
            self.health.condition,
            lambda: self.scheduler.queued,
        )
        self.metrics.registry.register(BudgetMetrics(self.limits.budgets))
        self._forwarder = Forwarder(config.front)
        self.tool_plans = ToolPlans(config.tools)
        self.clock = clock
        self.attempts = Attempts(
            config.router,
            catalogue=self.catalogue,
            health=self.health,
            retries=self.retries,
            metrics=self.metrics,
            forwarder=self._forwarder,
            eject=self.eject,
            clock=clock,
        )
        self._sink = sink

    async def start(self) -> None:
        """Listen to engines and peers; connections are opened by the turns. Idempotent."""
        await self.kv.start()
        if self.outside.peers is not None:
            await self.outside.peers.start()

    async def stop(self) -> None:
        """Close all connections to engines, also those in use. Idempotent."""
        if self.outside.peers is not None:
            await self.outside.peers.stop()
        await self.kv.stop()
        self._forwarder.close()

    def _keep_only(self, replicas: Collection[str]) -> None:
        self.health.keep_only(replicas)
        self.scheduler.keep_only(replicas)

    def quote(self, content: Content, model: str) -> Quote:
        """What a turn that says this would find on `model`. Changes nothing."""
        return Quote(*self.scheduler.expected_tokens(model, content))

    def open(self, turn: TurnRequest) -> AbstractAsyncContextManager[Dispatched]:
        """See `Turns.open`."""
        return _Open(self, turn)

    def report(self, record: logs.TurnRecord) -> None:
        """Log and count one request that has ended."""
        self.metrics.observe(record)
        logs.write(record, self._sink)

    def eject(self, engine: Engine, cause: Cause) -> None:
        """No turns for this replica for a while; those that it had may each move once."""
        if self.health.eject(engine.replica, cause):
            self.retries.grant(self.admission.by_replica.get(engine.replica, 0))
            self.metrics.ejected(engine.model, cause)
            self.scheduler.closed(engine.replica)

    def _course(self, turn: TurnRequest, record: logs.TurnRecord) -> Course:
        """Everything that can be decided before a replica is: what is asked, by whom, of which."""
        parsed = turn.parsed
        ask = parse(turn.path, turn.body) if parsed is None else parsed.ask
        if turn.tenant is not OPEN and not turn.inner:
            self._check_tenant(turn, ask)
        if media.may_name(turn.body):
            media.check(ask, self.config.front.media_hosts)
        if parsed is None:
            identity = self.sessions.identify(turn, ask)
            model = ask.model
        else:
            identity, model = parsed.identity, parsed.model
        record.identity = identity.source
        parent = None if model in self.config.models else self.catalogue.parent(model)
        if parent is None and model not in self.config.models:
            raise self.catalogue.unknown(model, turn.tenant)
        record.turn_type = (
            turn.turn_type or tiers.declared(turn.headers.get(tiers.TURN_HEADER)) or ""
        )
        record.model, record.adapter = parent or model, model if parent else ""
        if turn.tier is not None:
            tiers.note(record, turn.tier)
        plan = self.tool_plans.plan(turn.path, ask, self.config.models[record.model])
        claim = Claim(
            model,
            identity.on(model),
            len(turn.body),
            turn.tenant,
            turn.urgency,
            streams=bool(ask.stream),
            spare=turn.spare,
        )
        return Course(self, turn, record, ask, claim, plan, turn.path, self._hold(turn, identity))

    def _check_tenant(self, turn: TurnRequest, ask: AnyAsk) -> None:
        """May it ask for this? What it may not use is to it as if it were not there."""
        asked = tiers.AUTO if turn.tier is not None else ask.model
        if not turn.tenant.may_use(asked, self.catalogue.parent(asked)):
            raise self.catalogue.unknown(asked, turn.tenant)
        isolation.check_fields(ask)

    def _entered(self, course: Course) -> Slot:
        self._shed(course)
        return self.scheduler.enter(course.claim)

    def _shed(self, course: Course) -> None:
        """Refuse at once what would wait too long. Batch turns wait longest, and so go first.

        Raises Overloaded. Turns of agents have time limits of their own.
        """
        turn, most_s = course.turn, self.config.admission.max_wait_s
        if turn.deadline_s is not None:
            left_s = turn.deadline_s - self.clock()
            most_s = left_s if most_s is None else min(left_s, most_s)
        if most_s is None or turn.inner:
            return
        wait_s = self.scheduler.wait_s(course.record.model, turn.tenant.name, turn.urgency)
        if wait_s > most_s:
            raise Overloaded(
                f"model {course.model!r} is busy: the request would wait {wait_s:.1f} s, and may "
                f"wait {max(0.0, most_s):.1f} s (its deadline, or admission.max_wait_s)",
                retry_after_s=wait_s,
            )

    def _hold(self, turn: TurnRequest, identity: Identity) -> Hold:
        if turn.inner:
            return self.limits.inner(turn.tenant)
        session = turn.session.encode() if turn.session else identity.key
        return self.limits.enter(turn.tenant, session, len(turn.body))

    async def _answered(
        self, course: Course, slot: Slot, upstream: Upstream, placed: Placed
    ) -> Dispatched:
        """Learn from a success, and hand it on."""
        engine, record, reason = placed.engine, course.record, placed.reason
        self.attempts.learn(course, slot, upstream, placed)
        tier = course.turn.tier
        if tier is not None:
            reason = f"{tier.reason}; {reason}"
        record.reason = reason
        record.predicted_cached_tokens = placed.predicted_cached_tokens
        record.waited_s = round(placed.waited_s, 6)
        record.estimated_s = round(placed.first_token_s, 6)
        decision = Decision(
            course.model,
            engine.replica,
            engine.url,
            reason,
            placed.predicted_cached_tokens,
            record.estimated_s,
            tier.spent_usd if tier is not None else 0.0,
        )
        upstream.headers.update(course.hold.headers())
        plain = course.plan is None and upstream.status < 400 and upstream.is_stream
        failure = self.config.router.failure
        keeps = plain and failure.continuations > 0 and not course.turn.spare
        kept = SentMessages if course.path == MESSAGES else Sent
        sent = kept(failure.continue_bytes) if keeps else None
        answer = course.answer = Answer(upstream, decision, course, sent)
        dispatched: Dispatched = answer
        if course.plan is not None and upstream.status < 400 and not course.turn.spare:
            dispatched = await self._checked(course, engine, answer, course.plan)
        record.status = upstream.status  # only now: a check that fails has a status of its own
        return dispatched

    async def _checked(
        self, course: Course, engine: Engine, answer: Answer, plan: ToolPlan
    ) -> Dispatched:
        """The answer as its tools' schemas let it pass. Raises InvalidToolCall."""

        async def send(body: bytes) -> Upstream:
            course.record.calls_again += 1
            return await self.attempts.send(course, engine, body)

        again = Again(plan, course.body, send)
        whole = None
        if not answer.is_stream:
            body = b"".join([chunk async for chunk in answer.chunks()])
            whole = await checked_whole(body, plan, again, again.spent)
        return ToolAnswer(answer, plan, again, again.spent, whole)


class _Open:
    """One turn while it is open; leaving it frees everything, whatever happened.

    Written out, since each turn has one: made from a generator it costs as much as the choice of a
    replica.
    """

    __slots__ = ("_course", "_record", "_router", "_started", "_turn", "_until")

    def __init__(self, router: Router, turn: TurnRequest) -> None:
        self._router = router
        self._turn = turn
        self._course: Course | None = None
        self._until: AbstractAsyncContextManager[None] | None = None
        self._started = router.clock()
        self._record = logs.TurnRecord(
            logs.utc_now(),
            turn.request_id,
            turn.path,
            tenant=turn.tenant.name,
            agent=turn.agent,
            spare=turn.spare,
        )

    async def __aenter__(self) -> Dispatched:
        try:
            return await self._begin()
        except BaseException as error:
            await self._end(error)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end(error)

    async def _begin(self) -> Dispatched:
        router, turn, record = self._router, self._turn, self._record
        router.retries.request()
        course = router._course(turn, record)
        course.hold.__enter__()
        self._course = course
        slot = course.slot = router._entered(course)
        block: AbstractAsyncContextManager[None] | None = None
        if turn.spare:
            block = spare = Spare()
            slot.give_way = spare.give_way
        elif turn.deadline_s is not None:
            block = until(turn.deadline_s, router.clock)
        if block is not None:
            await block.__aenter__()
            self._until = block
        upstream, placed = await router.attempts.attempt(course, slot)
        record.first_byte_s = round(router.clock() - self._started, 6)
        record.stream = upstream.is_stream
        return await router._answered(course, slot, upstream, placed)

    async def _end(self, error: BaseException | None) -> None:
        """Raises DeadlineExceeded, or what a spare turn ends with, where that has cancelled it."""
        try:
            if self._course is not None:
                self._course.over()
            if self._until is not None:
                await self._until.__aexit__(type(error) if error else None, error, None)
        except (DeadlineExceeded, Unavailable) as ended:
            error = ended
            raise
        finally:
            self._free(error)

    def _free(self, error: BaseException | None) -> None:
        course, record = self._course, self._record
        if course is not None:
            if course.slot is not None:
                course.slot.__exit__(None, None, None)
            course.hold.__exit__(None, error, None)
            course.left()
        if isinstance(error, RequestError):
            record.status = record.status or error.status
            record.error = error.code or error.type
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            record.status = record.status or _HUNG_UP
            record.error = "hung_up"
        record.total_s = round(self._router.clock() - self._started, 6)
        record.status = record.status or 500
        if self._turn.on_end is not None:
            self._turn.on_end(record)
        self._router.report(record)


def _slots(config: StackConfig, model: str) -> int:
    """Sequences that one engine computes at once; of others' engines we do not know it."""
    asked = config.models[model]
    return config.router.queue.max_running if asked.engine == "external" else asked.max_running
