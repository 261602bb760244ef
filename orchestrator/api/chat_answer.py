"""A response in the words of chat completions, whole or as chunks.

Of all that a run does a chat client sees the text. Its tool calls and their results are in the
response of the same id (`chatcmpl-X` is `resp_X`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from orchestrator.api.approvals import REQUEST, in_words
from orchestrator.api.chat_request import ChatRequest
from orchestrator.api.projection import Projection, StreamEvent
from orchestrator.api.response_stream import KEEP_ALIVE, follow
from orchestrator.journal.base import Journal, ResponseRef
from orchestrator.loop.context_rules import TOO_LONG
from router.turn import Decision
from serving.errors import BadRequest, UpstreamError

_encoder = msgspec.json.Encoder()


class ChatAnswer:
    """A `Dispatched`: a response in the words of chat completions."""

    status = 200

    def __init__(self, journal: Journal, ref: ResponseRef, request: ChatRequest) -> None:
        self._journal = journal
        self._ref = ref
        self._request = request
        self._projection = Projection(ref.response_id, ref.conversation)
        self._whole = b""
        self.decision = Decision(request.model, "", "", "agent")
        kind = "text/event-stream" if request.stream else "application/json"
        self.headers: Mapping[str, str] = {
            "content-type": f"{kind}; charset=utf-8",
            "x-warmloop-decision": "agent",
            "x-warmloop-response": ref.response_id,
        }

    @property
    def finished(self) -> bool:
        return self._projection.finished

    async def prepare(self) -> None:
        """Wait for the end: the status of a whole answer depends on it."""
        async for _ in follow(self._journal, self._ref, self._projection):
            pass
        response = self._projection.response()
        _raise_if_failed(response)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": _text(response), "refusal": None},
            "logprobs": None,
            "finish_reason": _finish_reason(response),
        }
        whole = self._frame("chat.completion", [choice])
        self._whole = _encoder.encode({**whole, "usage": _usage(response)})

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._whole:
            yield self._whole
            return
        text = ChatText()
        async for emitted in follow(self._journal, self._ref, self._projection):
            if not emitted:
                yield KEEP_ALIVE
            for event in emitted:
                if event["type"] == "response.created":
                    yield self._chunk({"role": "assistant", "content": ""})
                elif piece := text.feed(event):
                    yield self._chunk({"content": piece})
        response = self._projection.response()
        _raise_if_failed(response)
        yield self._chunk({}, _finish_reason(response))
        options = self._request.stream_options
        if options is not None and options.include_usage:
            frame = self._frame("chat.completion.chunk", [])
            yield _data({**frame, "usage": _usage(response)})
        yield b"data: [DONE]\n\n"

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        accepted = self._projection.accepted
        return {
            "id": "chatcmpl-" + self._ref.response_id.removeprefix("resp_"),
            "object": kind,
            "created": int(accepted.at) if accepted else 0,
            "model": self._request.model,
            "choices": choices,
        }

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data(self._frame("chat.completion.chunk", [choice]))


class ChatText:
    """The text of a run as one message that only grows.

    Chat has no items that could be taken back: when an attempt was cut, the next one has to begin
    with what was sent of it, and only the rest is sent. Raises UpstreamError when it does not.
    """

    def __init__(self) -> None:
        self._owed = ""
        self._again = ""

    def feed(self, event: StreamEvent) -> str:
        """What this streaming event adds."""
        if event["type"] == "response.output_item.done":
            item = event["item"]
            cut = item["type"] == "message" and item["status"] == "incomplete"
            self._owed = item["content"][0]["text"] if cut else ""
            self._again = ""
            if item["type"] == REQUEST:
                return in_words(item)
        if event["type"] != "response.output_text.delta":
            return ""
        if not self._owed:
            return str(event["delta"])
        self._again += event["delta"]
        if self._owed.startswith(self._again):
            return ""
        if not self._again.startswith(self._owed):
            raise UpstreamError("the engine failed in mid-answer; send the request again")
        rest, self._owed = self._again[len(self._owed) :], ""
        return rest


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + _encoder.encode(value) + b"\n\n"


def _text(response: Mapping[str, Any]) -> str:
    output = response["output"]
    messages = [item for item in output if item["type"] == "message"]
    said = [part["text"] for message in messages for part in message["content"]]
    return "".join([*said, *(in_words(item) for item in output if item["type"] == REQUEST)])


def _finish_reason(response: Mapping[str, Any]) -> str:
    return "stop" if response["status"] == "completed" else "length"


def _usage(response: Mapping[str, Any]) -> dict[str, Any]:
    usage = response["usage"] or {}
    cached = usage.get("input_tokens_details", {}).get("cached_tokens", 0)
    return {
        "prompt_tokens": usage.get("input_tokens", 0),
        "completion_tokens": usage.get("output_tokens", 0),
        "total_tokens": usage.get("total_tokens", 0),
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _raise_if_failed(response: Mapping[str, Any]) -> None:
    if response["status"] == "failed":
        error = response["error"]
        if error["type"] == TOO_LONG and not response["output"]:
            said = "messages: the agent's prompt is longer than its model's context; send less"
            raise BadRequest(said, param="messages", code=TOO_LONG)
        raise UpstreamError(error["message"], code=error["type"])
    if response["status"] == "cancelled":
        raise BadRequest("the run was cancelled", code="cancelled")
