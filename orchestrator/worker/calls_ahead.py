"""Calls that begin while their turn is still being written.

    take(call) ─► pure: it runs already, and nobody is bound by it
                └ else: CallReady, ToolIntent ─► stored ─► start()

A pure call that is ahead is a guess: if the attempt fails, what it gave is dropped, and nothing was
journaled. Any other is a fact: from CallReady on the attempt stands. Not every call may go ahead:
one that a person must allow, or that a limit might refuse with the whole turn, waits for the end
of the turn, and so do all calls of agents that answer through the reply tool, where a reply in the
same turn would unsay them.
"""

from __future__ import annotations

from orchestrator.agents import Agent
from orchestrator.loop.events import AnyEvent, Call, CallReady
from orchestrator.loop.state import Run
from orchestrator.tools.base import Ready
from orchestrator.worker.run_log import RunLog
from orchestrator.worker.tool_runner import ToolRunner
from serving.config.agent import AgentLimits


class CallsAhead:
    """Of one conversation."""

    def __init__(self, agent: Agent, limits: AgentLimits, book: RunLog, tools: ToolRunner) -> None:
        self._agent = agent
        self._limits = limits
        self._book = book
        self._tools = tools

    def take(self, step: int, attempt: int, call: Call) -> list[AnyEvent]:
        """What must be durable before the call begins; nothing for one that has begun, or must
        wait."""
        run = self._book.state.run
        if run is None or not self._may(run, call):
            return []
        ready = self._agent.tools.prepare(call)
        if not isinstance(ready, Ready):
            return []
        if ready.tool.kind == "pure":
            self._tools.guess(run, ready)
            return []
        return [CallReady(step, attempt, call), self._tools.prepare(run, ready)]

    def start(self) -> None:
        """What `take` gave is stored: begin."""
        self._tools.start_prepared()

    def forget(self) -> None:
        """The attempt has failed: drop what was only guessed."""
        self._tools.forget_guesses()

    def _may(self, run: Run, call: Call) -> bool:
        tools, spent = self._agent.tools, run.spent
        return (
            not self._agent.reply_tool
            and not self._book.stopping
            and not run.cancel_requested
            and run.limit is None
            and run.last is None
            and len(run.calls) < self._limits.max_calls_a_turn
            and call.name not in run.client_tools
            and call.name not in tools.need_approval
            and (call.name, call.arguments) not in spent.last_calls
            and spent.tool_calls + self._tools.guesses < self._limits.max_tool_calls
        )
