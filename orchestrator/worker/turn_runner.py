"""Model turns with their effects: what `turn_rules` decided is asked of a model and journaled.

    ask(step) ─► ModelIntent, flush ─► the model's stream ─► ModelResult or ModelFailed

What streams in is stored in batches before anybody sees it, without an fsync of its own; the turn's
end is emitted only, and stored with whatever follows it.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import Any

import msgspec

from orchestrator.agents import Agent
from orchestrator.clock import Timer
from orchestrator.loop.events import (
    AnyEvent,
    Call,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
)
from orchestrator.loop.prompt import Prompt
from orchestrator.loop.state import CallModel, CloseTurn, Run, is_first_turn
from orchestrator.model import ModelError, ModelTurn, Routed
from orchestrator.worker.answer import Answer
from orchestrator.worker.calls_ahead import CallsAhead
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.effects import Effects
from orchestrator.worker.run_log import RunLog
from orchestrator.worker.turn_outcomes import turn_id
from orchestrator.worker.turn_settings import is_forced, overrides, without_tools
from router.turn import Decision
from serving.config.model import Prices

log = logging.getLogger("warmloop.worker")

CHARACTERS_PER_TOKEN = 4
"""Rough, for attempts that died without a usage report."""
FREE = Prices()


class TurnRunner:
    """Asks the model for one conversation."""

    def __init__(
        self,
        shared: Collaborators,
        agent: Agent,
        prompt: Prompt,
        book: RunLog,
        effects: Effects,
        *,
        ahead: CallsAhead,
    ) -> None:
        self._shared = shared
        self._agent = agent
        self._prompt = prompt
        self._book = book
        self._effects = effects
        self._ahead = ahead
        self._clock = shared.clock
        self._overrides: dict[str, Any] | None = None
        self._overrides_of: tuple[bool, int] = (False, 0)
        self._answer: Answer | None = None
        self._decision: Decision | None = None
        self._first_at = 0.0
        self._flushed_at = 0.0
        self._flush_timer: Timer | None = None

    @property
    def is_asking(self) -> bool:
        """A model is answering now."""
        return self._answer is not None

    def close(self) -> None:
        """Nothing is stored by itself any more."""
        self._cancel_flush_timer()

    async def ask(self, step: CallModel) -> None:
        """One attempt at one turn; its end, if it has one, is emitted."""
        run = self._book.state.run
        if run is None:
            return
        began = self._clock.now()
        if step.supersedes:
            wasted = run.streamed_chars // CHARACTERS_PER_TOKEN
            said = "the process ended during this attempt"
            self._book.emit(
                ModelFailed(
                    step.step, step.supersedes, began, said, "superseded", True, True, wasted
                )
            )
        for notice in step.notices:
            self._book.emit(notice)
            self._shared.guard.note(notice)
        prompt = self._prompt
        prompt.extend(self._book.state.history)
        turn_type = self._agent.turn_type
        self._book.emit(ModelIntent(step.step, step.attempt, began, turn_type, prompt.sha256))
        changed = self.changed(run)
        if run.last is not None:
            changed = without_tools(self._agent.settings, changed)
        await self._book.flush()
        stored_s = self._clock.now() - began
        turn = ModelTurn(
            prompt.body(changed),  # not before: a thousand of them need not wait for the disk
            self._book.lease.conversation,
            turn_id(run.response_id, step.step, step.attempt),
            turn_type,
            self._agent.name if self._agent.version is not None else "",
            self._book.state.tenant,
            run.request.get("urgency", "interactive"),
        )
        answer = self._answer = Answer(step.step, step.attempt)
        self._first_at = 0.0
        self._decision = None
        try:
            whole = await self._effects.run(self._stream(turn, answer))
            ended: AnyEvent | None = None
            if whole:
                ended = self._result(step, answer, began, stored_s)
            elif not self._book.stopping:
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
        if isinstance(ended, ModelFailed):
            self._ahead.forget()
            if begun := self._begun():
                ended = self._cut_short(step, answer.text, begun, answer.characters)
        if ended is not None:
            self._book.emit(ended)

    def _begun(self) -> list[Call]:
        """Calls of this attempt that have begun: from then on it stands, whatever becomes of it."""
        run = self._book.state.run
        return [each.call for each in run.calls.values()] if run else []

    def _cut_short(
        self, step: CallModel | CloseTurn, text: str, calls: list[Call], characters: int
    ) -> ModelResult:
        now, tokens = self._clock.now(), characters // CHARACTERS_PER_TOKEN
        return ModelResult(
            step.step, step.attempt, now, text, calls, "tool_calls", output_tokens=tokens
        )

    def close_early(self, step: CloseTurn) -> None:
        """The process died in mid-stream, after calls had begun: they are the turn's answer."""
        run = self._book.state.run
        if run is not None:
            text = "".join(run.streamed_text)
            self._book.emit(self._cut_short(step, text, self._begun(), run.streamed_chars))

    def changed(self, run: Run) -> dict[str, Any]:
        """What the request changes of the next turn; the same value as long as it is the same."""
        request = run.request
        forced = is_forced(request) and is_first_turn(self._book.state)
        written = run.spent.output_tokens if "max_output_tokens" in request else 0
        if self._overrides is None or self._overrides_of != (forced, written):
            self._overrides_of = forced, written
            self._overrides = overrides(
                self._agent.settings,
                request,
                first=forced,
                output_tokens=written,
                offered=run.offered,
            )
        return self._overrides

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
        self._book.emit(
            ModelRouted(
                answer.step,
                answer.attempt,
                decision.model,
                decision.replica,
                decision.reason,
                decision.predicted_cached_tokens,
            )
        )

    def _result(
        self, step: CallModel, answer: Answer, began: float, stored_s: float
    ) -> ModelResult:
        text, calls, done = answer.whole()
        if done.finish_reason == "length" and (begun := self._begun()):
            calls, done = begun, msgspec.structs.replace(done, finish_reason="tool_calls")
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
            reasoning=answer.reasoning,
            reasoning_tokens=done.reasoning_tokens,
            cost_usd=spent + prices.cost_usd(prompt=prompt, cached=cached, output=output),
            uncached_cost_usd=spent + prices.cost_usd(prompt=prompt, cached=0, output=output),
            seconds=now - began,
            stored_s=stored_s,
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
        def drained() -> list[AnyEvent] | None:
            # An answer that is whole has a result that says it all, and is stored durably.
            if self._answer is not answer:
                return None
            events: list[AnyEvent] = [*answer.drain()]
            for call in answer.whole_calls():
                events += self._ahead.take(answer.step, answer.attempt, call)
            return events

        if await self._book.store_soon(drained):
            self._ahead.start()

    def _cancel_flush_timer(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
