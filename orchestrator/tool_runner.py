"""Tool calls with their effects: intents, the calls side by side, each result as it comes.

    run(step) ─► ToolIntent*, flush ─► the tools ─► ToolResult*

A call that is refused before it reaches a tool has a result and no intent. The last result is
emitted only, and stored with whatever follows it.
"""

from __future__ import annotations

import asyncio

from orchestrator.agents import Agent
from orchestrator.collaborators import Collaborators
from orchestrator.effects import Effects
from orchestrator.events import Call, ToolIntent, ToolResult
from orchestrator.run_log import RunLog
from orchestrator.state import RunTools
from orchestrator.tools import Ran, Ready
from serving.config import AgentLimits

UNKNOWN = (
    "error: the outcome of this call is unknown: the process ended while it ran. "
    "It was not run again; check before you repeat it"
)


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
        self._agent = agent
        self._limits = limits
        self._book = book
        self._effects = effects
        self._clock = shared.clock

    async def run(self, step: RunTools) -> None:
        """Returns when every call has its result, or the effect was interrupted."""
        now = self._clock.now()
        for call in step.unknown:
            unknown = ToolResult(step.step, call.call_id, now, UNKNOWN, "outcome_unknown")
            self._book.emit(unknown)
        ready: list[Ready] = []
        for call, attempt in step.calls:
            prepared = self._agent.tools.prepare(call)
            if isinstance(prepared, Ready):
                self._book.emit(
                    ToolIntent(step.step, call.call_id, self._key(step, call), now, attempt)
                )
                ready.append(prepared)
            else:
                refused = ToolResult(step.step, call.call_id, now, prepared.message, "refused")
                self._book.emit(refused)
        if not ready:
            return
        await self._book.flush()
        if len(ready) == 1:
            ran = await self._effects.run(self._run_tool(step, ready[0]))
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
                came = await self._effects.run(first)
                if came is None:
                    return
                done, waiting = came
                for task, call in tasks.items():
                    if task in done:
                        self._emit_result(step, call, task.result(), began)
                if waiting:
                    await self._book.flush()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _run_tool(self, step: RunTools, ready: Ready) -> Ran:
        limits = self._limits
        return await self._agent.tools.run(
            ready,
            self._key(step, ready.call),
            timeout_s=limits.tool_timeout_s,
            result_bytes=limits.tool_result_bytes,
        )

    def _emit_result(self, step: RunTools, call: Call, ran: Ran, began: float) -> None:
        now = self._clock.now()
        self._book.emit(
            ToolResult(step.step, call.call_id, now, ran.output, ran.outcome, now - began)
        )

    def _key(self, step: RunTools, call: Call) -> str:
        return f"{self._book.lease.conversation}:{step.step}:{call.call_id}"
