"""How tools are written in a request, in each of the two forms that have them.

    ChatForm       /v1/chat/completions    tools[].function.parameters, tool_choice "required", ...
    MessagesForm   /v1/messages            tools[].input_schema, tool_choice {"type": "any"}, ...

A form reads tools and choice into plain values, and writes what the engine gets: tools with their
registered schemas, another choice, an answer's text as the `reply` call that it was, and the
question to call once more after a call that did not fit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from serving.errors import BadRequest
from serving.protocol import CHAT, MESSAGES, role_of
from serving.reply import DEFINITION, REPLY, arguments_of

Mode = Literal["auto", "required", "named", "none"]
Json = dict[str, Any]

REPLY_FUNCTION: Json = {k: v for k, v in DEFINITION["function"].items() if k != "strict"}

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Choice:
    """What the client asked for: the mode, and the tool's name where it is `named`."""

    mode: Mode
    name: str = ""
    parallel: bool = True
    """Whether one answer may hold several calls, as far as `tool_choice` says it."""

    def allows(self, name: str) -> bool:
        """Whether the model may call this tool."""
        return self.mode != "none" and (self.mode != "named" or name == self.name)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One function tool of a request, and where it stands, for messages."""

    name: Any
    schema: Any
    where: str
    """Of its schema, e.g. `tools[2].function.parameters`."""


class Form(Protocol):
    """One of the two; without state."""

    def tools(self, listed: Sequence[Any]) -> dict[int, ToolSpec]:
        """The function tools by their place; others (an engine's own) are left out."""

    def write_tools(
        self, listed: Sequence[Any], schemas: Mapping[int, Json], *, reply: bool, strict: bool
    ) -> bytes:
        """The list with registered schemas, and the reply tool at its end; `strict` for engines
        that must be told to hold arguments to their schemas."""

    def choice(self, raw: Any) -> Choice | None:
        """What `tool_choice` says; None for what we do not know, which the engine may.

        Raises BadRequest for what nobody can know.
        """

    def write_choice(self, choice: Choice) -> bytes: ...

    def reply_of(self, message: msgspec.Raw, place: int) -> bytes | None:
        """An assistant's message of text alone as the reply call that it was; else None."""

    def again(self, fields: dict[str, msgspec.Raw], call: Call, complaint: str) -> Json:
        """The fields that turn a request into the question to make this call once more."""

    def called(self, answer: Any, name: str) -> str | None:
        """The arguments of the first call of this tool in a whole answer, as JSON."""

    def new_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the model made it."""

    call_id: str
    name: str
    arguments: str


def form_of(path: str) -> Form | None:
    return _FORMS.get(path)


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    tool_calls: Any = None


_message = msgspec.json.Decoder(_Message)


def _text_alone(message: msgspec.Raw) -> str | None:
    """The text of an assistant's message that holds nothing else."""
    if role_of(message) != "assistant":
        return None
    try:
        read = _message.decode(message)
    except (ValueError, RecursionError):
        return None  # the engine will say it
    content = [] if read.tool_calls else read.content
    if isinstance(content, str):
        return content or None
    parts = content if isinstance(content, list) else []
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return None
    return "".join(str(part.get("text", "")) for part in parts) or None


def _plus(messages: msgspec.Raw, *more: Json) -> msgspec.Raw:
    """The list of messages with more at its end, the old ones byte for byte."""
    body = bytes(messages).rstrip()[:-1].rstrip()
    comma = b"" if body.endswith(b"[") else b","
    return msgspec.Raw(body + comma + b",".join(map(encode, more)) + b"]")


class ChatForm:
    """OpenAI's Chat Completions."""

    def tools(self, listed: Sequence[Any]) -> dict[int, ToolSpec]:
        found = {}
        for i, tool in enumerate(listed):
            if not isinstance(tool, dict):
                raise _not_a_tool(i)
            if (tool.get("type") or "function") != "function":
                continue
            function = tool.get("function")
            if not isinstance(function, dict):
                raise _not_a_tool(i)
            where = f"tools[{i}].function.parameters"
            found[i] = ToolSpec(function.get("name"), function.get("parameters"), where)
        return found

    def write_tools(
        self, listed: Sequence[Any], schemas: Mapping[int, Json], *, reply: bool, strict: bool
    ) -> bytes:
        told = {"strict": True} if strict else {}
        written = []
        for i, tool in enumerate(listed):
            if i in schemas:
                function = {**tool["function"], "parameters": schemas[i], **told}
                tool = {**tool, "type": "function", "function": function}  # noqa: PLW2901
            written.append(tool)
        if reply:
            written.append({"type": "function", "function": {**REPLY_FUNCTION, **told}})
        return encode(written)

    def choice(self, raw: Any) -> Choice | None:
        if raw is None:
            return Choice("auto")
        if raw in ("auto", "required", "none"):
            return Choice(raw)
        if isinstance(raw, dict) and raw.get("type") == "function":
            function = raw.get("function")
            name = function.get("name") if isinstance(function, dict) else None
            if isinstance(name, str):
                return Choice("named", name)
        elif isinstance(raw, dict) and isinstance(raw.get("type"), str):
            return None
        raise _not_a_choice(raw, '{"type": "function", "function": {"name": ...}}, "required"')

    def write_choice(self, choice: Choice) -> bytes:
        if choice.mode != "named":
            return encode(choice.mode)
        return encode({"type": "function", "function": {"name": choice.name}})

    def reply_of(self, message: msgspec.Raw, place: int) -> bytes | None:
        text = _text_alone(message)
        if text is None:
            return None
        call = Call(f"reply_{place}", REPLY, arguments_of(text))
        return encode(_chat_call(call))

    def again(self, fields: dict[str, msgspec.Raw], call: Call, complaint: str) -> Json:
        told = {"role": "tool", "tool_call_id": call.call_id, "content": complaint}
        made = Call(call.call_id, call.name, encode(_object(call.arguments)).decode())
        return {
            "messages": _plus(fields["messages"], _chat_call(made), told),
            "tool_choice": msgspec.Raw(self.write_choice(Choice("named", call.name))),
            "stream": False,
            "stream_options": None,
            "n": None,
            # Of a beginning that the model was to continue: there is a call after it now.
            "continue_final_message": None,
            "add_generation_prompt": None,
        }

    def called(self, answer: Any, name: str) -> str | None:
        try:
            functions = [
                call["function"] for call in answer["choices"][0]["message"]["tool_calls"] or ()
            ]
            arguments = next(f["arguments"] for f in functions if f["name"] == name)
        except (KeyError, IndexError, TypeError, StopIteration):
            return None
        return arguments if isinstance(arguments, str) else None

    def new_id(self) -> str:
        return "call_" + os.urandom(12).hex()


class MessagesForm:
    """Anthropic's Messages."""

    def tools(self, listed: Sequence[Any]) -> dict[int, ToolSpec]:
        found = {}
        for i, tool in enumerate(listed):
            if not isinstance(tool, dict):
                raise _not_a_tool(i)
            if tool.get("type") not in (None, "custom"):
                continue
            where = f"tools[{i}].input_schema"
            found[i] = ToolSpec(tool.get("name"), tool.get("input_schema"), where)
        return found

    def write_tools(
        self, listed: Sequence[Any], schemas: Mapping[int, Json], *, reply: bool, strict: bool
    ) -> bytes:
        told = {"strict": True} if strict else {}
        written = [
            {**tool, "input_schema": schemas[i], **told} if i in schemas else tool
            for i, tool in enumerate(listed)
        ]
        if reply:
            own = {**REPLY_FUNCTION, "input_schema": REPLY_FUNCTION["parameters"], **told}
            del own["parameters"]
            written.append(own)
        return encode(written)

    def choice(self, raw: Any) -> Choice | None:
        if raw is None:
            return Choice("auto")
        kind = raw.get("type") if isinstance(raw, dict) else None
        modes: dict[str, Mode] = {
            "auto": "auto",
            "any": "required",
            "none": "none",
            "tool": "named",
        }
        if not isinstance(kind, str) or kind not in modes:
            raise _not_a_choice(raw, '{"type": "tool", "name": ...}, {"type": "any"}')
        name = raw.get("name") if kind == "tool" else ""
        if not isinstance(name, str):
            raise _not_a_choice(raw, '{"type": "tool", "name": ...}')
        return Choice(modes[kind], name, raw.get("disable_parallel_tool_use") is not True)

    def write_choice(self, choice: Choice) -> bytes:
        if choice.mode == "named":
            return encode({"type": "tool", "name": choice.name})
        return encode({"type": "any" if choice.mode == "required" else choice.mode})

    def reply_of(self, message: msgspec.Raw, place: int) -> bytes | None:
        text = _text_alone(message)
        if text is None:
            return None
        block = {
            "type": "tool_use",
            "id": f"reply_{place}",
            "name": REPLY,
            "input": {"text": text},
        }
        return encode({"role": "assistant", "content": [block]})

    def again(self, fields: dict[str, msgspec.Raw], call: Call, complaint: str) -> Json:
        given = _object(call.arguments)
        made = {"type": "tool_use", "id": call.call_id, "name": call.name, "input": given}
        told = {
            "type": "tool_result",
            "tool_use_id": call.call_id,
            "content": complaint,
            "is_error": True,
        }
        return {
            "messages": _plus(
                fields["messages"],
                {"role": "assistant", "content": [made]},
                {"role": "user", "content": [told]},
            ),
            "tool_choice": msgspec.Raw(self.write_choice(Choice("named", call.name))),
            "stream": False,
        }

    def called(self, answer: Any, name: str) -> str | None:
        blocks = answer.get("content") if isinstance(answer, dict) else None
        for block in blocks if isinstance(blocks, list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_use":
                if block.get("name") != name:
                    continue
                return encode(block.get("input")).decode()
        return None

    def new_id(self) -> str:
        return "toolu_" + os.urandom(12).hex()


def _chat_call(call: Call) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    calls = [{"id": call.call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _object(arguments: str) -> Json:
    """Arguments for an engine's template, which takes objects only: what is none is left out."""
    try:
        given = msgspec.json.decode(arguments)
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _not_a_choice(raw: Any, known: str) -> BadRequest:
    said = encode(raw).decode()[:80]
    return BadRequest(
        f"tool_choice: {said} is none; send {known}, or leave it out", param="tool_choice"
    )


def _not_a_tool(place: int) -> BadRequest:
    return BadRequest(
        f"tools[{place}]: is not a tool; send an object with its type, name and schema",
        param=f"tools[{place}]",
    )


_FORMS: dict[str, Form] = {CHAT: ChatForm(), MESSAGES: MessagesForm()}
