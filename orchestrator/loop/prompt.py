"""The request that a conversation's state makes: byte-stable, and only ever growing.

    {"max_tokens":..,"messages":[ head , history ... ],"model":..,"tools":[..]}
                                  │      └ one piece for each event that the model sees, in order
                                  └ instructions and worked examples: the same for every
                                    conversation of an agent

Canonical JSON: sorted keys, no spaces, UTF-8, sorted tools (only schemas keep the order in which
they were written); no clock and no id near the front. An event is rendered once and its bytes are
appended, so the messages of every earlier turn are a prefix of a later one's, and a long history
costs nothing again. The engine's KV cache, the router's prefix chain and the tests compare these
bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from orchestrator.canonical import canonical
from orchestrator.loop.events import (
    Call,
    Compacted,
    HistoryImported,
    Item,
    ModelResult,
    Notice,
    ResponseAccepted,
    ToolResult,
)
from orchestrator.loop.mcp_calls import apart
from orchestrator.loop.state import Shown, replies
from serving import reply
from serving.errors import BadRequest

Message = dict[str, Any]

_as_given: Callable[[Any], bytes] = msgspec.json.Encoder().encode
"""Names in the order in which they were given: what a schema says first, a model writes first."""
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
PARTS = ("input_text", "output_text", "text")
LEFT_OUT = ("mcp_list_tools", "mcp_approval_request", "mcp_approval_response")
"""Items that a model does not see: no engine here takes them back."""
NOT_RUN = "not run: the reply ended the response"


LEFT = "Earlier messages of this conversation were left out here."


class Prompt:
    """The growing messages of one conversation, and the request around them.

    `head` is the agent's messages, joined with commas; `settings` are the other fields.
    """

    def __init__(self, head: bytes, settings: Mapping[str, Any], *, reply_tool: bool) -> None:
        self._reply_tool = reply_tool
        self._settings = dict(settings)
        self._messages = bytearray(head)
        self._head = head
        self._shown = 0
        self._first: Shown | None = None
        self._hash = hashlib.sha256(head)
        self._overrides: Mapping[str, Any] | None = None
        self._around = b"", b""

    def extend(self, history: Sequence[Shown]) -> None:
        """Render what `history` has beyond what was rendered before."""
        first = history[0] if history else None
        if first is not self._first:
            self._begin_again(first)
        for event in history[self._shown :]:
            for message in _messages_of_event(event, reply_tool=self._reply_tool):
                piece = canonical(message)
                if self._messages:
                    piece = b"," + piece
                self._messages += piece
                self._hash.update(piece)
        self._shown = len(history)

    def _begin_again(self, first: Shown | None) -> None:
        """A history with another beginning: nothing of the old one may stay."""
        self._first = first
        self._messages = bytearray(self._head)
        self._shown = 0
        self._hash = hashlib.sha256(self._head)

    def use(self, settings: Mapping[str, Any]) -> None:
        """From now on with these settings: the tools of its agent have changed."""
        if settings != self._settings:
            self._settings = dict(settings)
            self._overrides = None

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
            names = sorted(fields)
            before = {name: fields[name] for name in names if name < "messages"}
            after = {name: fields[name] for name in names if name > "messages"}
            opening = _as_given(before)[:-1] + (b"," if before else b"")
            self._around = opening + b'"messages":[', b"]," + _as_given(after)[1:]
        opening, closing = self._around
        return b"".join((opening, self._messages, closing))


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
        case Notice():
            return [notice_message(event)]
        case Compacted():
            return [compacted_message(event)]


def _answer(result: ModelResult) -> list[Message]:
    if not result.calls:
        said = {"role": "assistant", "content": result.text}
        return [_thought(said, result.reasoning)] if result.text else []
    if not replies(result):
        return [_thought(assistant_calls(result.calls, result.text), result.reasoning)]
    messages = [_thought(assistant_calls(result.calls, ""), result.reasoning)]
    for call in result.calls:
        # After a reply nothing runs, and every call needs its answer.
        if call.name != reply.REPLY:
            messages.append(tool_message(call.call_id, NOT_RUN))
        elif reply.ACKNOWLEDGED:
            messages.append(tool_message(call.call_id, reply.ACKNOWLEDGED))
    return messages


def _thought(message: Message, reasoning: str) -> Message:
    """The model's own reasoning goes back to its chat template, which knows what to show of it."""
    return {**message, "reasoning_content": reasoning} if reasoning else message


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


def compacted_message(event: Compacted) -> Message:
    """What stands in the place of turns that left the prompt."""
    if not event.text:
        return {"role": "system", "content": LEFT}
    return summary_message(event.text)


def summary_message(text: str) -> Message:
    """A model wrote the summary, of text that tools gave, too: it may not speak as we do."""
    return {"role": "user", "content": f"{LEFT} A summary of them:\n{text}"}


def notice_message(notice: Notice) -> Message:
    """What the loop says. A reminder quotes the user, and may not speak louder than the user."""
    role = "user" if notice.kind == "drift" else "system"
    return {"role": role, "content": notice.text}


def tool_message(call_id: str, output: str) -> Message:
    """What a call gave, as the model reads it."""
    return {"role": "tool", "tool_call_id": call_id, "content": output}


def messages_of(items: Sequence[Item], *, reply_tool: bool) -> list[Message]:
    """OpenAI Responses items as chat messages.

    What one turn said is one message, as the model made it: its reasoning, its text, its calls.
    Under `reply_tool` an assistant's message is written as the reply call that it was. Raises
    BadRequest naming the item.
    """
    messages: list[Message] = []
    reasoning = before = ""
    for index, item in enumerate(apart(items)):
        kind = item.get("type", "message")
        where = f"input[{index}]"
        count = len(messages)
        if kind == "message":
            messages += _message(item, where, reply_tool=reply_tool)
            kind = item.get("role", "")
        elif kind == "function_call":
            call = Call(*(_string(item, key, where) for key in ("call_id", "name", "arguments")))
            # Text and calls of one turn follow each other.
            if before == "function_call" or (before == "assistant" and not reply_tool):
                wanted = assistant_calls([call], "")["tool_calls"]
                messages[-1].setdefault("tool_calls", []).extend(wanted)
            else:
                messages.append(assistant_calls([call], ""))
        elif kind == "function_call_output":
            output = _text(item.get("output"), f"{where}.output")
            messages.append(tool_message(_string(item, "call_id", where), output))
        elif kind == "compaction":
            messages.append(summary_message(_string(item, "text", where)))
        elif kind == "reasoning":
            reasoning = _reasoning(item)
        elif kind not in LEFT_OUT:
            raise BadRequest(
                f"{where}.type: {kind!r} is not supported; "
                "use message, function_call or function_call_output",
                param=f"{where}.type",
            )
        if len(messages) > count:
            if messages[count]["role"] == "assistant":
                messages[count] = _thought(messages[count], reasoning)
            reasoning = ""
        before = kind
    return messages


def _reasoning(item: Item) -> str:
    return "".join(str(part.get("text", "")) for part in item.get("content") or ())


def _message(item: Item, where: str, *, reply_tool: bool) -> list[Message]:
    role = ROLES.get(item.get("role", ""))
    if role is None:
        raise BadRequest(
            f"{where}.role: {item.get('role')!r} is not a role; valid: {', '.join(ROLES)}",
            param=f"{where}.role",
        )
    content = item.get("content")
    if role == "user" and isinstance(content, list) and any(map(_is_image, content)):
        return [{"role": role, "content": [*map(_chat_part, content)]}]
    text = _text(content, f"{where}.content")
    if role != "assistant" or not reply_tool:
        return [{"role": role, "content": text}]
    call = Call(item.get("id") or f"call_{where}", reply.REPLY, reply.arguments_of(text))
    acknowledged = [tool_message(call.call_id, reply.ACKNOWLEDGED)] if reply.ACKNOWLEDGED else []
    return [assistant_calls([call], ""), *acknowledged]


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "input_image"


def _chat_part(part: Item) -> dict[str, Any]:
    """Text or a picture, as the chat API writes it."""
    if not _is_image(part):
        return {"type": "text", "text": part.get("text", "")}
    detail = part.get("detail") or "auto"
    return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": detail}}


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
