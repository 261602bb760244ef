"""Questions whose answers a program can check: calls of tools, arithmetic, JSON from a sentence.

The calls are the thirty everyday questions (everyday_questions.py); the others are generated from a
seed. A task's name goes along as `x-warmloop-task`, as an application would name its own.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.everyday_questions import QUESTIONS, TOOLS, Question

MAX_TOKENS = 192
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Checked:
    """One request, and whether an answer's message is right."""

    task: str
    body: dict[str, Any]
    right: Callable[[dict[str, Any]], bool]


def all_questions(seed: int = 7) -> list[Checked]:
    """The tasks one after the other."""
    chance = random.Random(seed)
    calls = [_call(question) for question in QUESTIONS]
    return [*calls, *(_sum(chance) for _ in range(8)), *(_extract(chance) for _ in range(8))]


def _body(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS, **fields}


def _call(question: Question) -> Checked:
    def right(message: dict[str, Any]) -> bool:
        calls = message.get("tool_calls") or []
        called = calls[0]["function"]["name"] if calls else None
        arguments = calls[0]["function"]["arguments"].lower() if calls else ""
        return called == question.tool and all(
            part in arguments for part in question.arguments.values()
        )

    return Checked("calls", _body(question.text, tools=TOOLS, tool_choice="auto"), right)


def _sum(chance: random.Random) -> Checked:
    a, b = chance.randint(12, 99), chance.randint(12, 99)
    asked = f"What is {a} + {b}? Answer with the number only."

    def right(message: dict[str, Any]) -> bool:
        return [a + b] == [int(n) for n in _NUMBER.findall(message.get("content") or "")]

    return Checked("sums", _body(asked), right)


def _extract(chance: random.Random) -> Checked:
    name = chance.choice(["Ana", "Boris", "Chen", "Dilara", "Emeka", "Freya"])
    thing = chance.choice(["lamps", "chairs", "kettles", "bells", "saddles"])
    count, city = chance.randint(2, 90), chance.choice(["Lisbon", "Oslo", "Graz", "Turin"])
    text = f"{name} from {city} ordered {count} {thing} on Tuesday, after asking for twelve."
    schema = {
        "type": "object",
        "properties": {
            "customer": {"type": "string", "maxLength": 40},
            "city": {"type": "string", "maxLength": 40},
            "item": {"type": "string", "maxLength": 40},
            "quantity": {"type": "integer"},
        },
        "required": ["customer", "city", "item", "quantity"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema}}
    asked = f"Extract the order as JSON with customer, city, item and quantity. {text}"
    wanted = {"customer": name, "city": city, "item": thing, "quantity": count}

    def right(message: dict[str, Any]) -> bool:
        try:
            return bool(json.loads(message.get("content") or "") == wanted)
        except ValueError:
            return False

    return Checked("orders", _body(asked, response_format=shape), right)
