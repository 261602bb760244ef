"""The built-in `reply` tool: how a model answers under `tool_choice: required`.

Models that were never trained on a parser's tags write pseudo-calls as text. Required calls plus
a `reply(text)` tool leave no room for that. All that is special about the tool is on this page:
its definition, what counts as a reply, and how one is written into later prompts.
"""

from __future__ import annotations

from typing import Any

import msgspec

REPLY = "reply"
"""Its name; no other tool may have it."""

MAX_CHARACTERS = 4000
"""Of an answer: without a bound a model that lost its thread writes until its tokens are spent."""

DEFINITION: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": REPLY,
        "description": "Give the final answer to the user.",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "the answer", "maxLength": MAX_CHARACTERS}
            },
            "required": ["text"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}

ACKNOWLEDGED = "delivered"
"""What later prompts show as the reply call's result; an empty string shows none."""

REFUSED = 'error: reply needs exactly one argument, "text", a string that is not empty'
"""What the model is told about a reply that cannot be used."""


class _Arguments(msgspec.Struct, forbid_unknown_fields=True):
    text: str


_decoder = msgspec.json.Decoder(_Arguments)


def text_of(arguments: str) -> str | None:
    """The text of a reply call; None when the arguments are not a reply."""
    try:
        return _decoder.decode(arguments).text or None
    except (msgspec.DecodeError, UnicodeError):
        return None


def arguments_of(text: str) -> str:
    """The arguments of the call that says `text`, for answers that are known only as text."""
    return msgspec.json.encode({"text": text}).decode()
