"""How far a response may go: pure checks of what was used against the agent's limits.

Everything that is counted comes from the log (tokens and costs from ModelResult, the time from
ResponseAccepted), so a restart neither resets a budget nor forgives one.

    before anything     seconds, tokens, cost
    before a model turn turns
    before tool calls   tool_calls, same_call (the breaker for a model that repeats itself)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.events import Call, LimitReached
from serving.config import AgentLimits


@dataclass(slots=True)
class Spent:
    """What one response has used so far. Tokens as engines reported them; `since` is Unix time."""

    since: float
    turns: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    cost_usd: float = 0.0
    uncached_cost_usd: float = 0.0
    repeats: int = 0
    """How many times in a row the newest call was made."""
    last_calls: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def count_calls(self, calls: list[Call]) -> None:
        """Note the calls of one turn.

        Turns that ask for the same set of calls again are repetitions, and so are equal calls
        within one turn.
        """
        asked = frozenset((call.name, call.arguments) for call in calls)
        times = len(calls) // len(asked)
        self.repeats = self.repeats + times if asked == self.last_calls else times
        self.last_calls = asked


def overall(spent: Spent, limits: AgentLimits, now: float) -> LimitReached | None:
    """The limits that hold at any time."""
    seconds = now - spent.since
    if seconds >= limits.max_seconds:
        return LimitReached("seconds", round(seconds, 3), limits.max_seconds, now)
    tokens = spent.prompt_tokens + spent.output_tokens
    if tokens >= limits.max_tokens:
        return LimitReached("tokens", tokens, limits.max_tokens, now)
    if limits.max_cost_usd is not None and spent.cost_usd >= limits.max_cost_usd:
        return LimitReached("cost", spent.cost_usd, limits.max_cost_usd, now)
    return None


def before_model(spent: Spent, limits: AgentLimits, now: float) -> LimitReached | None:
    """May the model be asked once more?"""
    if spent.turns >= limits.max_turns:
        return LimitReached("turns", spent.turns, limits.max_turns, now)
    return None


def before_tools(
    spent: Spent, waiting: int, limits: AgentLimits, now: float
) -> LimitReached | None:
    """May `waiting` more calls run? All or none: half a turn's calls are of no use to a model."""
    if spent.repeats >= limits.same_call:
        return LimitReached("same_call", spent.repeats, limits.same_call, now)
    if spent.tool_calls + waiting > limits.max_tool_calls:
        return LimitReached("tool_calls", spent.tool_calls + waiting, limits.max_tool_calls, now)
    return None


def deadline(spent: Spent, limits: AgentLimits) -> float:
    """When the response runs out of time, in Unix seconds."""
    return spent.since + limits.max_seconds


REASONS = {
    "turns": ("max_turns", "the limit of {limit:g} model turns is reached"),
    "tool_calls": ("max_tool_calls", "{value:g} tool calls are more than the limit of {limit:g}"),
    "tokens": ("max_tokens", "{value:g} tokens are used, the limit is {limit:g}"),
    "seconds": ("max_seconds", "{value:g} s have passed, the limit is {limit:g}"),
    "cost": ("max_cost_usd", "${value:g} is spent, the limit is ${limit:g}"),
    "same_call": ("same_call", "the same call was made {value:g} times in a row"),
}
"""Limit → the response's reason code, and a sentence."""


def explain(reached: LimitReached) -> tuple[str, str]:
    """Reason code and sentence for a limit."""
    code, sentence = REASONS[reached.kind]
    return code, sentence.format(value=reached.value, limit=reached.limit)
