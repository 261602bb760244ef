"""Small or frontier? Pure decisions from history, prices and where the session is now.

A quality floor is a promise over an agent's turns, not over each of them: the cheapest way to keep
it is to send those kinds to the frontier where it is better by most for its price. `keep_floor`
finds how far that goes: which kinds may be small, and, as a price, the US dollars that one more
right answer may cost. With that price, quality and money are one currency, and the decisions that
the floor leaves open are comparisons of two sums:

    value of a model = worth * success rate * turns - their price, with its cache as it is now

A session's main chain begins where the value is greater; once it has a model it moves only when the
gain clears a margin. Where too little is known to be sure of the floor, the frontier has the turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from router.tiers.history import Belief, Kind, Standing
from router.tiers.prices import (
    Course,
    Quote,
    one_usd,
    rest_usd,
    steady_usd,
    with_escalations_usd,
)
from serving.config.model import Prices
from serving.config.router import TiersConfig
from serving.tables.base import Tier


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of turn in the balance of its scope."""

    kind: Kind
    weight: float
    small: Belief
    frontier: Belief
    dearer_usd: float
    """What the frontier costs more, each turn."""


@dataclass(frozen=True, slots=True)
class Floor:
    """How a scope keeps its floor at the least cost."""

    small: frozenset[Kind] = frozenset()
    """Kinds that the small model may have; none where too little is known to be sure."""
    worth_usd: float = 0.0
    """What one more right answer may cost; 0 where small alone keeps the floor."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could take the turn."""

    prices: Prices
    quote: Quote


@dataclass(frozen=True, slots=True)
class Case:
    """All that a decision is made of. `candidates` are ready ones, at most one a tier."""

    side: bool
    """A side turn, on a prompt of its own."""
    standing: Standing
    candidates: Mapping[Tier, Candidate]
    current: Tier | None
    """Where the session's main chain is; None where it begins."""
    course: Course
    checkable: bool
    """A small answer can be looked at, and asked again, before anybody sees it."""
    floor: Floor
    spent_usd: float
    """By the session, so far."""
    explores: bool = False
    """Chance has picked this session to try the small model."""
    trying: bool = False
    """It was picked before: only an escalation or a price moves it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The tier, why in one stable word, and the figures."""

    tier: Tier
    why: str = ""
    prices_usd: Mapping[Tier, float] = field(default_factory=dict)
    gain_usd: float | None = None
    """Of a change of the chain's model."""
    refused: bool = False
    """The budget is used up, and there is nothing cheaper."""


def rows(standings: Iterable[Standing], small: Prices, frontier: Prices) -> list[Row]:
    """The balance of a scope, at these prices."""
    found = []
    for each in standings:
        if not each.turns:
            continue
        tokens = (each.prompt_tokens, each.cached_tokens, each.output_tokens)
        if not each.measured:
            tokens = (1.0, 0.0, 0.0)  # only the ratio to others of the scope is lost
        dear, cheap = one_usd(frontier, *tokens), one_usd(small, *tokens)
        belief = each.small
        if each.checked:
            belief = replace(belief, mean=checked_quality(each))
            cheap = with_escalations_usd(cheap, dear, each.escalation_rate)
        found.append(Row(each.kind, each.turns, belief, each.frontier, dear - cheap))
    return found


def checked_quality(standing: Standing) -> float:
    """Of small answers of which the doubtful ones are asked again of the frontier."""
    rate = standing.escalation_rate
    return (1 - rate) * standing.small.mean + rate * standing.frontier.mean


def keep_floor(balance: list[Row], floor: float, caution: float) -> Floor:
    """The cheapest way to be sure, by `caution` standard errors, of this share of the frontier's
    right answers: everything small, then up by kinds, those first that gain most for their price.
    """
    best = sum(row.weight * row.frontier.mean for row in balance)
    kept = sum(row.weight * row.small.mean for row in balance)
    variance = sum(row.weight**2 * (row.small.variance + row.frontier.variance) for row in balance)
    small = {row.kind for row in balance}
    paid = 0.0
    for row in sorted(balance, key=_gain_for_price, reverse=True):
        if kept - caution * math.sqrt(max(0.0, variance)) >= floor * best:
            break
        better = row.frontier.mean - row.small.mean
        small.discard(row.kind)
        kept += row.weight * better
        variance -= row.weight**2 * (row.small.variance + row.frontier.variance)
        if better > 0:
            paid = max(paid, row.dearer_usd / better)
    return Floor(frozenset(small), paid)


def _gain_for_price(row: Row) -> float:
    better = row.frontier.mean - row.small.mean
    if better <= 0:
        return better
    return better / row.dearer_usd if row.dearer_usd > 0 else math.inf


def decide(case: Case, knobs: TiersConfig) -> Choice:
    """The tier of this turn."""
    options = case.candidates
    if len(options) == 1:
        only = next(iter(options))
        return forced(only, knobs, side=case.side, current=case.current, spent_usd=case.spent_usd)
    prices = {tier: _price_usd(case, tier) for tier in options}
    if knobs.budget_usd is not None and case.spent_usd >= knobs.budget_usd:
        refused = knobs.when_spent == "refuse"
        return _change(case, "small", "budget", prices, refused=refused)
    if knobs.policy in ("small", "frontier"):
        return _change(case, knobs.policy, "policy", prices)
    if case.side:
        return _side(case, prices, knobs)
    if case.current is None:
        return _begin(case, prices)
    return _go_on(case, case.current, prices, knobs)


def stays_after_escalation(case: Case) -> tuple[bool, float]:
    """(whether the session goes on with the frontier, what that gains in USD over going back).

    `case` is as it is after the frontier has answered: its cache holds the session.
    """
    back, stay = _price_usd(case, "small"), _price_usd(case, "frontier")
    return back >= stay, back - stay


def forced(
    tier: Tier, knobs: TiersConfig, *, side: bool, current: Tier | None, spent_usd: float
) -> Choice:
    """The only tier that is ready: only a budget can refuse it. What it may cost and how good it is
    would change nothing, and is not asked."""
    spent = knobs.budget_usd is not None and spent_usd >= knobs.budget_usd
    if spent and (tier == "frontier" or knobs.when_spent == "refuse"):
        return Choice(tier, "budget", refused=True)
    wanted: Tier = "small" if side else current or "frontier"
    if knobs.policy in ("small", "frontier"):
        wanted = "small" if knobs.policy == "small" else "frontier"
    return Choice(tier, "" if tier == wanted else f"{wanted}-not-ready")


def _side(case: Case, prices: Mapping[Tier, float], knobs: TiersConfig) -> Choice:
    """Small, until enough outcomes say that the floor is not kept."""
    small, frontier = case.standing.small, case.standing.frontier
    known = small.outcomes >= knobs.prior_turns
    if known and small.mean < knobs.quality_floor * frontier.mean:
        return Choice("frontier", "history", prices)
    return Choice("small", "", prices)


def _begin(case: Case, prices: Mapping[Tier, float]) -> Choice:
    if case.standing.kind not in case.floor.small:
        if case.explores and case.checkable:
            return Choice("small", "explore", prices)
        return Choice("frontier", "", prices)
    if _value_usd(case, "small", prices) >= _value_usd(case, "frontier", prices):
        return Choice("small", "history", prices)
    return Choice("frontier", "history", prices)


def _go_on(case: Case, current: Tier, prices: Mapping[Tier, float], knobs: TiersConfig) -> Choice:
    if current == "frontier" and case.standing.kind not in case.floor.small:
        return Choice(current, "stays", prices)
    other: Tier = "frontier" if current == "small" else "small"
    if case.trying:  # its quality is what is being found out
        gain = prices[current] - prices[other]
    else:
        gain = _value_usd(case, other, prices) - _value_usd(case, current, prices)
    if gain > knobs.margin * max(prices[current], prices[other]):
        return Choice(other, "priced", prices, gain)
    return Choice(current, "stays", prices)


def _change(
    case: Case, tier: Tier, why: str, prices: Mapping[Tier, float], *, refused: bool = False
) -> Choice:
    """A rule decides, not a price; the figures are logged all the same."""
    gain = None
    if not case.side and case.current not in (None, tier):
        other: Tier = "frontier" if tier == "small" else "small"
        gain = prices[other] - prices[tier]
    return Choice(tier, why, prices, gain, refused)


def _price_usd(case: Case, tier: Tier) -> float:
    """The rest of the session on this tier; of a side turn, that turn."""
    option = case.candidates[tier]
    usd = rest_usd(option.prices, option.quote, case.course)
    other = case.candidates.get("frontier")
    if tier == "small" and case.checkable and other is not None:
        once = steady_usd(other.prices, other.quote, case.course)
        usd = with_escalations_usd(usd, case.course.turns * once, case.standing.escalation_rate)
    return usd


def _value_usd(case: Case, tier: Tier, prices: Mapping[Tier, float]) -> float:
    standing = case.standing
    quality = standing.small.mean if tier == "small" else standing.frontier.mean
    if tier == "small" and case.checkable:
        quality = checked_quality(standing)
    return case.floor.worth_usd * quality * case.course.turns - prices[tier]
