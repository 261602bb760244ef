"""A whole answer to a turn with tools: read choice by choice, written again as it may be seen."""

from __future__ import annotations

import msgspec

from router.calls.forms import ChatForm, encode
from router.calls.plan import ToolPlan
from router.calls.reader import Arguments, Begin, End, Retry, Seen, Text, ToolReader
from router.calls.shapes import (
    CHAT_ANSWER,
    FROM_STOP_REASON,
    MESSAGE,
    TO_STOP_REASON,
    Json,
    Spent,
    add_spent,
    as_json,
    nonsense,
)


async def checked_whole(body: bytes, plan: ToolPlan, retry: Retry, spent: Spent) -> bytes:
    """A whole answer as the client may see it. Raises InvalidToolCall, UpstreamError."""
    chat = isinstance(plan.form, ChatForm)
    try:
        (CHAT_ANSWER if chat else MESSAGE).decode(body)
        answer = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise nonsense(error) from None
    if chat:
        for choice in answer["choices"]:
            await _whole_choice(choice, ToolReader(plan, retry, whole=True))
    else:
        await _whole_message(answer, ToolReader(plan, retry, whole=True))
    if isinstance(answer.get("usage"), dict):
        add_spent(answer["usage"], spent())
    return encode(answer)


async def _whole_choice(choice: Json, reader: ToolReader) -> None:
    message = choice["message"]
    seen = await reader.text(message.get("content") or "")
    for call in message.get("tool_calls") or ():
        function = call["function"]
        seen += await reader.call(call.get("id"), function["name"])
        seen += await reader.arguments(function.get("arguments") or "")
    seen += await reader.end(choice.get("finish_reason") or "stop")
    text, calls, reason = "", list[Json](), "stop"
    for each in seen:
        match each:
            case Text(piece):
                text += piece
            case Begin(_, call_id, name):
                function = {"name": name, "arguments": ""}
                calls.append({"id": call_id, "type": "function", "function": function})
            case Arguments(_, piece):
                calls[-1]["function"]["arguments"] += piece
            case End(reason):
                pass
    message["content"] = text or (None if calls or reason == "length" else "")
    message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = calls
    choice["finish_reason"] = reason


async def _whole_message(answer: Json, reader: ToolReader) -> None:
    blocks: list[Json] = []

    def show(seen: list[Seen]) -> None:
        for each in seen:
            match each:
                case Text(text):
                    if not blocks or blocks[-1]["type"] != "text":
                        blocks.append({"type": "text", "text": ""})
                    blocks[-1]["text"] += text
                case Begin(_, call_id, name):
                    blocks.append({"type": "tool_use", "id": call_id, "name": name})
                case Arguments(_, arguments):
                    blocks[-1]["input"] = msgspec.Raw(arguments.encode())
                case End(reason):
                    answer["stop_reason"] = TO_STOP_REASON.get(reason, reason)

    for block in answer["content"]:
        if block["type"] == "text":
            show(await reader.text(block.get("text") or ""))
        elif block["type"] == "tool_use":
            show(await reader.call(block.get("id"), block.get("name") or ""))
            show(await reader.arguments(as_json(block.get("input"))))
        else:
            show(await reader.settle())
            blocks.append(block)
    stopped = answer.get("stop_reason") or "end_turn"
    show(await reader.end(FROM_STOP_REASON.get(stopped, stopped)))
    answer["content"] = blocks
