"""Plans and requests for the tests of the tool-call layer."""

from __future__ import annotations

import json
from typing import Any

from router.calls.plan import ToolPlan, ToolPlans
from serving.config.model import ModelConfig
from serving.config.router import ToolsConfig
from serving.protocol import CHAT, MESSAGES, parse

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 100}},
    "required": ["city"],
    "additionalProperties": False,
}
"""Wholly held by the grammar."""
PICK = {
    "type": "object",
    "properties": {
        "numbers": {
            "type": "array",
            "items": {"type": "integer"},
            "uniqueItems": True,
            "maxItems": 4,
        }
    },
    "required": ["numbers"],
    "additionalProperties": False,
}
"""Held by the grammar but for what is checked after."""
TOOLS: dict[str, Any] = {"weather": WEATHER, "pick": PICK, "now": None}


def chat_tools(*names: str) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": name, "parameters": TOOLS[name]}}
        for name in names or TOOLS
    ]


def messages_tools(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "input_schema": TOOLS[name]} for name in names or TOOLS]


def tools_for(path: str) -> list[dict[str, Any]]:
    return chat_tools() if path == CHAT else messages_tools()


def model(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {"engine": "external", "tier": "small", "urls": ["http://127.0.0.1:9"], **fields}
    )


GUARDED = {"tool_parser": "warmloop_hermes"}
REPLIES = {"tool_parser": "warmloop_hermes", "auto_text": "reply"}


def body(path: str = CHAT, **fields: Any) -> bytes:
    base = {
        "model": "big",
        "messages": [{"role": "user", "content": "hello"}],
        "tools": tools_for(path),
    }
    return json.dumps({**base, **fields}, ensure_ascii=False).encode()


def plan(
    path: str = CHAT,
    of: dict[str, Any] | None = None,
    knobs: ToolsConfig | None = None,
    **fields: Any,
) -> ToolPlan:
    found = ToolPlans(knobs or ToolsConfig()).plan(
        path, parse(path, body(path, **fields)), model(**(of or {}))
    )
    assert found is not None
    return found


__all__ = ["CHAT", "GUARDED", "MESSAGES", "REPLIES"]
