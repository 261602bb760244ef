"""One response on its way through the loop: steps from `machine`, effects, events into the log.

    next_step ─► emit(intents) ─► flush ─► effect ─► emit(results) ─► next_step ...

`emit` folds an event at once and keeps it for the next `flush`; `flush` stores what was kept and
returns when it is durable. The one rule: flush before every effect. So a turn's result and the
intents of its calls go into one transaction, and so do the last result and the next turn's intent:
two fsyncs a step. The state runs ahead of the log between flushes; a run that is fenced or
dies is thrown away with its state, and whoever comes next folds the log.

Interrupting (cancel, out of time, shutdown) reaches only an effect, never a flush: what has been
handed to the journal must be heard of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator import budgets
from orchestrator.agents import Agent
from orchestrator.answer import Answer
from orchestrator.clock import Clock, Timer, sleep
from orchestrator.events import (
    AnyEvent,
    Call,
    CancelRequested,
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)
from orchestrator.journal import Fenced, Journal, JournalFull, Lease
from orchestrator.machine import fold, next_step
from orchestrator.model import ModelClient, ModelError, ModelTurn, Routed
from orchestrator.prompt import Prompt, overrides
from orchestrator.state import CallModel, Finish, Idle, RunTools, State, Wait
from orchestrator.tools import Ran, Ready
from router.turn import Decision
from serving.config import AgentLimits, Prices

T = TypeVar("T")
log = logging.getLogger("warmloop.worker")

CHARACTERS_PER_TOKEN = 4
"""Rough, for attempts that died without a usage report."""
UNKNOWN = (
    "error: the outcome of this call is unknown: the process ended while it ran. "
    "It was not run again; check before you repeat it"
)
FREE = Prices()


@dataclass(frozen=True, slots=True)
class Collaborators:
    """What every run of a worker shares."""

    journal: Journal
    models: ModelClient
    clock: Clock
    prices: Mapping[str, Prices]
    """By the name of the model that served."""
    delta_batch_s: float
    park_s: float
    """A run that only waits, for so long or longer, waits without a process."""
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    """Starts a task that the worker owns."""


class Runner:
    """Drives one conversation while this process holds its lease."""

    def __init__(
        self, shared: Collaborators, lease: Lease, agent: Agent, state: State, prompt: Prompt
    ) -> None:
        self.lease = lease
        self.agent = agent
        self.state = state
        self.prompt = prompt
        self.stopping = False
        self.fenced = False
        self.wake_at = 0.0
        """It only waits, until then, and nobody need hold it meanwhile."""
        self._shared = shared
        self._clock = shared.clock
        self._limits = _limits(agent, state)
        self._overrides: dict[str, Any] | None = None
        self._pending: list[AnyEvent] = []
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._in_effect = False
        self._interrupted = False
        self._answer: Answer | None = None
        self._decision: Decision | None = None
        self._first_at = 0.0
        self._flushed_at = 0.0
        self._flush_timer: Timer | None = None

    @property
    def is_idle(self) -> bool:
        """The response has ended, and the log knows."""
        return self.state.run is None and not self._pending and not self.fenced

    # -- from outside --

    def cancel(self, response_id: str) -> bool:
        """End the response as cancelled; False if it is not the one in progress."""
        run = self.state.run
        if run is None or run.response_id != response_id:
            return False
        if not run.cancel_requested:
            self.emit(CancelRequested(response_id, self._clock.now()))
            self._interrupt()
        return True

    def stop(self, *, now: bool) -> None:
        """Come to an end without finishing. A model turn is dropped; tools that run may end,
        unless `now`: a call that is cut has an unknown outcome."""
        self.stopping = True
        if now or self._answer is not None or self.state.run is None or not self.state.run.calls:
            self._interrupt()

    def fence(self) -> None:
        """Another worker holds the conversation: stop at once, store nothing more."""
        self.fenced = True
        self._pending.clear()
        if self._task is not None:
            self._task.cancel()

    # -- the loop --

    async def drive(self) -> None:
        """Until the response has ended, `stop`, or it only waits. Raises Fenced, JournalFull."""
        self._task = asyncio.current_task()
        deadline = self._set_deadline()
        try:
            while not self.stopping:
                now = self._clock.now()
                step = next_step(self.state, self._limits, self.agent.tools.kinds, now)
                match step:
                    case CallModel():
                        await self._call_model(step)
                    case RunTools():
                        await self._run_tools(step)
                    case Finish():
                        await self._finish(step)
                    case Wait():
                        await self.flush()
                        if step.until - now >= self._shared.park_s and not self._interrupted:
                            self.wake_at = self._until_deadline(step.until)
                            return
                        await self._effect(sleep(self._clock, step.until - now))
                    case Idle():
                        return
            await self.flush()
        finally:
            if deadline is not None:
                deadline.cancel()
            self._cancel_flush_timer()

    def emit(self, event: AnyEvent) -> None:
        """Take an event into the state now, and into the log with the next flush."""
        fold(self.state, event)
        self._pending.append(event)

    async def flush(self) -> None:
        """Store all that was emitted; returns when it is durable.

        While the journal cannot store, this waits: no effect may begin that it does not know of.
        """
        delay_s = 0.5
        async with self._lock:
            while self._pending:
                try:
                    await self._append(durable=True)
                except JournalFull as error:
                    if self.stopping:
                        raise
                    log.warning("waiting for the journal: %s", error)
                    await sleep(self._clock, delay_s)
                    delay_s = min(5.0, delay_s * 2)

    async def _append(self, *, durable: bool) -> None:
        batch, self._pending = self._pending, []
        try:
            seq = await self._shared.journal.append(self.lease, batch, durable=durable)
        except JournalFull:
            self._pending = batch + self._pending
            raise
        self.state.seq = seq

    async def _finish(self, step: Finish) -> None:
        run = self.state.run
        if run is None:
            return
        if step.limit is not None and run.limit is None:
            self.emit(step.limit)
        now = self._clock.now()
        self.emit(ResponseFinished(run.response_id, now, step.status, step.code, step.message))
        await self.flush()

    # -- model turns --

    async def _call_model(self, step: CallModel) -> None:
        run = self.state.run
        if run is None:
            return
        began = self._clock.now()
        if step.supersedes:
            wasted = run.streamed_chars // CHARACTERS_PER_TOKEN
            said = "the process ended during this attempt"
            self.emit(
                ModelFailed(
                    step.step, step.supersedes, began, said, "superseded", True, True, wasted
                )
            )
        prompt = self.prompt
        prompt.extend(self.state.history)
        turn_type = self.agent.turn_type
        self.emit(ModelIntent(step.step, step.attempt, began, turn_type, prompt.sha256))
        if self._overrides is None:
            self._overrides = overrides(self.agent.settings, run.request)
        body = prompt.body(self._overrides)
        await self.flush()
        turn = ModelTurn(
            body,
            self.lease.conversation,
            f"{run.response_id}-{step.step}-{step.attempt}",
            turn_type,
            self.agent.name if self.agent.version is not None else "",
            self.state.tenant,
            run.request.get("urgency", "interactive"),
        )
        answer = self._answer = Answer(step.step, step.attempt)
        self._first_at = 0.0
        self._decision = None
        try:
            whole = await self._effect(self._stream(turn, answer))
            ended: AnyEvent | None = None
            if whole:
                ended = self._result(step, answer, began)
            elif not self.stopping:
                ended = self._failed(step, answer, "interrupted", "interrupted", retry=False)
        except ModelError as error:
            ended = self._failed(step, answer, str(error), error.code, retry=error.retry)
        except Exception:
            log.exception("a model client failed in an unforeseen way")
            said = "an internal error; the log has the details"
            ended = self._failed(step, answer, said, "internal_error", retry=False)
        finally:
            # From here on only a durable flush may store what is emitted.
            self._answer = None
            self._cancel_flush_timer()
        if ended is not None:
            self.emit(ended)

    async def _stream(self, turn: ModelTurn, answer: Answer) -> bool:
        async with aclosing(self._shared.models.turn(turn)) as events:
            async for event in events:
                if isinstance(event, Routed):
                    self._routed(answer, event.decision)
                    continue
                answer.feed(event)
                if not self._first_at:
                    self._first_at = self._clock.now()
                if self._flush_timer is None:
                    self._flush_later()
        return True

    def _routed(self, answer: Answer, decision: Decision) -> None:
        self._decision = decision
        self.emit(
            ModelRouted(
                answer.step,
                answer.attempt,
                decision.model,
                decision.replica,
                decision.reason,
                decision.predicted_cached_tokens,
            )
        )

    def _result(self, step: CallModel, answer: Answer, began: float) -> ModelResult:
        text, calls, done = answer.whole()
        now = self._clock.now()
        model = self._decision.model if self._decision else ""
        # Of a small model's answer that was asked again: paid for, though nobody saw it.
        spent = self._decision.spent_usd if self._decision else 0.0
        prices = self._shared.prices.get(model, FREE)
        prompt, cached, output = done.prompt_tokens, done.cached_tokens, done.output_tokens
        return ModelResult(
            step=step.step,
            attempt=step.attempt,
            at=now,
            text=text,
            calls=calls,
            finish_reason=done.finish_reason,
            prompt_tokens=prompt,
            cached_tokens=cached,
            output_tokens=output,
            cost_usd=spent + prices.cost_usd(prompt=prompt, cached=cached, output=output),
            uncached_cost_usd=spent + prices.cost_usd(prompt=prompt, cached=0, output=output),
            seconds=now - began,
            first_token_s=self._first_at - began if self._first_at else 0.0,
        )

    def _failed(
        self, step: CallModel, answer: Answer, said: str, code: str, *, retry: bool
    ) -> ModelFailed:
        wasted = answer.characters // CHARACTERS_PER_TOKEN
        return ModelFailed(
            step.step, step.attempt, self._clock.now(), said, code, retry, wasted_tokens=wasted
        )

    # -- streamed output, in batches --

    def _flush_later(self) -> None:
        due = self._flushed_at + self._shared.delta_batch_s - self._clock.now()
        self._flush_timer = self._clock.call_later(max(0.0, due), self._flush_now)

    def _flush_now(self) -> None:
        self._flush_timer = None
        if self._answer is not None:
            self._flushed_at = self._clock.now()
            self._shared.spawn(self._store_deltas(self._answer))

    async def _store_deltas(self, answer: Answer) -> None:
        async with self._lock:
            if self._answer is not answer:
                return  # the answer is whole: its result says it all, and is stored durably
            for delta in answer.drain():
                self.emit(delta)
            if not self._pending:
                return
            try:
                await self._append(durable=False)
            except Fenced:
                self.fence()
            except JournalFull as error:
                log.warning("streamed output waits for the journal: %s", error)

    def _cancel_flush_timer(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    # -- tool calls --

    async def _run_tools(self, step: RunTools) -> None:
        now = self._clock.now()
        for call in step.unknown:
            unknown = ToolResult(step.step, call.call_id, now, UNKNOWN, "outcome_unknown")
            self.emit(unknown)
        ready: list[Ready] = []
        for call, attempt in step.calls:
            prepared = self.agent.tools.prepare(call)
            if isinstance(prepared, Ready):
                self.emit(ToolIntent(step.step, call.call_id, self._key(step, call), now, attempt))
                ready.append(prepared)
            else:
                refused = ToolResult(step.step, call.call_id, now, prepared.message, "refused")
                self.emit(refused)
        if not ready:
            return
        await self.flush()
        if len(ready) == 1:
            ran = await self._effect(self._run_tool(step, ready[0]))
            if ran is not None:
                self._emit_result(step, ready[0].call, ran, now)
        else:
            await self._run_parallel(step, ready, now)

    async def _run_parallel(self, step: RunTools, ready: list[Ready], began: float) -> None:
        """All at once; each result is stored as it comes, the last one with what follows."""
        tasks = {asyncio.ensure_future(self._run_tool(step, each)): each.call for each in ready}
        waiting = set(tasks)
        try:
            while waiting:
                first = asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                came = await self._effect(first)
                if came is None:
                    return
                done, waiting = came
                for task, call in tasks.items():
                    if task in done:
                        self._emit_result(step, call, task.result(), began)
                if waiting:
                    await self.flush()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _run_tool(self, step: RunTools, ready: Ready) -> Ran:
        limits = self._limits
        return await self.agent.tools.run(
            ready,
            self._key(step, ready.call),
            timeout_s=limits.tool_timeout_s,
            result_bytes=limits.tool_result_bytes,
        )

    def _emit_result(self, step: RunTools, call: Call, ran: Ran, began: float) -> None:
        now = self._clock.now()
        self.emit(ToolResult(step.step, call.call_id, now, ran.output, ran.outcome, now - began))

    def _key(self, step: RunTools, call: Call) -> str:
        return f"{self.lease.conversation}:{step.step}:{call.call_id}"

    # -- interruption --

    async def _effect(self, effect: Coroutine[Any, Any, T]) -> T | None:
        """Await an effect; None when it was interrupted."""
        if self._interrupted:
            effect.close()
            return None
        self._in_effect = True
        try:
            return await effect
        except asyncio.CancelledError:
            if not self._take_interruption():
                raise
            return None
        finally:
            self._in_effect = False

    def _take_interruption(self) -> bool:
        """Was it us who cancelled this task? Then it is not being cancelled any more."""
        if self.fenced or not self._interrupted or self._task is None:
            return False
        self._task.uncancel()
        return True

    def _interrupt(self) -> None:
        if not self._interrupted:
            self._interrupted = True
            if self._in_effect and self._task is not None:
                self._task.cancel()

    def _until_deadline(self, until: float) -> float:
        run = self.state.run
        return min(until, budgets.deadline(run.spent, self._limits)) if run else until

    def _set_deadline(self) -> Timer | None:
        run = self.state.run
        if run is None:
            return None
        limits = self._limits
        left_s = budgets.deadline(run.spent, limits) - self._clock.now()

        def expire() -> None:
            # Said as an event, so that a clock that runs a little apart cannot unsay it.
            if self.state.run is not run or run.limit is not None:
                return
            now = self._clock.now()
            spent_s = round(now - run.spent.since, 3)
            self.emit(LimitReached("seconds", spent_s, limits.max_seconds, now))
            self._interrupt()

        return self._clock.call_later(max(0.0, left_s), expire)


def _limits(agent: Agent, state: State) -> AgentLimits:
    """The agent's, and the deadline that the request came with."""
    limits = agent.limits
    deadline_s = state.run.request.get("deadline_s") if state.run is not None else None
    if deadline_s is None or deadline_s >= limits.max_seconds:
        return limits
    return limits.model_copy(update={"max_seconds": deadline_s})
