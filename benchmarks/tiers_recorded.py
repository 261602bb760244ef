"""The tier policy on recorded answers: learnt on one half of the questions, scored on the other.

The history and the policy are the router's own (router.tier_history, router.tier_policy); only the
engines are missing. Every question is a session of one turn, with no cache to lose.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.tiers_answers import OUTPUT_TOKENS, Answered
from router.tiers import policy as tier_policy
from router.tiers.history import History, Kind
from router.tiers.policy import Candidate, Case, Floor
from router.tiers.prices import Course, Quote
from serving.config.model import Prices
from serving.config.router import TiersConfig
from serving.tables.base import Tier

SCOPE = "tenant:"
Pair = Mapping[Tier, Prices]


@dataclass(frozen=True, slots=True)
class Score:
    """Of one way to choose, over the same questions: shares of the frontier's."""

    quality: float
    cost: float
    to_frontier: float
    """Share of the questions."""


def cost_usd(question: Answered, prices: Prices) -> float:
    return prices.cost_usd(prompt=question.prompt_tokens, cached=0, output=OUTPUT_TOKENS)


def score(questions: Sequence[Answered], tiers: Iterable[Tier], prices: Pair) -> Score:
    """What came of sending each question to its tier."""
    right = best = paid = full = up = 0.0
    for question, tier in zip(questions, tiers, strict=True):
        right += question.small if tier == "small" else question.frontier
        best += question.frontier
        paid += cost_usd(question, prices[tier])
        full += cost_usd(question, prices["frontier"])
        up += tier == "frontier"
    return Score(right / best, paid / full, up / len(questions))


def at_random(questions: Sequence[Answered], prices: Pair, cost: float) -> Score:
    """The expectation of a coin that sends so many to the frontier that it costs `cost`."""
    small = score(questions, ["small"] * len(questions), prices)
    share = (cost - small.cost) / (1 - small.cost) if small.cost < 1 else 0.0
    share = min(1.0, max(0.0, share))
    quality = small.quality + share * (1 - small.quality)
    return Score(quality, small.cost + share * (1 - small.cost), share)


def oracle(questions: Sequence[Answered], prices: Pair) -> Score:
    """Knows all answers: the frontier only where it alone is right."""
    tiers: list[Tier] = ["frontier" if q.frontier and not q.small else "small" for q in questions]
    return score(questions, tiers, prices)


def learnt(questions: Iterable[Answered], knobs: TiersConfig) -> History:
    """A history of both models' outcomes."""
    history = History(knobs)
    for question in questions:
        kind = _kind(question)
        history.came(kind)
        history.learn(kind, "small", good=question.small)
        history.learn(kind, "frontier", good=question.frontier)
        history.measured(kind, question.prompt_tokens, 0, OUTPUT_TOKENS)
    return history


def chosen(
    questions: Iterable[Answered], history: History, knobs: TiersConfig, prices: Pair
) -> list[Tier]:
    """The policy's tier for each question."""
    floor = floor_of(history, knobs, prices)
    return [
        tier_policy.decide(case(question, history, floor, knobs, prices), knobs).tier
        for question in questions
    ]


def floor_of(history: History, knobs: TiersConfig, prices: Pair) -> Floor:
    balance = tier_policy.rows(history.standings(SCOPE), prices["small"], prices["frontier"])
    return tier_policy.keep_floor(balance, knobs.quality_floor, knobs.caution)


def case(
    question: Answered,
    history: History,
    floor: Floor,
    knobs: TiersConfig,
    prices: Pair,
    *,
    explores: bool = False,
) -> Case:
    """A first turn, as `router.tiers.case` makes it."""
    quote = Quote(question.prompt_tokens, 0)
    standing = history.standing(_kind(question))
    output = standing.output_tokens if standing.measured else knobs.output_tokens
    return Case(
        side=False,
        standing=standing,
        candidates={tier: Candidate(prices[tier], quote) for tier in prices},
        current=None,
        course=Course(1, output, 0),
        checkable=explores,
        floor=floor,
        spent_usd=0.0,
        explores=explores,
    )


def as_it_goes(questions: Sequence[Answered], knobs: TiersConfig, prices: Pair, seed: int) -> Score:
    """From nothing, one question after the other; only the answer that was used is learnt from."""
    history, chance = History(knobs), random.Random(seed)
    tiers: list[Tier] = []
    floor = Floor()
    for count, question in enumerate(questions):
        if count % 64 == 0:
            floor = floor_of(history, knobs, prices)
        kind = _kind(question)
        history.came(kind)
        explores = chance.random() < min(knobs.explore, 1 - knobs.quality_floor)
        decided = case(question, history, floor, knobs, prices, explores=explores)
        tier = tier_policy.decide(decided, knobs).tier
        tiers.append(tier)
        good = question.small if tier == "small" else question.frontier
        history.learn(kind, tier, good=good)
        history.measured(kind, question.prompt_tokens, 0, OUTPUT_TOKENS)
    return score(questions, tiers, prices)


@dataclass(frozen=True, slots=True)
class Split:
    """All ways to choose, on one scored half."""

    policy: Score
    small: Score
    random: Score
    """At the policy's cost."""
    oracle: Score


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a figure over the splits: the middle 95 %."""

    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    ordered = sorted(values)
    cut = int(0.025 * len(ordered))
    return Spread(mean(ordered), ordered[cut], ordered[-1 - cut])


def halves(questions: Sequence[Answered], seed: int) -> tuple[list[Answered], list[Answered]]:
    shuffled = list(questions)
    random.Random(seed).shuffle(shuffled)
    middle = len(shuffled) // 2
    return shuffled[:middle], shuffled[middle:]


def run(
    questions: Sequence[Answered],
    knobs: TiersConfig,
    prices: Pair,
    splits: int,
    done: Callable[[], None] = lambda: None,
) -> list[Split]:
    """Each split learns on one half at random and is scored on the other."""
    found = []
    for seed in range(splits):
        fit, scored = halves(questions, seed)
        tiers = chosen(scored, learnt(fit, knobs), knobs, prices)
        policy = score(scored, tiers, prices)
        small = score(scored, ["small"] * len(scored), prices)
        coin = at_random(scored, prices, policy.cost)
        found.append(Split(policy, small, coin, oracle(scored, prices)))
        done()
    return found


def curve(
    questions: Sequence[Answered],
    knobs: TiersConfig,
    prices: Pair,
    splits: int,
    done: Callable[[], None] = lambda: None,
) -> list[tuple[float, Score]]:
    """(floor, mean score) over quality floors; the histories do not depend on the floor."""
    floors = [round(0.80 + 0.01 * i, 2) for i in range(21)]
    scores: dict[float, list[Score]] = {floor: [] for floor in floors}
    for seed in range(splits):
        fit, scored = halves(questions, seed)
        history = learnt(fit, knobs)
        for floor in floors:
            own = knobs.model_copy(update={"quality_floor": floor})
            scores[floor].append(score(scored, chosen(scored, history, own, prices), prices))
        done()
    return [
        (
            floor,
            Score(
                mean(s.quality for s in each),
                mean(s.cost for s in each),
                mean(s.to_frontier for s in each),
            ),
        )
        for floor, each in scores.items()
    ]


def _kind(question: Answered) -> Kind:
    return Kind(SCOPE, question.task, "unknown")
