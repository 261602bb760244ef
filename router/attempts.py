"""Which replica answers a turn? One after the other is tried, until one does.

    attempt ──► slot.place ──► the body as that engine takes it ──► its answer
       └── again on another replica, while no byte has come and the budget for retries allows it
    elsewhere   the same for a stream that was cut, from the text that was sent (continued)

An engine is ejected when it refuses, is silent or is cut. A 5xx answer ejects it only after another
replica has answered the same turn: a request that kills every engine it meets must not take the
fleet out. 503 means a full queue and ejects nobody. A second attempt needs room in the budget for
retries (retry_budget).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import msgspec

from router.catalogue import NOT_READY_RETRY_S, Catalogue, not_ready
from router.course import Course
from router.http import rewrites
from router.http.forward import Forwarder, Upstream
from router.http.http1 import Cause, Failed
from router.metrics import Metrics
from router.placing import engine_order
from router.placing.fleet import wire_name
from router.placing.health import Clock, Health
from router.placing.retry_budget import RetryBudget
from router.placing.scheduler import Placed, Slot
from router.streams.continued import prepare
from router.tenancy import isolation
from serving.config.router import RouterConfig
from serving.errors import RequestError, Unavailable, UpstreamError, UpstreamTimeout
from serving.protocol import MESSAGES
from serving.tables.base import Engine

_LOOK_AGAIN_S = 0.1
_TOKENIZE_S = 5.0
"""For a count that is nice to have."""


class Attempts:
    """The tries of all turns of one front door."""

    def __init__(
        self,
        knobs: RouterConfig,
        *,
        catalogue: Catalogue,
        health: Health,
        retries: RetryBudget,
        metrics: Metrics,
        forwarder: Forwarder,
        eject: Callable[[Engine, Cause], None],
        clock: Clock,
    ) -> None:
        """`eject`: what becomes of a replica that failed."""
        self._knobs = knobs
        self._catalogue = catalogue
        self._health = health
        self._retries = retries
        self._metrics = metrics
        self._forwarder = forwarder
        self._eject = eject
        self._clock = clock

    async def attempt(
        self, course: Course, slot: Slot, failure: Failed | None = None, out: Collection[str] = ()
    ) -> tuple[Upstream, Placed]:
        """Try replicas until one answers; returns the answer, and why that replica.

        `failure` is what happened before, and `out` are replicas not to be tried."""
        knobs = self._knobs
        tried: set[str] = set()
        while len(tried) < (1 if course.turn.spare else knobs.attempts):
            if tried and failure is not None and failure.cause == "busy":
                # All front doors met the same full queues: they must not come back in step.
                pause_s = knobs.failure.busy_pause_s * 2.0 ** (len(tried) - 1)
                await asyncio.sleep(pause_s * (0.5 + random.random()))
            placed = await slot.place({*out, *tried})
            if placed is None:
                break
            if failure is not None:
                if not self._retries.spend():
                    self._metrics.retry_refused(course.record.model, failure.cause)
                    raise self._exhausted(course, failure, no_budget=True)
                placed = msgspec.structs.replace(placed, reason=f"retry:{failure.cause}")
                self._metrics.retried(course.record.model, failure.cause)
            course.goes_to(placed)
            tried.add(placed.engine.replica)
            try:
                course.upstream = await self._forward(course, placed.engine)
                return course.upstream, placed
            except Failed as failed:
                failure = failed
                if failed.cause == "status":
                    course.suspects.append(placed.engine)
                elif failed.cause != "busy":
                    self._eject(placed.engine, failed.cause)
        raise self._exhausted(course, failure)

    async def elsewhere(self, course: Course, failure: Failed) -> tuple[Upstream, Placed]:
        """For a stream that was cut: a replica that goes on with it, waited for if need be.
        Raises RequestError."""
        slot, failed, how = course.slot, course.engine, course.how
        assert slot and failed and how  # noqa: S101, PT018  its stream was cut
        known = (failed, *self._catalogue.fleet().ready(course.model))
        if not any(how.can_go_to(each.speaks) for each in known):
            raise UpstreamError(
                f"a stream of {how.route} does not go on at {failed.speaks} engines"
            )
        until = self._clock() + self._knobs.failure.continue_wait_s
        cannot = {e.replica for e in self._catalogue.fleet().engines if not how.can_go_to(e.speaks)}
        while True:
            # An ejected one may be a last resort for a turn that would be refused without it. Here
            # the one that was cut is coming back, or another one: that is worth waiting for.
            out = cannot.copy()
            fleet = self._catalogue.fleet()
            out.update(e.replica for e in fleet.engines if self._health.ejected(e.replica))
            left = {e.replica for e in fleet.ready(course.model)} - out
            if failure.cause == "status" and left != {failed.replica}:
                out.add(failed.replica)  # not ejected: it may have been the request's fault
            if left - out:
                try:
                    upstream, placed = await self.attempt(course, slot, failure, out)
                except RequestError:
                    if self._clock() >= until or self._retries.left() < 1:
                        raise
                else:
                    if upstream.status >= 400 or not upstream.is_stream:
                        course.close()
                        raise UpstreamError(
                            f"engine {placed.engine.replica} answered {upstream.status}"
                        )
                    self.learn(course, slot, upstream, placed)
                    return upstream, placed
            elif self._clock() >= until:
                raise self._exhausted(course, failure)
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _forward(self, course: Course, engine: Engine) -> Upstream:
        source = course.turn.body
        name = wire_name(engine, course.model)
        if course.how is not None:
            tokenize = partial(self.tokenize, engine, request_id=course.turn.request_id)
            source, course.rest = await prepare(course.how, engine, name, tokenize)
        if course.plan is not None:
            body = course.plan.body(source, name)
        else:
            body = source if name == course.ask.model else rewrites.alias(source, name)
        turn = course.turn
        body = isolation.apart(body, course.path, course.ask, turn.tenant, engine)
        body = engine_order.ranked(body, course.path, course.ask, engine, course.due_unix_s)
        course.body = body
        upstream = await self.send(course, engine, body)
        if upstream.status >= 500:
            upstream.close()
            cause: Cause = "busy" if upstream.status == 503 else "status"
            raise Failed(cause, f"it answered {upstream.status}")
        return upstream

    async def send(self, course: Course, engine: Engine, body: bytes) -> Upstream:
        turn = course.turn
        mark = course.slot.mark if course.slot is not None else ""
        if mark and engine.speaks == "sglang" and course.path != MESSAGES:
            body = rewrites.marked(body, mark)  # it looks for it in no header
        return await self._forwarder.send(
            engine.url, course.path, body, turn.headers, turn.request_id, mark=mark
        )

    async def tokenize(self, engine: Engine, question: bytes, request_id: str) -> Any:
        """The answer of the engine's tokenizer; None where it has none."""
        try:
            async with asyncio.timeout(_TOKENIZE_S):
                upstream = await self._forwarder.send(
                    engine.url, "/tokenize", question, {}, request_id
                )
                try:
                    body = b"".join([chunk async for chunk in upstream.chunks()])
                finally:
                    upstream.close()
            return msgspec.json.decode(body)
        except (Failed, TimeoutError, msgspec.DecodeError):
            return None

    def learn(self, course: Course, slot: Slot, upstream: Upstream, placed: Placed) -> None:
        """An engine answered: so it lives, and those that did not are to blame for that."""
        for suspect in course.suspects:
            self._eject(suspect, "status")
        course.suspects.clear()
        self._health.restore(placed.engine.replica)
        if upstream.status < 400:
            slot.began()

    def _exhausted(
        self, course: Course, failure: Failed | None, *, no_budget: bool = False
    ) -> RequestError:
        """Why no replica answered, as the client's error."""
        model = course.model
        if failure is None:
            return not_ready(model, self._catalogue.why_not(model))
        count = course.record.attempts
        tries = "1 replica" if count == 1 else f"{count} replicas"
        said = f"model {model!r}: {tries} tried, none answered; of the last: {failure.detail}"
        if no_budget:
            said += "; too many turns failed just now to try it elsewhere as well"
        if failure.cause == "busy":
            return Unavailable(said, code="engine_busy", retry_after_s=1)
        if failure.cause == "connect":
            # Nothing listens any more where the table still says so: no engine has seen the turn.
            return Unavailable(said, retry_after_s=NOT_READY_RETRY_S)
        kind = UpstreamTimeout if failure.cause == "timeout" else UpstreamError
        return kind(said, retry_after_s=self._knobs.eject_s)
