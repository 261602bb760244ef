"""`model: auto`: which model gets this turn, and what happens when its answer is doubtful.

    open(turn) ── names a model ──► the router, untouched
               └─ auto ──► decide ─┬─ passes ──► the router, as it streams
                                   ├─ held ────► small, whole, unseen ─ good ──► the client
                                   │                └─ doubtful ──► frontier, once, as it streams
                                   └─ race ────► both, whole, unseen; the first good one wins

The decision is pure (tier_policy) on facts that tier_case gathers. Only an answer that nobody has
seen can be asked again: a turn of the small model that may escalate is therefore held back until it
is whole, and one whose text streams to the client never escalates.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from msgspec import structs

from router.calls.forms import encode
from router.dispatch import Router
from router.http.rewrites import may_ask_for
from router.logs import TurnRecord, utc_now
from router.tiers import confidence
from router.tiers import policy as tier_policy
from router.tiers.case import Job, Ledger
from router.tiers.history import History
from router.tiers.metrics import TierMetrics
from router.tiers.prices import one_usd
from router.tiers.store import TierStore
from router.tiers.turn_types import AUTO
from router.turn import Decision, Dispatched, Parsed, TurnRequest
from serving.errors import BudgetUsed, InvalidToolCall, RequestError, Unavailable, UpstreamError
from serving.protocol import CHAT, AnyAsk, parse
from serving.tables.base import Tier

OUR_FAULTS = ("refused", "failed")
"""Causes of an escalation that say nothing about how good the model is."""


class HeldAnswer:
    """A whole answer of which nobody has seen anything yet. A `Dispatched`."""

    def __init__(
        self, body: bytes, status: int, headers: Mapping[str, str], decision: Decision
    ) -> None:
        self.body = body
        self.status = status
        self.headers: Mapping[str, str] = headers
        self.decision = decision

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body

    def shown(self, body: bytes, *, stream: bool, spent_usd: float = 0.0) -> HeldAnswer:
        """As the client is to see it."""
        decision = structs.replace(self.decision, spent_usd=spent_usd)
        headers = {**self.headers, **decision.headers(), "content-length": str(len(body))}
        if stream:
            headers["content-type"] = "text/event-stream; charset=utf-8"
        if headers["content-type"].startswith("text/event-stream"):
            del headers["content-length"]
        return HeldAnswer(body, self.status, headers, decision)


class AutoTurns:
    """A `Turns` before the router's: takes the turns of `auto`, passes on all others."""

    def __init__(self, router: Router, *, folder: Path | None = None) -> None:
        """`folder`: where the history is kept across restarts; None: it is not."""
        knobs = router.config.router.tiers
        history = History(knobs)
        self.router = router
        self.ledger = Ledger(router, history, TierMetrics(router.metrics.registry))
        port = router.config.front.port
        self._store = folder and TierStore(
            history, self.ledger.chains, folder, port, knobs.save_every_s
        )

    async def start(self) -> None:
        """Read the history. Without it, and before, everything works on what is seen."""
        if self._store:
            await self._store.start()

    async def stop(self) -> None:
        """Store the history."""
        if self._store:
            await self._store.stop()

    def open(self, turn: TurnRequest) -> AbstractAsyncContextManager[Dispatched]:
        """See `Turns.open`."""
        return _Open(self, turn) if may_ask_for(turn.body, AUTO) else self.router.open(turn)

    async def way(self, turn: TurnRequest) -> AbstractAsyncContextManager[Dispatched]:
        """How a turn that may be one of `auto` is answered; enter it."""
        try:
            ask = parse(turn.path, turn.body)
        except RequestError:
            ask = None
        if ask is None or ask.model != AUTO:  # the router says what is wrong with it
            return self.router.open(turn)
        job = self._job(turn, ask)
        tier, case = job.choice.tier, job.case
        if case is not None:
            if job.knobs.policy == "race" and _holdable(job):
                return nullcontext(await self._race(job))
            if tier == "small" and case.checkable:
                doubt, held = await self._small_first(job)
                if held is not None and not doubt:
                    return nullcontext(held)
                return self._escalated(job, doubt, held)
        change = self.ledger.change(job, tier)
        return self._passed(job, tier, job.choice.why, change, home=tier)

    def _job(self, turn: TurnRequest, ask: AnyAsk) -> Job:
        """Raises RequestError for what gets no model; the log has it."""
        try:
            job = self.ledger.job(turn, ask)
            if job.choice.refused:
                raise BudgetUsed(
                    f"budget_usd: this session has spent {job.chain.spent_usd:.6f} of "
                    f"{job.knobs.budget_usd} USD; begin another session, or raise the budget"
                )
        except RequestError as error:
            record = TurnRecord(utc_now(), turn.request_id, turn.path, error.status)
            record.agent, record.error = turn.agent, error.code or error.type
            self.router.report(record)
            raise
        return job

    # -- one try --

    def _passed(
        self, job: Job, tier: Tier, why: str, change: str, *, home: Tier
    ) -> AbstractAsyncContextManager[Dispatched]:
        """As it streams: what is seen is final."""

        def ended(record: TurnRecord) -> None:
            self.ledger.ended(job, tier, record)
            self.ledger.used(job, tier, record, checked=False, home=home)
            if job.turn.on_end is not None:
                job.turn.on_end(record)

        turn = self.ledger.turn_for(job, tier, why, change=change, on_end=ended)
        return self.router.open(turn)

    async def _held(
        self, job: Job, tier: Tier, why: str, change: str
    ) -> tuple[HeldAnswer, TurnRecord]:
        """The whole answer, unseen. Raises RequestError as the router does."""
        box: list[TurnRecord] = []
        turn = self.ledger.turn_for(job, tier, why, change=change, on_end=box.append)
        if turn.path == CHAT:
            wants = job.has_tools and job.model(tier) not in self.ledger.without_logprobs
            parsed = Parsed(structs.replace(job.ask, stream=False), job.identity, job.model(tier))
            turn = structs.replace(
                turn, body=confidence.held(turn.body, logprobs=wants), parsed=parsed
            )
        try:
            async with self.router.open(turn) as answer:
                parts, size = [], 0
                async for chunk in answer.chunks():
                    parts.append(chunk)
                    size += len(chunk)
                    if size > job.knobs.held_bytes:
                        raise InvalidToolCall(
                            f"the answer is longer than held_bytes ({job.knobs.held_bytes})"
                        )
        finally:
            for record in box:
                if record.error == "hung_up" and record.cost_usd is None:
                    record.cost_usd = self._begun_usd(job, tier)
                self.ledger.ended(job, tier, record)
                job.spent_usd += record.cost_usd or 0.0
        return HeldAnswer(b"".join(parts), answer.status, answer.headers, answer.decision), box[0]

    @staticmethod
    def _begun_usd(job: Job, tier: Tier) -> float:
        """An answer that was cut off was paid for at least to its first token."""
        if job.case is None:
            return 0.0
        option = job.case.candidates[tier]
        return one_usd(option.prices, option.quote.prompt_tokens, option.quote.cached_tokens, 0)

    # -- small first --

    async def _small_first(self, job: Job) -> tuple[str, HeldAnswer | None]:
        """(what is wrong with the small model's answer, the answer if it can be shown)."""
        change = self.ledger.change(job, "small")
        try:
            held, record = await self._held(job, "small", job.choice.why, change)
        except InvalidToolCall:
            return "invalid", None
        except (Unavailable, UpstreamError):
            return "failed", None
        doubt, shown = self._look(job, held, "small")
        if doubt:
            return doubt, shown if doubt == "unsure" else None
        self.ledger.accepted(job)
        self.ledger.used(job, "small", record, checked=True, home="small")
        return "", shown

    def _look(self, job: Job, held: HeldAnswer, tier: Tier) -> tuple[str, HeldAnswer]:
        """(what is wrong with an answer, the answer as the client is to see it)."""
        wish, model = job.wish, job.model(tier)
        if held.status >= 400:
            if b"logprob" in held.body:
                self.ledger.without_logprobs.add(model)
            return "refused", held
        if job.turn.path != CHAT or wish is None:
            return "", held.shown(held.body, stream=False)
        wants_json = job.kind.turn_type == "format"
        judged = confidence.judged(held.body, wants_json=wants_json, keep_logprobs=wish.logprobs)
        if judged is None:
            return "unreadable", held
        if wish.stream:
            body = confidence.as_stream(judged.answer, usage=wish.usage)
        else:
            body = encode(judged.answer)
        shown = held.shown(body, stream=wish.stream)
        unsure = judged.logprob is not None and judged.logprob < job.knobs.min_logprob
        return judged.problem or ("unsure" if unsure and tier == "small" else ""), shown

    @asynccontextmanager
    async def _escalated(
        self, job: Job, cause: str, unsure: HeldAnswer | None
    ) -> AsyncGenerator[Dispatched]:
        """The one escalation. Whether the session stays with the frontier is a question of price:
        it is warm there after this turn. `unsure` is better than nothing if the frontier fails."""
        if cause in OUR_FAULTS:
            self.ledger.metrics.escalated(cause)
        else:
            self.ledger.escalated(job, cause)
        job.turn = structs.replace(job.turn, inner=True)  # its tenant has asked once
        home = self._home_after(job)
        change = self.ledger.change(job, home)
        why = f"escalated-{cause}"
        async with AsyncExitStack() as stack:
            answer: Dispatched
            try:
                answer = await stack.enter_async_context(
                    self._passed(job, "frontier", why, change, home=home)
                )
            except (Unavailable, UpstreamError):
                if unsure is None:
                    raise
                answer = unsure
            yield answer

    def _home_after(self, job: Job) -> Tier:
        """Where the session goes on after an escalation."""
        case = job.case
        assert case is not None  # noqa: S101  there was a choice
        frontier = case.candidates["frontier"]
        warm = replace(frontier.quote, cached_tokens=frontier.quote.prompt_tokens)
        after = replace(
            case,
            standing=self.ledger.history.standing(job.kind),
            candidates={**case.candidates, "frontier": replace(frontier, quote=warm)},
        )
        stays, gain = tier_policy.stays_after_escalation(after)
        job.choice = replace(job.choice, gain_usd=gain)
        return "frontier" if stays else "small"

    # -- both at once --

    async def _race(self, job: Job) -> HeldAnswer:
        """The first good answer; the other is cancelled. With none, the frontier's says why."""
        both: tuple[Tier, Tier] = ("small", "frontier")
        tries = {asyncio.create_task(self._held(job, tier, "race", "")): tier for tier in both}
        waiting = set(tries)
        last: HeldAnswer | None = None
        failed: RequestError | None = None
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for each in sorted(done, key=lambda one: tries[one]):  # the frontier's first
                    tier = tries[each]
                    try:
                        held, record = await each
                    except RequestError as error:
                        failed = error if failed is None or tier == "frontier" else failed
                        continue
                    problem, shown = self._look(job, held, tier)
                    if not problem:
                        await _cancel(waiting)
                        waiting = set()
                        spent = job.spent_usd - (record.cost_usd or 0.0)
                        self.ledger.used(job, tier, record, checked=True, home=None)
                        return shown.shown(shown.body, stream=False, spent_usd=spent)
                    last = shown if last is None or tier == "frontier" else last
        finally:
            await _cancel(waiting)
        if last is not None:
            return last
        assert failed is not None  # noqa: S101  two tries came to nothing
        raise failed


class _Open:
    """A turn of `auto` while it is open. Its model is chosen when it is entered."""

    __slots__ = ("_auto", "_turn", "_way")

    def __init__(self, auto: AutoTurns, turn: TurnRequest) -> None:
        self._auto = auto
        self._turn = turn

    async def __aenter__(self) -> Dispatched:
        self._way = await self._auto.way(self._turn)
        return await self._way.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._way.__aexit__(kind, error, trace)


async def _cancel(tries: set[asyncio.Task[tuple[HeldAnswer, TurnRecord]]]) -> None:
    for each in tries:
        each.cancel()
    await asyncio.gather(*tries, return_exceptions=True)


def _holdable(job: Job) -> bool:
    return job.wish is not None and job.wish.choices == 1
