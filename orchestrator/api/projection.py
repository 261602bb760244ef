"""A response as clients see it: a pure function of its part of the log.

    log events of one response ──feed──► streaming events, numbered without gaps from 0
                               └response()► the Response object, at any point

Nothing of it is stored. Feeding the same events again gives the same ids and the same numbers, so
the log is the replay buffer: `starting_after=N` is a fresh projection whose first N+1 events are
dropped. Feeding costs O(1) an event, however long the response is.

An item closes when the model's whole answer is in the log, never before. What an attempt streamed
before it died closes as `incomplete`; the next attempt streams into items of its own, and the
replaced ones leave the Response's `output`, so that `output_text` says nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.api.output import Output
from orchestrator.api.output_items import Emitted
from orchestrator.api.turn_facts import TurnFacts
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalDecided,
    ApprovalRequested,
    CallReady,
    CancelRequested,
    Item,
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
    OutputDelta,
    ResponseAccepted,
    ResponseFinished,
    Status,
    ToolProgress,
    ToolResult,
    ToolsListed,
    ToolsOffered,
)

StreamEvent = dict[str, Any]

# The status says which one ended it. OpenAI has no event for `cancelled`, and its clients end
# their loops on these three.
FINAL_EVENTS: Mapping[Status, str] = {
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
}
ERROR_CODES = ("server_error", "rate_limit_exceeded", "invalid_prompt")
"""OpenAI's error codes that can apply here; any other of ours is said in `error.type`."""


class Projection:
    """One response of one conversation; feed it the log from its ResponseAccepted on."""

    def __init__(self, response_id: str, conversation: str) -> None:
        self.response_id = response_id
        self.status: Status = "queued"
        self._conversation = conversation
        self._accepted: ResponseAccepted | None = None
        self._ended: ResponseFinished | None = None
        self._next_number = 0
        self._output = Output(response_id)
        self._facts = TurnFacts()

    @property
    def finished(self) -> bool:
        return self._ended is not None

    @property
    def accepted(self) -> ResponseAccepted | None:
        return self._accepted

    def items(self) -> list[Item]:
        """The output so far."""
        return self._output.items()

    def feed(self, event: AnyEvent) -> list[StreamEvent]:
        """The streaming events that this event of the log gives rise to, often none."""
        if self.finished or (self._accepted is None and not isinstance(event, ResponseAccepted)):
            return []
        emitted: list[Emitted] = []
        self._facts.note(event)
        match event:
            case ResponseAccepted():
                emitted = self._accept(event)
            case ModelIntent():
                emitted = [*self._start(), *self._output.begin((event.step, event.attempt))]
            case OutputDelta():
                emitted = self._output.delta(event)
            case ModelResult():
                emitted = self._output.result(event)
            case ModelFailed():
                emitted = self._output.cut()
            case ToolsListed() | ToolsOffered():
                told = self._output.tools(event)
                emitted = [*self._start(), *told] if told else []
            case (
                CallReady()
                | ToolProgress()
                | ApprovalRequested()
                | ApprovalDecided()
                | ToolResult()
            ):
                emitted = self._output.call_event(event)
            case ResponseFinished(response_id=self.response_id):
                emitted = self._finish(event)
            case ModelRouted() | LimitReached() | CancelRequested() | _:
                pass
        return [self._number(each) for each in emitted]

    def _number(self, emitted: Emitted) -> StreamEvent:
        number = self._next_number
        self._next_number += 1
        return {"type": emitted["type"], "sequence_number": number, **emitted}

    def _lifecycle(self, kind: str) -> Emitted:
        return {"type": kind, "response": self.response()}

    def _accept(self, event: ResponseAccepted) -> list[Emitted]:
        if event.response_id != self.response_id:
            return []
        self._accepted = event
        if event.request.get("background"):
            return [self._lifecycle("response.created"), self._lifecycle("response.queued")]
        self.status = "in_progress"
        return [self._lifecycle("response.created"), self._lifecycle("response.in_progress")]

    def _start(self) -> list[Emitted]:
        if self.status == "in_progress":
            return []
        self.status = "in_progress"
        return [self._lifecycle("response.in_progress")]

    def _finish(self, event: ResponseFinished) -> list[Emitted]:
        emitted = self._output.end()
        self.status = event.status
        self._ended = event
        return [*emitted, self._lifecycle(FINAL_EVENTS[event.status])]

    def response(self) -> dict[str, Any]:
        """The Response object at this point of the log."""
        accepted = self._accepted
        if accepted is None:
            raise LookupError(f"{self.response_id}: the log has no ResponseAccepted for it")
        request, ended = accepted.request, self._ended
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": int(accepted.at),
            "completed_at": int(ended.at) if ended and ended.status == "completed" else None,
            "status": self.status,
            "background": bool(request.get("background")),
            "conversation": {"id": self._conversation},
            "error": self._error(),
            "incomplete_details": self._incomplete(),
            "instructions": request.get("instructions"),
            "max_output_tokens": request.get("max_output_tokens"),
            "max_tool_calls": request.get("max_tool_calls"),
            "metadata": request.get("metadata") or {},
            "model": request.get("model", ""),
            "output": self._output.items(),
            "parallel_tool_calls": request.get("parallel_tool_calls", True),
            "previous_response_id": accepted.previous_response_id or None,
            "prompt_cache_key": request.get("prompt_cache_key"),
            "presence_penalty": request.get("presence_penalty", 0.0),
            "frequency_penalty": request.get("frequency_penalty", 0.0),
            "reasoning": {"effort": None, "summary": None, **(request.get("reasoning") or {})},
            "safety_identifier": request.get("safety_identifier"),
            "service_tier": "flex" if request.get("urgency") == "batch" else "default",
            "store": request.get("store", True),
            "temperature": request.get("temperature", 1.0),
            "text": {"format": {"type": "text"}, **(request.get("text") or {})},
            "tool_choice": request.get("tool_choice", "auto"),
            "tools": request.get("tools", []),
            "top_logprobs": 0,
            "top_p": request.get("top_p", 1.0),
            "truncation": request.get("truncation", "disabled"),
            "usage": self._facts.usage(),
            "user": request.get("user"),
            "warmloop": self._facts.extension(),
        }

    def _error(self) -> dict[str, Any] | None:
        ended = self._ended
        if ended is None or ended.status != "failed":
            return None
        known = ended.code in ERROR_CODES
        return {
            "code": ended.code if known else "server_error",
            "message": ended.message or "the response failed",
            "type": ended.code or None,
        }

    def _incomplete(self) -> dict[str, Any] | None:
        ended = self._ended
        if ended is None or ended.status != "incomplete":
            return None
        return {"reason": ended.code, "message": ended.message}
