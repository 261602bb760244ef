"""One response on its way through the loop: steps from `machine`, effects, events into the log.

    next_step ─► emit(intents) ─► flush ─► effect ─► emit(results) ─► next_step ...

The one rule is to flush before every effect (`run_log.py`). So a turn's result and the intents of
its calls go into one transaction, and so do the last result and the next turn's intent: two fsyncs
a step. Cancel, out of time and shutdown interrupt an effect (`effects.py`), never a flush. How a
model is asked is `turn_runner.py`, how calls run `tool_runner.py`.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext

import msgspec

from orchestrator.agents import Agent
from orchestrator.clock import Timer, sleep
from orchestrator.journal.base import Lease
from orchestrator.loop import budgets, call_rules
from orchestrator.loop.events import (
    CancelRequested,
    LimitReached,
    Notice,
    ResponseFinished,
    ToolResult,
)
from orchestrator.loop.machine import next_step
from orchestrator.loop.prompt import Prompt
from orchestrator.loop.state import (
    Around,
    CallModel,
    CloseTurn,
    Compact,
    Finish,
    Idle,
    Refuse,
    RunTools,
    State,
    Wait,
)
from orchestrator.model import ModelTurn
from orchestrator.worker.calls_ahead import CallsAhead
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.effects import Effects
from orchestrator.worker.run_log import RunLog
from orchestrator.worker.summary import summarised
from orchestrator.worker.tool_runner import ToolRunner
from orchestrator.worker.turn_outcomes import AT_LIMIT, TurnOutcomes
from orchestrator.worker.turn_runner import TurnRunner
from orchestrator.worker.warming import Warming
from serving.config.agent import AgentLimits
from serving.config.model import Prices

log = logging.getLogger("warmloop.worker")


class Runner:
    """Drives one conversation while this process holds its lease."""

    def __init__(
        self,
        shared: Collaborators,
        lease: Lease,
        agent: Agent,
        state: State,
        prompt: Prompt | None = None,
    ) -> None:
        """`agent` has its own tools; `prompt` is what was rendered of the conversation before."""
        self.state = state
        self.fenced = False
        self.wake_at = 0.0
        """It only waits, until then, and nobody need hold it meanwhile."""
        self._shared = shared
        self._clock = shared.clock
        self._own = agent
        self._limits = _limits(agent, state)
        self._purse = shared.ledger.purse(state.tenant)
        self._book = RunLog(
            shared.journal,
            lease,
            state,
            shared.clock,
            self.fence,
            outcomes=TurnOutcomes(shared.outcomes),
            purse=self._purse,
        )
        self._effects = Effects()
        self.agent = self._bound()
        self.prompt = prompt or self.agent.prompt()
        self._equip()

    def _bound(self) -> Agent:
        """The agent with the tools that the conversation and its response have now."""
        run = self.state.run
        offered = run.offered if run is not None else {}
        return self._shared.offers.bind(self._own, self.state.offers, offered)

    def _equip(self) -> None:
        """With what asks models and runs calls, for the agent as it is in this conversation now."""
        shared, agent = self._shared, self.agent
        self.prompt.use(agent.settings)
        self._around = _around(shared, agent)
        self._tools = ToolRunner(shared, agent, self._limits, self._book, self._effects)
        ahead = CallsAhead(agent, self._limits, self._book, self._tools)
        self._turns = TurnRunner(shared, agent, self.prompt, self._book, self._effects, ahead=ahead)
        self._warming = Warming(
            shared, agent, self.prompt, self._book, self._limits, self._bounded, self._turns.changed
        )

    @property
    def is_idle(self) -> bool:
        """The response has ended, and the log knows."""
        return self.state.run is None and self._book.is_stored and not self.fenced

    # -- from outside --

    def cancel(self, response_id: str) -> bool:
        """End the response as cancelled; False if it is not the one in progress."""
        run = self.state.run
        if run is None or run.response_id != response_id:
            return False
        if not run.cancel_requested:
            self._book.emit(CancelRequested(response_id, self._clock.now()))
            self._effects.interrupt()
        return True

    def stop(self, *, now: bool) -> None:
        """Come to an end without finishing. A model turn is dropped; tools that run may end,
        unless `now`: a call that is cut has an unknown outcome."""
        self._book.stopping = True
        run = self.state.run
        if now:
            self._tools.cut()
        if now or self._turns.is_asking or run is None or not run.calls:
            self._effects.interrupt()

    def fence(self) -> None:
        """Another worker holds the conversation: stop at once, store nothing more."""
        self.fenced = True
        self._book.forget()
        self._effects.kill()

    # -- the loop --

    async def drive(self) -> None:
        """Until the response has ended, `stop`, or it only waits. Raises Fenced, JournalFull."""
        with self._purse or nullcontext():
            await self._drive()

    async def _drive(self) -> None:
        self._effects.begin()
        deadline = self._set_deadline()
        try:
            while not self._book.stopping:
                now = self._clock.now()
                tools = self.agent.tools
                step = next_step(
                    self.state,
                    self._limits,
                    tools.kinds,
                    now,
                    need_approval=tools.need_approval,
                    running=self._tools.running,
                    around=self._bounded(),
                )
                await self._warming.follow(step)
                match step:
                    case CallModel():
                        await self._turns.ask(step)
                    case RunTools():
                        await self._tools.run(step)
                    case CloseTurn():
                        self._turns.close_early(step)
                    case Refuse():
                        self._refuse(step, now)
                    case Compact():
                        await self._compact(step)
                    case Finish():
                        await self._finish(step)
                    case Wait():
                        await self._wait(step.until)
                        if self.wake_at:
                            return
                    case Idle():
                        return
            await self._tools.drain()
            await self._book.flush()
        finally:
            if deadline is not None:
                deadline.cancel()
            self._turns.close()
            await self._warming.end()
            await self._tools.end()

    async def _wait(self, until: float) -> None:
        """Here, or, where it takes long, without a process (`wake_at`)."""
        await self._book.flush()
        now, touch_at = self._clock.now(), self._warming.due_at()
        if touch_at is not None and touch_at < until:
            if touch_at <= now:
                await self._effects.run(self._warming.touch(until))
                return
            until = touch_at
        if until - now >= self._shared.park_s and self._effects.allowed:
            self.wake_at = self._until_deadline(until)
        else:
            await self._effects.run(sleep(self._clock, until - now))

    def _bounded(self) -> Around:
        run = self.state.run
        if self._purse is None or run is None:
            return self._around
        return msgspec.structs.replace(self._around, caps=self._purse.caps(run.spent))

    def _refuse(self, step: Refuse, now: float) -> None:
        for call in step.calls:
            self._book.emit(
                ToolResult(step.step, call.call_id, now, step.said, "refused", code=AT_LIMIT)
            )
        self._say(step.notice)

    async def _compact(self, step: Compact) -> None:
        event = step.event
        run, context = self.state.run, self._around.context
        if event.strategy == "summary" and run is not None:
            asked = ModelTurn(
                b"",
                "",
                f"{run.response_id}-{event.step}-summary",
                "summarise",
                tenant=self.state.tenant,
                urgency=run.request.get("urgency", "interactive"),
            )
            shared = self._shared
            work = summarised(shared.models, shared.prices, context, step, asked)
            told = await self._effects.run(work)
            if told is None:
                return  # interrupted
            event = told
        place = self._book.lease.conversation
        log.info("%s: prompt rewritten (%s): %s", place, event.why, event.reason)
        state, offers = self.state, self._shared.offers
        for listed in offers.newer(self._own, state):
            self._book.emit(listed)
        self._book.emit(event)
        for offered in offers.again(self._own, state):
            self._book.emit(offered)
        self._shared.guard.note(event)
        agent = self._bound()
        if agent is not self.agent:  # no call is open between two turns
            await self._tools.end()
            self.agent = agent
            self._equip()

    def _say(self, event: Notice | LimitReached) -> None:
        self._book.emit(event)
        self._shared.guard.note(event)

    async def _finish(self, step: Finish) -> None:
        run = self.state.run
        if run is None:
            return
        if step.limit is not None and run.limit is None:
            self._say(step.limit)
        await self._tools.end()
        await self._tools.abandon()
        now = self._clock.now()
        if step.status != "completed":  # then all that is open waits for somebody, and stays so
            for told in call_rules.cut(self.state, now, self.agent.tools.kinds):
                self._book.emit(told)
        self._book.emit(
            ResponseFinished(run.response_id, now, step.status, step.code, step.message)
        )
        await self._book.flush()
        self._shared.runs.ended(self.agent, step.status, run.spent, now - run.spent.since)

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
            self._say(LimitReached("seconds", spent_s, limits.max_seconds, now))
            self._effects.interrupt()

        return self._clock.call_later(max(0.0, left_s), expire)


def _around(shared: Collaborators, agent: Agent) -> Around:
    model = agent.model
    prices = shared.prices.get(model)
    # `auto` may take any; what is dearest is most worth saving.
    dearest = max(shared.prices.values(), key=lambda each: each.fresh, default=Prices())
    return Around(
        context=agent.context,
        context_tokens=shared.context_tokens(model),
        answer_tokens=agent.settings.get("max_tokens", 0),
        head_bytes=agent.head_bytes,
        prices=prices or dearest,
    )


def _limits(agent: Agent, state: State) -> AgentLimits:
    """The agent's, and what the request wants to be less: its deadline, its calls of tools."""
    limits = agent.limits
    request = state.run.request if state.run is not None else {}
    less = {
        name: wanted
        for name, said in (("max_seconds", "deadline_s"), ("max_tool_calls", "max_tool_calls"))
        if (wanted := request.get(said)) is not None and wanted < getattr(limits, name)
    }
    return limits.model_copy(update=less) if less else limits
