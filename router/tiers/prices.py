"""What a session's next turns cost on each model, with what its engines hold of the session.

    first turn    uncached * fresh + cached * cached price + output * output price
    each later    the growth fresh, everything before it cached, its output

A model that has never seen the session computes its whole prefix once; that is the price of moving
there. A small model whose answers may be asked again of the frontier costs, beside its own, the
frontier's turn as often as that happens.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.config.model import Prices


@dataclass(frozen=True, slots=True)
class Quote:
    """What the router expects of a turn on one model, before it is sent."""

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, on the replica that would get the turn."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a session goes on: turns still expected, and what each adds."""

    turns: float
    """Including the one at hand."""
    output_tokens: float
    growth_tokens: float
    """New tokens of each prompt beyond the one before it: the answer, and what came back."""


def one_usd(prices: Prices, prompt: float, cached: float, output: float) -> float:
    """One turn; `prompt` includes `cached` (all in tokens)."""
    fresh = max(0.0, prompt - cached)
    return (fresh * prices.fresh + cached * prices.cached + output * prices.output) / 1e6


def steady_usd(prices: Prices, quote: Quote, course: Course) -> float:
    """A turn half-way through the rest of the session, its prefix warm."""
    later = max(0.0, course.turns - 1)
    grown = quote.prompt_tokens + course.growth_tokens * (later + 1) / 2
    cached = grown - course.growth_tokens
    return one_usd(prices, grown, cached, course.output_tokens)


def rest_usd(prices: Prices, quote: Quote, course: Course) -> float:
    """All expected turns of the session, this one first, on one model."""
    first = one_usd(prices, quote.prompt_tokens, quote.cached_tokens, course.output_tokens)
    return first + max(0.0, course.turns - 1) * steady_usd(prices, quote, course)


def with_escalations_usd(own_usd: float, other_usd: float, rate: float) -> float:
    """A small model's turns, of which a share is asked again of the other model."""
    return own_usd + rate * other_usd
