"""The request that a conversation's state makes: byte-stable, and only ever growing.

    {"max_tokens":..,"messages":[ head , history ... ],"model":..,"tools":[..]}
                                  │      └ one piece for each event that the model sees, in order
                                  └ instructions and worked examples: the same for every
                                    conversation of an agent

Canonical JSON throughout: sorted keys, no spaces, UTF-8, sorted tools; no clock and no id near the
front. An event is rendered once and its bytes are appended, so the messages of every earlier turn
are a prefix of a later one's, and a long history costs nothing again. The engine's KV cache, the
router's prefix chain and the tests compare these bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orchestrator.events import (
    Call,
    HistoryImported,
    Item,
    ModelResult,
    ResponseAccepted,
    ToolResult,
)
from orchestrator.state import Shown, replies
from serving import reply
from serving.errors import BadRequest

Message = dict[str, Any]

_canonical = msgspec.json.Encoder(order="sorted")
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
PARTS = ("input_text", "output_text", "text")
LEFT_OUT = ("reasoning", "mcp_approval_request", "mcp_approval_response")
"""Items that a model does not see: no engine here takes them back."""
NOT_RUN = "not run: the reply ended the response"


def canonical(value: Any) -> bytes:
    """Canonical JSON: one spelling for one value."""
    return _canonical.encode(value)


class Prompt:
    """The growing messages of one conversation, and the request around them.

    `head` is the agent's messages, joined with commas; `settings` are the other fields.
    """

    def __init__(self, head: bytes, settings: Mapping[str, Any], *, reply_tool: bool) -> None:
        self._reply_tool = reply_tool
        self._settings = dict(settings)
        self._messages = bytearray(head)
        self._shown = 0
        self._hash = hashlib.sha256(head)
        self._overrides: Mapping[str, Any] | None = None
        self._around = b"", b""

    def extend(self, history: Sequence[Shown]) -> None:
        """Render what `history` has beyond what was rendered before."""
        for event in history[self._shown :]:
            for message in _messages_of_event(event, reply_tool=self._reply_tool):
                piece = canonical(message)
                if self._messages:
                    piece = b"," + piece
                self._messages += piece
                self._hash.update(piece)
        self._shown = len(history)

    @property
    def messages(self) -> bytes:
        """The messages so far, without the brackets around them."""
        return bytes(self._messages)

    @property
    def sha256(self) -> str:
        """Hash of the messages, for the journal: equal hash, equal prompt."""
        return self._hash.hexdigest()

    def body(self, overrides: Mapping[str, Any]) -> bytes:
        """The request's body; `overrides` replace single settings for one response."""
        if overrides is not self._overrides:
            self._overrides = overrides
            fields = {**self._settings, **overrides}
            before = {name: value for name, value in fields.items() if name < "messages"}
            after = {name: value for name, value in fields.items() if name > "messages"}
            opening = canonical(before)[:-1] + (b"," if before else b"")
            self._around = opening + b'"messages":[', b"]," + canonical(after)[1:]
        opening, closing = self._around
        return b"".join((opening, self._messages, closing))


def overrides(settings: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """What a Responses request changes about an agent's model turns.

    Function tools that the client runs stand beside the agent's own, all sorted by name.
    """
    changed: dict[str, Any] = {}
    if request.get("max_output_tokens") is not None:
        changed["max_tokens"] = request["max_output_tokens"]
    for name in ("temperature", "top_p"):
        if request.get(name) is not None:
            changed[name] = request[name]
    if tools := request.get("tools"):
        both = [*settings.get("tools", ()), *map(_chat_tool, tools)]
        changed["tools"] = sorted(both, key=lambda each: str(each["function"]["name"]))
        if settings.get("tool_choice") != "required":  # a reply tool needs it
            changed["tool_choice"] = _chat_tool_choice(request.get("tool_choice") or "auto")
            changed["parallel_tool_calls"] = request.get("parallel_tool_calls") is not False
    return changed


def _chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function tool of the Responses API as the chat API writes it."""
    function = {
        name: tool[name] for name in ("name", "description", "parameters") if tool.get(name)
    }
    return {"type": "function", "function": {**function, "strict": True}}


def _chat_tool_choice(choice: Any) -> Any:
    if isinstance(choice, Mapping):
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _messages_of_event(event: Shown, *, reply_tool: bool) -> list[Message]:
    match event:
        case ModelResult():
            return _answer(event)
        case ToolResult():
            return [tool_message(event.call_id, event.output)]
        case ResponseAccepted():
            messages = messages_of(event.input, reply_tool=reply_tool)
            if instructions := event.request.get("instructions"):
                # In place, not at the front: the prefix that is cached must not change.
                messages.insert(0, {"role": "system", "content": instructions})
            return messages
        case HistoryImported():
            return messages_of(event.items, reply_tool=reply_tool)


def _answer(result: ModelResult) -> list[Message]:
    if not result.calls:
        return [{"role": "assistant", "content": result.text}] if result.text else []
    if not replies(result):
        return [assistant_calls(result.calls, result.text)]
    messages = [assistant_calls(result.calls, "")]
    for call in result.calls:
        # After a reply nothing runs, and every call needs its answer.
        if call.name != reply.REPLY:
            messages.append(tool_message(call.call_id, NOT_RUN))
        elif reply.ACKNOWLEDGED:
            messages.append(tool_message(call.call_id, reply.ACKNOWLEDGED))
    return messages


def assistant_calls(calls: Sequence[Call], text: str) -> Message:
    """The assistant's message that makes these calls, their arguments byte for byte."""
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ],
    }


def tool_message(call_id: str, output: str) -> Message:
    """What a call gave, as the model reads it."""
    return {"role": "tool", "tool_call_id": call_id, "content": output}


def messages_of(items: Sequence[Item], *, reply_tool: bool) -> list[Message]:
    """OpenAI Responses items as chat messages.

    Neighbouring function calls are one message, as the model made them. Under `reply_tool` an
    assistant's message is written as the reply call that it was. Raises BadRequest naming the item.
    """
    messages: list[Message] = []
    for index, item in enumerate(items):
        kind = item.get("type", "message")
        where = f"input[{index}]"
        if kind == "message":
            messages += _message(item, where, reply_tool=reply_tool)
        elif kind == "function_call":
            call = Call(*(_string(item, key, where) for key in ("call_id", "name", "arguments")))
            # Calls that one turn made together follow each other.
            if index and items[index - 1].get("type") == "function_call":
                messages[-1]["tool_calls"] += assistant_calls([call], "")["tool_calls"]
            else:
                messages.append(assistant_calls([call], ""))
        elif kind == "function_call_output":
            output = _text(item.get("output"), f"{where}.output")
            messages.append(tool_message(_string(item, "call_id", where), output))
        elif kind not in LEFT_OUT:
            raise BadRequest(
                f"{where}.type: {kind!r} is not supported; "
                "use message, function_call or function_call_output",
                param=f"{where}.type",
            )
    return messages


def _message(item: Item, where: str, *, reply_tool: bool) -> list[Message]:
    role = ROLES.get(item.get("role", ""))
    if role is None:
        raise BadRequest(
            f"{where}.role: {item.get('role')!r} is not a role; valid: {', '.join(ROLES)}",
            param=f"{where}.role",
        )
    text = _text(item.get("content"), f"{where}.content")
    if role != "assistant" or not reply_tool:
        return [{"role": role, "content": text}]
    call = Call(item.get("id") or f"call_{where}", reply.REPLY, reply.arguments_of(text))
    acknowledged = [tool_message(call.call_id, reply.ACKNOWLEDGED)] if reply.ACKNOWLEDGED else []
    return [assistant_calls([call], ""), *acknowledged]


def _string(item: Item, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"{where}.{key}: a string is needed", param=f"{where}.{key}")
    return value


def _text(content: Any, where: str) -> str:
    """A string, or the text of a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"{where}: a string or a list of text parts is needed", param=where)
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in PARTS:
            kind = part.get("type") if isinstance(part, dict) else part
            raise BadRequest(
                f"{where}[{index}]: {kind!r} is not supported; only text can be given",
                param=f"{where}[{index}]",
            )
        texts.append(_string(part, "text", f"{where}[{index}]"))
    return "".join(texts)
