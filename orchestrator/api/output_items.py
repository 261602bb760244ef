"""One output item of a response, and the streaming events that tell of it.

    message        added, content_part.added, output_text.delta*, .done, content_part.done, done
    function_call  added, function_call_arguments.delta*, [.done], done
    reasoning      added, content_part.added, reasoning_text.delta*, .done, content_part.done, done
    function_call_output   added, done

An item opens with its first byte and closes once: `completed`, or `incomplete` when its attempt
was cut, truncated or superseded. Arguments of an incomplete call get no `arguments.done`, so that
no client takes half a call for one that may be run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.api.approvals import request_item
from orchestrator.loop.events import ApprovalRequested, Item

Emitted = dict[str, Any]
"""A streaming event without its `sequence_number`."""


class OpenItem:
    """What messages and calls share: a place in the output, and text that grows."""

    def __init__(self, item_id: str, output_index: int) -> None:
        self.item_id = item_id
        self.output_index = output_index
        self.status = "in_progress"
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that was streamed so far. Joins once: deltas stay O(1)."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def is_open(self) -> bool:
        return self.status == "in_progress"

    def as_item(self) -> Item:
        raise NotImplementedError

    def _event(self, kind: str, **fields: Any) -> Emitted:
        return {
            "type": f"response.{kind}",
            "item_id": self.item_id,
            "output_index": self.output_index,
            **fields,
        }

    def _whole(self, kind: str) -> Emitted:
        return {
            "type": f"response.output_item.{kind}",
            "output_index": self.output_index,
            "item": self.as_item(),
        }


class OpenText(OpenItem):
    """An item with one part of text; `kind` is the part's."""

    kind = "output_text"
    extra: Mapping[str, Any] = {}
    """Fields of the text's events that are always the same."""

    def _part(self) -> dict[str, Any]:
        raise NotImplementedError

    def _content(self) -> list[dict[str, Any]]:
        return [self._part()] if self._pieces or not self.is_open else []

    def open(self) -> list[Emitted]:
        return [
            self._whole("added"),
            self._event("content_part.added", content_index=0, part=self._part()),
        ]

    def grow(self, text: str) -> list[Emitted]:
        self._pieces.append(text)
        return [self._event(f"{self.kind}.delta", content_index=0, delta=text, **self.extra)]

    def close(self, status: str) -> list[Emitted]:
        self.status = status
        return [
            self._event(f"{self.kind}.done", content_index=0, text=self.text, **self.extra),
            self._event("content_part.done", content_index=0, part=self._part()),
            self._whole("done"),
        ]


class Message(OpenText):
    """Text of the assistant."""

    extra: Mapping[str, Any] = {"logprobs": []}

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def as_item(self) -> Item:
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": self.status,
            "content": self._content(),
        }


class Reasoning(OpenText):
    """What the model thought before it answered."""

    kind = "reasoning_text"

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}

    def as_item(self) -> Item:
        return {
            "id": self.item_id,
            "type": "reasoning",
            "status": self.status,
            "summary": [],
            "content": self._content(),
        }


class FunctionCall(OpenItem):
    """A call as the model wrote it; the server or the client runs it."""

    def __init__(self, item_id: str, output_index: int, call_id: str, name: str) -> None:
        super().__init__(item_id, output_index)
        self.call_id = call_id
        self.name = name

    def as_item(self) -> Item:
        return {
            "id": self.item_id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.text,
        }

    def open(self) -> list[Emitted]:
        return [self._whole("added")]

    def grow(self, text: str) -> list[Emitted]:
        self._pieces.append(text)
        return [self._event("function_call_arguments.delta", delta=text)]

    def close(self, status: str) -> list[Emitted]:
        self.status = status
        if status != "completed":
            return [self._whole("done")]
        done = self._event("function_call_arguments.done", arguments=self.text, name=self.name)
        return [done, self._whole("done")]


class FunctionCallOutput(OpenItem):
    """What a tool that the server ran gave back; it is whole from the start."""

    def __init__(self, item_id: str, output_index: int, call_id: str, output: str) -> None:
        super().__init__(item_id, output_index)
        self.call_id = call_id
        self._pieces = [output]

    def as_item(self) -> Item:
        return {
            "id": self.item_id,
            "type": "function_call_output",
            "status": self.status,
            "call_id": self.call_id,
            "output": self.text,
        }

    def show(self) -> list[Emitted]:
        added = self._whole("added")
        self.status = "completed"
        return [added, self._whole("done")]


class ApprovalRequest(OpenItem):
    """A call that waits for a person's word; whole from the start."""

    def __init__(
        self, event: ApprovalRequested, output_index: int, tool: tuple[str, str] | None = None
    ) -> None:
        """`tool`: the server that the request named, and its own name of the tool."""
        super().__init__(event.approval_id, output_index)
        self.status = "completed"
        self._item = request_item(event) if tool is None else request_item(event, *tool)

    def as_item(self) -> Item:
        return self._item

    def show(self) -> list[Emitted]:
        return [self._whole("added"), self._whole("done")]
