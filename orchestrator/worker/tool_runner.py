"""Calls with their effects: what `call_rules` decided is run, looked up, asked for or closed.

    run(step) ─► intents, flush ─► tools side by side ─► the first that ends: its event, emitted

One turn of the loop each: whatever came is folded, and the rules are asked again, with the ids of
the calls that still run. So a retry that is due does not wait for a slow neighbour. Results are
stored as they come, the last one with what follows it.

    ended well, or for good     ToolResult      (ResultKept before it, if it is too long to show)
    failed, nothing happened    ToolFailed      to be tried again, with pauses, a bounded number
                                                of times, in whichever process is there then
    "later"                     TimerSet
    in doubt, cannot be told    ApprovalRequested
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Set
from typing import Any

import msgspec

from orchestrator.agents import Agent
from orchestrator.clock import sleep
from orchestrator.loop import budgets
from orchestrator.loop.events import (
    ApprovalRequested,
    Call,
    ResultKept,
    TimerSet,
    ToolFailed,
    ToolIntent,
    ToolResult,
)
from orchestrator.loop.state import (
    Action,
    AskPerson,
    CloseCall,
    LookUpCall,
    Run,
    RunTools,
)
from orchestrator.tools.base import NeedsPerson, Ready, ToolContext
from orchestrator.tools.errors import error_text
from orchestrator.tools.host import RunHost
from orchestrator.tools.progress import Progress
from orchestrator.tools.toolbox import Ran, clip, pause_s
from orchestrator.tools.trace_context import child_of
from orchestrator.worker.collaborators import Collaborators
from orchestrator.worker.effects import Effects
from orchestrator.worker.run_log import RunLog
from serving.config.agent import AgentLimits

Came = Ran | NeedsPerson | bool | None
"""Of a run: what it gave, or whom it needs. Of a lookup: what it gave, False (nothing), or None."""


NOTHING: frozenset[str] = frozenset()


class _Begun(msgspec.Struct, frozen=True, gc=False):
    """A call that runs, or that is looked up."""

    ready: Ready
    context: ToolContext
    at: float
    """When the tool began, once its intent was stored."""
    is_lookup: bool = False


class ToolRunner:
    """Runs the calls of one conversation."""

    def __init__(
        self,
        shared: Collaborators,
        agent: Agent,
        limits: AgentLimits,
        book: RunLog,
        effects: Effects,
    ) -> None:
        self._shared = shared
        self._clock = shared.clock
        self._agent = agent
        self._limits = limits
        self._book = book
        self._effects = effects
        self._host = RunHost(shared.journal, book, shared.children)
        self._running: dict[str, tuple[_Begun, asyncio.Task[Any]]] = {}
        self._prepared: list[_Begun] = []
        self._guesses: dict[str, tuple[_Begun, asyncio.Task[Any]]] = {}
        self._forgotten: list[asyncio.Task[Any]] = []
        self._progress = Progress(shared, book, limits.tool_progress_bytes_per_s)

    @property
    def running(self) -> Set[str]:
        """Ids of the calls that this process is running, or is about to run."""
        if not self._running and not self._prepared:
            return NOTHING
        return {*self._running, *(each.ready.call.call_id for each in self._prepared)}

    # -- ahead of the turn's end --

    def guess(self, run: Run, ready: Ready) -> None:
        """Run a pure call that nobody may ask for in the end."""
        begun = _Begun(ready, self._context(run, ready.call, 1), self._clock.now())
        self._guesses[ready.call.call_id] = begun, asyncio.ensure_future(self._work(begun))

    @property
    def guesses(self) -> int:
        return len(self._guesses)

    def forget_guesses(self) -> None:
        for _, task in self._guesses.values():
            task.cancel()
            self._forgotten.append(task)
        self._guesses.clear()

    def prepare(self, run: Run, ready: Ready) -> ToolIntent:
        """The intent of a call that begins with `start_prepared`, once it is stored."""
        now = self._clock.now()
        begun = _Begun(ready, self._context(run, ready.call, 1), now)
        self._prepared.append(begun)
        return self._intent(ready, begun.context, now)

    def start_prepared(self) -> None:
        """Their intents are stored."""
        prepared, self._prepared = self._prepared, []
        for each in prepared:
            self._start(each)

    def _start(self, begun: _Begun) -> None:
        call_id = begun.ready.call.call_id
        guess = self._guesses.pop(call_id, None) if begun.context.attempt == 1 else None
        began = guess[0].at if guess else self._clock.now()
        task = guess[1] if guess else asyncio.ensure_future(self._work(begun))
        self._running[call_id] = msgspec.structs.replace(begun, at=began), task

    async def run(self, step: RunTools) -> None:
        """Begin what the step says, and take in what comes first of all that runs."""
        run = self._book.state.run
        if run is None:
            return
        now = self._clock.now()
        begun = [each for a in step.actions if (each := self._begin(run, a, now))]
        if not begun and not self.running:
            return
        await self._book.flush()
        self.start_prepared()
        alone = not self._running and not self._guesses and step.due is None
        if len(begun) == 1 and alone and not begun[0].is_lookup:
            # Most turns have one call: no need of a task for it.
            only = msgspec.structs.replace(begun[0], at=self._clock.now())
            tools = self._agent.tools
            ran = await self._effects.run(tools.run(only.ready, only.context, self._limits))
            if ran is not None:
                self._ended(run, only, ran)
            return
        for each in begun:
            self._start(each)
        self.forget_guesses()  # calls that the turn did not make in the end
        await self._wait(step.due)

    async def _wait(self, due: float | None = None) -> None:
        """Until one of the running calls has ended, or it is `due`."""
        tasks = [task for _, task in self._running.values()]
        if await self._effects.run(self._first(tasks, due)) is None:
            return
        self._take_ended()

    def _take_ended(self) -> None:
        run = self._book.state.run
        for call_id, (begun, task) in list(self._running.items()):
            if task.done():
                del self._running[call_id]
                if run and not task.cancelled():
                    self._ended(run, begun, task.result()[0])

    async def _first(self, tasks: list[asyncio.Task[Any]], due: float | None) -> bool:
        if due is None:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return True
        alarm = asyncio.ensure_future(sleep(self._clock, due - self._clock.now()))
        try:
            await asyncio.wait([*tasks, alarm], return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
        return True

    async def drain(self) -> None:
        """Let end what runs, and take in what came; `cut` ends it sooner."""
        while self._running:
            tasks = [task for _, task in self._running.values()]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._take_ended()

    def cut(self) -> None:
        """What runs has an unknown outcome from here on."""
        for _, task in self._running.values():
            task.cancel()

    async def end(self) -> None:
        """Cut what still runs: the response has ended, or this process lets go of it."""
        self._progress.stop()
        self._prepared.clear()
        self.forget_guesses()
        self.cut()
        tasks = [*(task for _, task in self._running.values()), *self._forgotten]
        self._running.clear()
        self._forgotten.clear()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def abandon(self) -> None:
        """The response ends: calls of it that began and gave no result let go of what they hold.
        One that waits for a person does not: a later response goes on with it.

        Why it ends is stored first: whoever went on with it after a crash would otherwise take what
        an abandoned call left for its result.
        """
        run = self._book.state.run
        letting_go = []
        for open_call in run.calls.values() if run else ():
            found = self._agent.tools.get(open_call.call.name)
            is_left = open_call.attempts and not open_call.result and open_call.approval != "asked"
            if run and found and found.abandon and is_left:
                context = self._context(run, open_call.call, open_call.attempts)
                letting_go.append((found.abandon, context))
        if letting_go:
            await self._book.flush()
        for abandon, context in letting_go:
            self._shared.spawn(abandon(context))

    # -- one call --

    def _begin(self, run: Run, action: Action, now: float) -> _Begun | None:
        """The events of an action; what is to be run, if anything is."""
        call, step = action.call, self._book.state.step
        if isinstance(action, CloseCall):
            self._book.emit(ToolResult(step, call.call_id, now, action.output, action.outcome))
            return None
        ready = self._agent.tools.prepare(call)
        if isinstance(action, AskPerson) and (
            isinstance(ready, Ready) or action.reason == "outcome_unknown"
        ):
            self._ask(run, call, action.reason, now)
            return None
        if not isinstance(ready, Ready):
            self._book.emit(ToolResult(step, call.call_id, now, ready.message, "refused"))
            return None
        attempt = 1 if isinstance(action, AskPerson) else action.attempt
        approved = run.calls[call.call_id].approval == "approved"
        context = self._context(run, call, attempt, approved=approved)
        if isinstance(action, LookUpCall):
            return _Begun(ready, context, now, True)
        self._book.emit(self._intent(ready, context, now))
        return _Begun(ready, context, now)

    def _intent(self, ready: Ready, context: ToolContext, now: float) -> ToolIntent:
        return ToolIntent(
            self._book.state.step,
            context.call_id,
            context.key,
            now,
            context.attempt,
            ready.tool.version,
            context.traceparent,
        )

    def _context(
        self, run: Run, call: Call, attempt: int, *, approved: bool = False
    ) -> ToolContext:
        conversation = self._book.lease.conversation
        key = f"{conversation}:{self._book.state.step}:{call.call_id}"
        return ToolContext(
            key=key,
            call_id=call.call_id,
            conversation=conversation,
            response_id=run.response_id,
            agent=self._agent.key,
            tenant=self._book.state.tenant,
            attempt=attempt,
            traceparent=child_of(
                run.request.get("traceparent", ""), run.response_id, f"{key}:{attempt}"
            ),
            deadline=budgets.deadline(run.spent, self._limits),
            at=self._clock.now(),
            approved=approved,
            depth=run.request.get("depth", 0),
            report=lambda value: self._progress.report(call.call_id, value),
            host=self._host,
        )

    async def _work(self, begun: _Begun) -> tuple[Came]:
        """What came of it, in a tuple: `effects.run` returns None for what it has cut."""
        tools = self._agent.tools
        work: Coroutine[Any, Any, Came] = (
            tools.lookup(begun.ready, begun.context, self._limits)
            if begun.is_lookup
            else tools.run(begun.ready, begun.context, self._limits)
        )
        return (await work,)

    # -- what came of it --

    def _ended(self, run: Run, begun: _Begun, came: Came) -> None:
        call, context, step = begun.ready.call, begun.context, self._book.state.step
        now = self._clock.now()
        for shown in self._progress.end(call.call_id):
            self._book.emit(shown)
        if came is None:
            self._ask(run, call, "outcome_unknown", now)
        elif isinstance(came, NeedsPerson):
            asked = Call(call.call_id, came.name, came.arguments)
            self._ask(run, asked, "required", now)
        elif isinstance(came, bool):
            said = "the earlier attempt did nothing"
            failed = ToolFailed(step, call.call_id, now, context.attempt - 1, said, "not_done", now)
            self._book.emit(failed)
        elif retry_at := self._retry_at(run, begun, came, now):
            failed = ToolFailed(
                step, call.call_id, now, context.attempt, came.output, came.code, retry_at
            )
            self._book.emit(failed)
        elif came.later > now and came.later < context.deadline:
            self._book.emit(TimerSet(step, call.call_id, now, came.later, came.output))
        else:
            self._close(begun, came, now)

    def _close(self, begun: _Begun, ran: Ran, now: float) -> None:
        step, call_id = self._book.state.step, begun.ready.call.call_id
        if ran.later > now:
            said = "the response has to end before that time; choose an earlier one"
            ran = Ran("error", error_text("too_late", said), "too_late")
        if ran.whole:
            kept = clip(ran.whole, self._limits.tool_kept_bytes)
            self._book.emit(ResultKept(step, call_id, kept))
        seconds = now - begun.at
        self._shared.runs.called(self._agent, ran.outcome, seconds)
        if ran.outcome == "ok":
            self._shared.times.took(self._agent.key, begun.ready.call.name, seconds)
        self._book.emit(
            ToolResult(
                step,
                call_id,
                now,
                ran.output,
                ran.outcome,
                seconds,
                ran.code,
                ran.cost_usd,
                ran.quota,
                ran.partial,
                ran.agents_usd,
            )
        )

    def _retry_at(self, run: Run, begun: _Begun, ran: Ran, now: float) -> float:
        """When the call is tried again; 0: not any more."""
        open_call = run.calls.get(begun.ready.call.call_id)
        if not ran.transient or open_call is None:
            return 0.0
        failures = open_call.failures + 1
        retry_at = now + pause_s(failures, ran.retry_after_s)
        again = failures < self._limits.tool_attempts and retry_at < begun.context.deadline
        return retry_at if again else 0.0

    def _ask(self, run: Run, call: Call, reason: Any, now: float) -> None:
        approval_id = f"mcpr_{run.response_id.removeprefix('resp_')}_{call.call_id}"
        step = self._book.state.step
        self._book.emit(
            ApprovalRequested(
                step, call.call_id, approval_id, now, reason, call.name, call.arguments
            )
        )
