"""What the turns of a response took: OpenAI's `usage`, and the documented `warmloop` extension.

    "warmloop": {"turns": [{"step", "attempt", "model", "replica", "reason", ...}, ...],
                 "totals": {"turns", "tool_calls", "prompt_tokens", ..., "wasted_tokens"}}

A turn is listed when its answer is in the log; attempts that failed count as `wasted_tokens`.
Tokens are the engine's own counts, costs are US dollars by the stack's prices, times are seconds.
"""

from __future__ import annotations

from typing import Any

from orchestrator.loop.events import (
    AnyEvent,
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
    ToolIntent,
    ToolResult,
    Warmed,
)

SUMMED = (
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "seconds",
    "cost_usd",
    "uncached_cost_usd",
)


class TurnFacts:
    """Collects them from the log, in its order."""

    def __init__(self) -> None:
        self._turns: list[dict[str, Any]] = []
        self._intent: ModelIntent | None = None
        self._routed: ModelRouted | None = None
        self._tool_calls = 0
        self._tool_cost_usd = 0.0
        self._touches = 0
        self._touches_usd = 0.0
        self._wasted_tokens = 0
        self._reasoning_tokens = 0
        self._limit: LimitReached | None = None

    def note(self, event: AnyEvent) -> None:
        match event:
            case ModelIntent():
                self._intent, self._routed = event, None
            case ModelRouted():
                self._routed = event
            case ModelResult():
                self._turns.append(self._turn(event))
                self._reasoning_tokens += event.reasoning_tokens
            case ModelFailed():
                self._wasted_tokens += event.wasted_tokens
            case ToolIntent(attempt=1):
                self._tool_calls += 1
            case ToolResult():
                self._tool_cost_usd += event.cost_usd
            case Warmed():
                self._touches += 1
                self._touches_usd += event.cost_usd
            case LimitReached():
                self._limit = event
            case _:
                pass

    def _turn(self, result: ModelResult) -> dict[str, Any]:
        intent, routed = self._intent, self._routed
        return {
            "step": result.step,
            "attempt": result.attempt,
            "turn_type": intent.turn_type if intent else "",
            "model": routed.model if routed else "",
            "replica": routed.replica if routed else "",
            "reason": routed.reason if routed else "",
            "predicted_cached_tokens": routed.predicted_cached_tokens if routed else 0,
            "finish_reason": result.finish_reason,
            "stored_s": result.stored_s,
            "first_token_s": result.first_token_s,
            **{name: getattr(result, name) for name in SUMMED},
        }

    def usage(self) -> dict[str, Any] | None:
        """All turns together, as OpenAI counts a response whose tools the server ran."""
        if not self._turns:
            return None
        prompt = self._sum("prompt_tokens")
        output = self._sum("output_tokens")
        return {
            "input_tokens": prompt,
            # Engines of our own charge nothing for writing to their cache, and report no count.
            "input_tokens_details": {
                "cached_tokens": self._sum("cached_tokens"),
                "cache_write_tokens": 0,
            },
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": prompt + output,
        }

    def _sum(self, name: str) -> Any:
        return sum(turn[name] for turn in self._turns)

    def extension(self) -> dict[str, Any]:
        """The `warmloop` field."""
        totals = {name: self._sum(name) for name in SUMMED}
        if self._tool_cost_usd:
            totals["tool_cost_usd"] = self._tool_cost_usd
            totals["cost_usd"] += self._tool_cost_usd
            totals["uncached_cost_usd"] += self._tool_cost_usd
        if self._touches:
            totals["touches"] = self._touches
            totals["touches_cost_usd"] = self._touches_usd
            totals["cost_usd"] += self._touches_usd
        counts = {"turns": len(self._turns), "tool_calls": self._tool_calls}
        found: dict[str, Any] = {
            "turns": list(self._turns),
            "totals": {**counts, **totals, "wasted_tokens": self._wasted_tokens},
        }
        if self._limit is not None:
            limit = self._limit
            found["limit"] = {
                "kind": limit.kind,
                "value": limit.value,
                "limit": limit.limit,
                "scope": limit.scope,
                "answered": limit.answered,
            }
        return found
