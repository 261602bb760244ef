"""What an operator sees of agents' work: responses with their cost and time, and their tools.

    warmloop_responses_total{agent, status}       ended, in this process
    warmloop_response_seconds{agent}              from its acceptance to its end
    warmloop_response_usd{agent}                  what it cost: turns, tools, agents that it asked
    warmloop_response_uncached_usd_total{agent}   ... and would have cost without a cache
    warmloop_tool_seconds{agent, outcome}         calls that ran
    warmloop_touches_total{agent, outcome}        prompts read again in a pause: `warm`, the engine
                                                  had them still; `cold`; `refused`, there was no
                                                  time to spare; `failed`; `cut`, the pause ended
    warmloop_touch_tokens_total{agent, kind}      ... `cached` and `computed` tokens of them
    warmloop_touch_usd_total{agent}               ... and what they cost

`agent` is the name of a configured agent; empty for a bare model, of whose names (adapters among
them) there can be many, and for an agent that is not configured any more. An end is counted once
it is durable. The cost of an agent that another one asks is in both: sum `warmloop_usd_total`.
"""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry

from orchestrator.agents import Agent
from orchestrator.loop.budgets import Spent
from orchestrator.loop.events import Warmed
from router.tallies import Counts, Spreads

_RESPONSE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_RESPONSE_USD = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5
)  # fmt: skip
WARM_SHARE = 0.7
"""Of a prompt that was found in the cache, for it to count as warm."""
_TOOL_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class RunMetrics:
    """`registry` is the front door's."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._ended = Counts(
            "warmloop_responses", "Responses that ended, by agent and status", ("agent", "status")
        )
        self._seconds = Spreads(
            "warmloop_response_seconds",
            "From a response's acceptance to its end",
            ("agent",),
            _RESPONSE_S,
        )
        self._usd = Spreads(
            "warmloop_response_usd",
            "US dollars that a response cost, with its tools and the agents that it asked",
            ("agent",),
            _RESPONSE_USD,
        )
        self._uncached_usd = Counts(
            "warmloop_response_uncached_usd",
            "US dollars that responses' own turns would have cost without a cache",
            ("agent",),
        )
        self._tools = Spreads(
            "warmloop_tool_seconds",
            "How long calls ran, by agent and outcome",
            ("agent", "outcome"),
            _TOOL_S,
        )
        self._touches = Counts(
            "warmloop_touches", "Prompts read again in a pause", ("agent", "outcome")
        )
        self._touch_tokens = Counts(
            "warmloop_touch_tokens",
            "Tokens of prompts read again in a pause: cached, and computed",
            ("agent", "kind"),
        )
        self._touch_usd = Counts(
            "warmloop_touch_usd", "US dollars of prompts read again in a pause", ("agent",)
        )
        registry = registry or CollectorRegistry()
        for each in (
            self._ended,
            self._seconds,
            self._usd,
            self._uncached_usd,
            self._tools,
            self._touches,
            self._touch_tokens,
            self._touch_usd,
        ):
            registry.register(each)

    def ended(self, agent: Agent | None, status: str, spent: Spent, seconds: float) -> None:
        """A response has ended, and the log knows."""
        name = _name(agent)
        self._ended.add((name, status))
        self._seconds.of((name,)).observe(seconds)
        self._usd.of((name,)).observe(spent.cost_usd)
        self._uncached_usd.add((name,), spent.uncached_cost_usd)

    def called(self, agent: Agent, outcome: str, seconds: float) -> None:
        """A call of a tool has run."""
        self._tools.of((_name(agent), outcome)).observe(seconds)

    def touched(self, agent: Agent, event: Warmed) -> None:
        """A prompt was read again."""
        name, cached = _name(agent), event.cached_tokens
        outcome = "warm" if cached >= WARM_SHARE * event.prompt_tokens else "cold"
        self._touches.add((name, outcome))
        self._touch_tokens.add((name, "cached"), cached)
        self._touch_tokens.add((name, "computed"), event.prompt_tokens - cached)
        self._touch_usd.add((name,), event.cost_usd)

    def not_touched(self, agent: Agent, outcome: Literal["refused", "failed", "cut"]) -> None:
        """... or was to be."""
        self._touches.add((_name(agent), outcome))


def _name(agent: Agent | None) -> str:
    return "" if agent is None or agent.version is None else agent.name
