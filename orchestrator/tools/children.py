"""Agents as tools of agents: a call is a response in a conversation that is the call's own.

    call's key ──hash──► the child's conversation and response ids

So the call may run as often as it likes: it finds the same child, finished or not, and takes its
answer once. The child is a conversation like any other, with its own log, budget and crash table;
what it costs counts in its caller's budget. When the caller's response ends before, it is
cancelled. Where the child waits for a person its caller waits too: the question is passed up, and
the answer down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.api.approvals import REQUEST
from orchestrator.api.projection import Projection
from orchestrator.api.response_stream import follow
from orchestrator.journal.base import Journal, JournalFull, ResponseRef
from orchestrator.loop.call_rules import DECISION
from orchestrator.loop.events import ConversationStarted, HistoryImported, Item, ResponseAccepted
from orchestrator.loop.history import items_of
from orchestrator.tools.base import (
    NeedsPerson,
    Tool,
    ToolContext,
    ToolError,
    ToolLimits,
    ToolOutput,
    schema_check,
)
from serving.config.agent import AgentConfig
from serving.config.sections import nearest
from serving.config.tool import ToolSettings
from serving.errors import ConfigError, Conflict, NotFound, Unavailable

PREFIX = "agent:"
MAX_DEPTH = 4
"""Agents that ask agents that ask agents ...: where a circle ends."""
PARAMETERS = {
    "type": "object",
    "properties": {
        "task": {
            "type": "string",
            "maxLength": 4096,
            "description": "what to do, with all that is needed for it",
        }
    },
    "required": ["task"],
    "additionalProperties": False,
}


class Acceptor(Protocol):
    """What this module needs of the worker."""

    async def accept(
        self,
        conversation: str,
        accepted: ResponseAccepted,
        *,
        start: ConversationStarted | None = None,
        imported: HistoryImported | None = None,
        at_end: Callable[[], None] | None = None,
    ) -> Any:
        """Store a request and begin to run it."""

    async def cancel(self, response_id: str) -> ResponseRef:
        """End a response; returns when it has ended."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Where the child of a call lies."""

    conversation: str
    stem: str

    def response(self, number: int) -> str:
        """The first is the task's, each later one brings a person's word."""
        return f"resp_{self.stem}" + (f"{number:02x}" if number else "")


def ids_of(key: str) -> Ids:
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return Ids(f"conv_{digest}", digest)


class Children:
    """Runs the children of all conversations of this process."""

    def __init__(self, journal: Journal, runs: Acceptor, key_of: Callable[[str], str]) -> None:
        """`key_of` gives `name@version` of an agent."""
        self._journal = journal
        self._runs = runs
        self._key_of = key_of

    async def ask(
        self, agent: str, task: str, context: ToolContext, history: Sequence[Item]
    ) -> ToolOutput | NeedsPerson:
        """The child's answer. Raises ToolError, transient when it could not be begun or read."""
        try:
            return await self._ask(agent, task, context, history)
        except Conflict as error:
            if error.code != "conversation_locked":
                raise
            raise ToolError("agent_unavailable", str(error), transient=True) from error
        except (Unavailable, JournalFull) as error:
            raise ToolError("agent_unavailable", str(error), transient=True) from error

    async def _ask(
        self, agent: str, task: str, context: ToolContext, history: Sequence[Item]
    ) -> ToolOutput | NeedsPerson:
        depth = context.depth + 1
        if depth > MAX_DEPTH:
            raise ToolError("too_deep", f"agents ask each other {MAX_DEPTH} deep at most")
        ids = ids_of(context.key)
        number, cost = 0, 0.0
        approved = context.approved
        if await self._journal.find_response(ids.response(0)) is None:
            said = {"type": "input_text", "text": task}
            message = {"type": "message", "role": "user", "content": [said]}
            await self._begin(agent, ids.response(0), [message], context, history)
            approved = False  # the word was for this, not for what the child will ask
        waiting: list[Item] = []  # each later response decides on the oldest
        while True:
            answer = await self._end_of(ids, number)
            cost += answer["warmloop"]["totals"]["cost_usd"]
            waiting += (item for item in answer["output"] if item["type"] == REQUEST)
            if not waiting or answer["status"] != "completed":
                return _output(answer, cost)
            number += 1
            asked = waiting.pop(0)
            if await self._journal.find_response(ids.response(number)) is None:
                if not approved:
                    return NeedsPerson(asked["name"], asked["arguments"])
                approved = False  # a word for one question
                decision = {"type": DECISION, "approval_request_id": asked["id"]}
                item = {**decision, "approve": True}
                await self._begin(agent, ids.response(number), [item], context)

    async def abandon(self, context: ToolContext) -> None:
        """The caller ended: its child need not go on."""
        ids, number = ids_of(context.key), 0
        try:
            while await self._journal.find_response(ids.response(number)) is not None:
                await self._runs.cancel(ids.response(number))
                number += 1
        except (NotFound, JournalFull):
            pass  # nothing to cancel, or nobody to tell: it ends by its own limits

    async def _begin(
        self,
        agent: str,
        response_id: str,
        items: list[Item],
        context: ToolContext,
        history: Sequence[Item] = (),
    ) -> None:
        request: dict[str, Any] = {
            "model": agent,
            "depth": context.depth + 1,
            "traceparent": context.traceparent,
            "metadata": {"parent_response_id": context.response_id},
        }
        if context.deadline < float("inf"):
            request["deadline_s"] = max(0.001, context.deadline - context.at)
        accepted = ResponseAccepted(response_id, context.at, items, request, tenant=context.tenant)
        start = ConversationStarted(self._key_of(agent), context.at, context.tenant)
        conversation, parent = ids_of(context.key).conversation, context.conversation
        imported = HistoryImported(parent, context.response_id, list(history)) if history else None
        await self._runs.accept(conversation, accepted, start=start, imported=imported)

    async def _end_of(self, ids: Ids, number: int) -> dict[str, Any]:
        ref = await self._journal.find_response(ids.response(number))
        if ref is None:
            raise ToolError("agent_gone", "the agent's response is no longer there")
        projection = Projection(ref.response_id, ref.conversation)
        try:
            async for _ in follow(self._journal, ref, projection):
                pass
        except NotFound as gone:
            raise ToolError("agent_gone", "the agent's response was deleted") from gone
        return projection.response()


def _output(answer: Mapping[str, Any], cost_usd: float) -> ToolOutput:
    messages = (item for item in answer["output"] if item["type"] == "message")
    text = "\n".join(part["text"] for item in messages for part in item["content"])
    if answer["status"] == "completed":
        return ToolOutput(text, cost_usd, agents_usd=cost_usd)
    why = answer["error"] or answer["incomplete_details"] or {}
    failed = {"status": answer["status"], "why": why.get("message", "")}
    return ToolOutput(text, cost_usd, failed=[failed], agents_usd=cost_usd)


def agent_tools(name: str, config: AgentConfig, agents: Mapping[str, AgentConfig]) -> list[Tool]:
    """The tools that `agent:NAME` means in an agent's configuration. Raises ConfigError."""
    tools = []
    for spec in config.tools:
        if not spec.startswith(PREFIX):
            continue
        child = spec.removeprefix(PREFIX)
        if child not in agents:
            hint = nearest(child, list(agents))
            raise ConfigError(f"agents.{name}.tools: {spec!r}: unknown agent; {hint}")
        tool_name = child.replace(".", "_")
        settings = config.tool_settings.get(tool_name, ToolSettings())
        tools.append(_agent_tool(tool_name, child, agents[child], fork=settings.fork))
    return tools


def _agent_tool(tool_name: str, child: str, config: AgentConfig, *, fork: bool) -> Tool:
    async def invoke(arguments: dict[str, Any], context: ToolContext) -> Any:
        host = context.host
        if host is None or host.children is None:
            raise ToolError("agent_unavailable", "agents cannot be asked here")
        # As its caller's prompt has them, where it answers as its caller does.
        history = items_of(host.history(), as_calls=config.reply_tool) if fork else ()
        return await host.children.ask(child, arguments["task"], context, history)

    async def abandon(context: ToolContext) -> None:
        if context.host is not None and context.host.children is not None:
            await context.host.children.abandon(context)

    return Tool(
        name=tool_name,
        description=config.description or f"Ask the agent {child} to do something.",
        parameters=PARAMETERS,
        check=schema_check(tool_name, PARAMETERS),
        invoke=invoke,
        kind="idempotent",
        limits=ToolLimits(timeout_s=float("inf"), breaker_failures=1_000_000),
        version=str(config.version),
        abandon=abandon,
    )
