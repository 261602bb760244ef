"""Tasks for real engines: an assistant with a long handbook and ten tools, asked 15 things.

What is asked are the everyday questions, each with its right call, so that every turn is checked by
code. A conversation goes on as if each answer had been the right one: a wrong one would make
prompts of different lengths, and the ways could not be compared turn by turn. Results of tools are
some hundreds of bytes of JSON; compression shows them as an agent with a low `tool_result_bytes`
would.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.everyday_questions import QUESTIONS, TOOLS, Question
from orchestrator.tools.toolbox import clip

MAX_TOKENS = 96
SHOWN_BYTES = 256
"""Of a result, when it is cut: the least that `limits.tool_result_bytes` may be."""
_TOPICS = ("weather", "sums", "letters", "dates", "timers", "languages", "money", "meals", "songs")
_ADVICE = (
    "say what you know and no more",
    "keep to one call at a time",
    "take the words of the person as they are",
    "never guess a number that was not said",
    "be short and polite",
    "write names as they were written",
)


@dataclass(frozen=True)
class Asked:
    """One turn: the conversation up to its question, and the question."""

    messages: tuple[dict[str, Any], ...]
    question: Question

    def body(self, model: str, salt: str) -> dict[str, Any]:
        """A request. Two salts share nothing in an engine's cache."""
        return {
            "model": model,
            "messages": list(self.messages),
            "tools": TOOLS,
            "tool_choice": "auto",
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "cache_salt": salt,
        }

    def right(self, message: dict[str, Any]) -> bool:
        """Whether an answer has the right call with the right arguments, or none where none is."""
        calls = message.get("tool_calls") or []
        if not calls:
            return self.question.tool is None and bool(message.get("content"))
        called = calls[0]["function"]
        wanted = self.question.arguments.values()
        written = called["arguments"].lower()
        return called["name"] == self.question.tool and all(part in written for part in wanted)


def handbook(rules: int) -> str:
    """The stable head: the same text each time, some twenty tokens a rule."""
    lines = [
        "You are the assistant of a small office. You have tools, and this handbook. Where no tool "
        "helps, answer in one short sentence."
    ]
    for n in range(rules):
        topic, advice = _TOPICS[n % len(_TOPICS)], _ADVICE[(n // len(_TOPICS)) % len(_ADVICE)]
        lines.append(f"Rule {n + 1}: when somebody asks about {topic}, {advice}.")
    return "\n".join(lines)


def tasks(count: int, turns: int, rules: int, *, cut: bool) -> list[list[Asked]]:
    """So many conversations of so many turns; each question is asked once in all of them."""
    most = len(QUESTIONS) // turns if turns else 0
    if not 1 <= count <= most:
        raise ValueError(f"{count} tasks of {turns} turns: there are {len(QUESTIONS)} questions")
    return [_conversation(QUESTIONS[n :: len(QUESTIONS) // turns][:turns], rules, cut=cut)
            for n in range(count)]  # fmt: skip


def _conversation(questions: Sequence[Question], rules: int, *, cut: bool) -> list[Asked]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": handbook(rules)}]
    made = []
    for n, question in enumerate(questions):
        messages.append({"role": "user", "content": question.text})
        made.append(Asked(tuple(messages), question))
        if question.tool is None:
            messages.append({"role": "assistant", "content": "Gladly. Is there anything else?"})
            continue
        call = {"name": question.tool, "arguments": json.dumps(dict(question.arguments))}
        handle = f"call_{n}"
        messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": handle, "type": "function", "function": call}],
            }
        )
        result = _result(question)
        shown = clip(result, SHOWN_BYTES, handle) if cut else result
        messages.append({"role": "tool", "tool_call_id": handle, "content": shown})
    return made


def _result(question: Question) -> str:
    """What the tool brought: a few records, the same each time."""
    rng = random.Random(question.text)
    records = [
        {
            "id": rng.randrange(10_000, 99_999),
            "source": rng.choice(["north", "south", "east", "west"]),
            "value": round(rng.uniform(1, 500), 2),
            "checked": rng.random() < 0.5,
            "note": " ".join(rng.choice(_ADVICE).split()[:4]),
        }
        for _ in range(4)
    ]
    return json.dumps({"tool": question.tool, "ok": True, "records": records})
