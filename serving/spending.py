"""What was used of engines and tools: the five amounts in which every budget is counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Spending:
    """A sum of turns. Tokens are prompt and output, as engines reported them; seconds are those
    of model turns."""

    turns: int = 0
    tool_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0

    @property
    def amounts(self) -> tuple[int, int, int, float, float]:
        """In the order above."""
        return self.turns, self.tool_calls, self.tokens, self.seconds, self.cost_usd

    def plus(self, other: Spending) -> None:
        """Take the other one in."""
        self.turns += other.turns
        self.tool_calls += other.tool_calls
        self.tokens += other.tokens
        self.seconds += other.seconds
        self.cost_usd += other.cost_usd
