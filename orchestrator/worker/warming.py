"""Reading prompts again in pauses: what `keep_warm` decided is asked of an engine.

    while calls run           follow(step) ─► sleeps, touches, sleeps ... ─► end()
    while all only waits      due_at() ─► the runner wakes then ─► touch()

A touch is the request that the next turn will begin with, for one token of an answer: the same
bytes, session, model, tools and salt, so that it comes to the same replica and blocks. It goes at
once or not at all, at batch urgency, and ends when the pause does. It changes nothing but the
engine's cache: so it has no intent, and what is lost with a process is only the note of its cost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from orchestrator.agents import Agent
from orchestrator.clock import sleep
from orchestrator.loop import keep_warm
from orchestrator.loop.events import Warmed
from orchestrator.loop.prompt import Prompt
from orchestrator.loop.state import Around, Run, RunTools, Step
from orchestrator.model import Done, ModelError, ModelTurn, Routed
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.run_log import RunLog
from router.tiers.turn_types import AUTO
from router.turn import NO_TIME, Decision
from serving.config.agent import AgentLimits
from serving.config.model import Prices

log = logging.getLogger("warmloop.worker")

TRIES = 5
"""Refusals of one touch, spread over the time that it has; then the prompt is let go."""
LEAST_PAUSE_S = 0.1
"""Between two of them."""


class Warming:
    """Of one conversation. `around`: what bounds it now, beside its own limits; `changed`: what its
    request changes of the next turn's body."""

    def __init__(  # noqa: PLR0917 - a runner's parts
        self,
        shared: Collaborators,
        agent: Agent,
        prompt: Prompt,
        book: RunLog,
        limits: AgentLimits,
        around: Callable[[], Around],
        changed: Callable[[Run], Mapping[str, Any]],
    ) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._agent = agent
        self._prompt = prompt
        self._book = book
        self._limits = limits
        self._around = around
        self._changed = changed
        self._takes_s = partial(shared.times.takes_s, agent.key)
        self._task: asyncio.Task[None] | None = None
        self._step = 0
        self._tries = 0
        self._not_before = 0.0
        self._before = 0.0
        """The next touch is too late from then on."""

    def due_at(self) -> float | None:
        """When the prompt is to be read again, if the pause goes on until then; None: not."""
        state, now = self._book.state, self._clock.now()
        if self._agent.context.keep_warm is None or not self._model():
            return None
        if self._step != state.step:
            self._step, self._tries, self._not_before = state.step, 0, 0.0
        if self._tries >= TRIES:
            return None
        touch = keep_warm.next_touch(state, self._around(), self._limits, now, self._takes_s)
        if touch is None or max(now, self._not_before) >= touch.before:
            return None
        self._before = touch.before
        return max(touch.at, self._not_before)

    async def follow(self, step: Step) -> None:
        """While calls run, touch when it is due; before whatever else is done, end that."""
        if not isinstance(step, RunTools):
            await self.end()
        elif (self._task is None or self._task.done()) and self.due_at() is not None:
            self._task = asyncio.ensure_future(self._keep())

    async def end(self) -> None:
        """The pause is over."""
        if (task := self._task) is not None:
            self._task = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def touch(self, before: float) -> None:
        """Now, and no longer than until `before` (Unix seconds)."""
        self._task = asyncio.ensure_future(self._ask())
        alarm = asyncio.ensure_future(sleep(self._clock, before - self._clock.now()))
        try:
            await asyncio.wait((self._task, alarm), return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            await self.end()

    async def _keep(self) -> None:
        while (at := self.due_at()) is not None:
            await sleep(self._clock, at - self._clock.now())
            due = self.due_at()  # calls have ended, or begun, meanwhile
            if due is not None and due <= self._clock.now():
                await self._ask()

    async def _ask(self) -> None:
        run = self._book.state.run
        if run is None:
            return
        runs, began = self._shared.runs, self._clock.now()
        try:
            event = await self._read(self._turn(run), began)
        except ModelError as error:
            is_refused = error.code == NO_TIME
            now = self._clock.now()
            pause_s = (self._before - now) / (TRIES - self._tries)
            self._not_before = now + max(LEAST_PAUSE_S, pause_s)
            self._tries = self._tries + 1 if is_refused else TRIES
            runs.not_touched(self._agent, "refused" if is_refused else "failed")
            if not is_refused:
                log.warning("%s: prompt not read: %s", self._book.lease.conversation, error)
        except asyncio.CancelledError:
            runs.not_touched(self._agent, "cut")
            raise
        except Exception:
            log.exception("a model client failed in an unforeseen way")
            self._tries = TRIES
        else:
            self._tries, self._not_before = 0, 0.0
            self._book.emit(event)
            runs.touched(self._agent, event)
            # In a task of its own: this one ends with the pause, and a store must not be cut.
            self._shared.spawn(self._store())

    async def _store(self) -> None:
        await self._book.store_soon(list)

    def _turn(self, run: Run) -> ModelTurn:
        state, prompt = self._book.state, self._prompt
        prompt.extend(state.history)
        changed = {**self._changed(run), "max_tokens": 1, "model": self._model()}
        return ModelTurn(
            prompt.body(changed),
            self._book.lease.conversation,
            f"{run.response_id}-{state.step}-touch-{run.touches + 1}",
            self._agent.turn_type,
            self._agent.name if self._agent.version is not None else "",
            state.tenant,
            "batch",
            spare=True,
        )

    def _model(self) -> str:
        """The one whose engine has the prompt, also where any may answer; empty: nobody knows."""
        model = self._agent.model
        return model if model != AUTO else self._book.state.turn_model

    async def _read(self, turn: ModelTurn, began: float) -> Warmed:
        decision, done = Decision("", "", "", ""), Done("")
        async with aclosing(self._shared.models.turn(turn)) as answer:
            async for piece in answer:
                if isinstance(piece, Routed):
                    decision = piece.decision
                elif isinstance(piece, Done):
                    done = piece
        prices = self._shared.prices.get(decision.model, Prices())
        now, step = self._clock.now(), self._book.state.step
        prompt, cached, output = done.prompt_tokens, done.cached_tokens, done.output_tokens
        return Warmed(
            step=step,
            at=now,
            model=decision.model,
            replica=decision.replica,
            prompt_tokens=prompt,
            cached_tokens=cached,
            output_tokens=output,
            cost_usd=prices.cost_usd(prompt=prompt, cached=cached, output=output),
            seconds=now - began,
        )
