"""What came of one task that was asked once: what it took, how it failed, read from the responses.

A response of the stack says in `usage` what OpenAI's say, and in `warmloop` which model took each
turn and what it cost; of another server's, costs stay unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.agents_tasks import Verdict

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """How far one attempt may go."""

    turns: int = 12
    seconds: float = 600.0
    output_tokens: int = 512
    """Of one turn."""


@dataclass(frozen=True)
class Attempt:
    """What came of one task, asked once. Tokens as the stack's engines counted them."""

    model: str
    task: str
    kind: str
    round: int
    fingerprint: str
    error: str
    """Its kind; empty: the task was solved."""
    why: str
    turns: int
    tool_calls: int
    tool_errors: int
    fresh: int
    cached: int
    output: int
    cost_usd: float | None
    """None where the server names no costs."""
    seconds: float
    answered_by: Mapping[str, int]
    """Turns by the model that took them."""
    conversation: str

    @property
    def solved(self) -> bool:
        return not self.error


class GaveUp(Exception):
    """An attempt that ended without an answer to judge."""

    def __init__(self, error: str, why: str) -> None:
        super().__init__(error)
        self.verdict = Verdict(error, why[:300])


@dataclass(slots=True)
class Spent:
    """What an attempt has taken so far."""

    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    fresh: int = 0
    cached: int = 0
    output: int = 0
    cost_usd: float | None = None
    answered_by: dict[str, int] = field(default_factory=dict)
    conversation: str = ""
    responses: list[str] = field(default_factory=list)
    steps: list[Item] = field(default_factory=list)
    """What was called, what the tools told, what was said: for whoever reads how it failed."""

    def note(self, response: Mapping[str, Any]) -> None:
        """One response more."""
        usage = response.get("usage") or {}
        cached = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
        self.fresh += usage.get("input_tokens", 0) - cached
        self.cached += cached
        self.output += usage.get("output_tokens", 0)
        self.responses.append(response["id"])
        self.conversation = (response.get("conversation") or {}).get("id", self.conversation)
        ours = response.get("warmloop") or {}
        turns = ours.get("turns", [{"model": response.get("model", "")}])
        self.turns += len(turns)
        for turn in turns:
            self.answered_by[turn["model"]] = self.answered_by.get(turn["model"], 0) + 1
        cost = (ours.get("totals") or {}).get("cost_usd")
        if cost is not None:
            self.cost_usd = (self.cost_usd or 0.0) + cost


def refused_by_stack(item: Item) -> bool:
    """Is what the stack itself told the model of a call a refusal?"""
    return str(item.get("output", "")).startswith('{"error_code"')


def ended_well(response: Mapping[str, Any]) -> None:
    """Raises GaveUp where the stack says that the response did not."""
    status = response.get("status")
    if status == "failed":
        error = response.get("error") or {}
        raise GaveUp(f"failed: {error.get('type') or error.get('code')}", error.get("message", ""))
    if status != "completed":
        details = response.get("incomplete_details") or {}
        raise GaveUp(f"{status}: {details.get('reason')}", details.get("message") or "")


def text_of(output: Sequence[Item]) -> str:
    """What the response says in words."""
    parts = (part for item in output if item["type"] == "message" for part in item["content"])
    return "".join(part["text"] for part in parts if part["type"] == "output_text")
