"""How often has each tier got which kind of turn right? Counts that fade, bounded, shared upwards.

    kind (scope, task, type)  ←k─  (scope, *, type)  ←k─  (*, *, type)  ←k─  what the type promises
      scope: an agent, or a tenant

A kind with few outcomes of its own is believed to be as what it is a kind of: each level counts as
`prior_turns` outcomes of the level below (a Beta posterior whose prior mean is the parent's).
Counts fade by evidence, not by time: each outcome takes a little from those before it.

Beside the counts, for prices: how often kinds come, their tokens, how often small was asked again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from serving.config.router import TiersConfig
from serving.tables.base import Tier

ANY = "*"
_SCOPE_HORIZON_TURNS = 20_000.0
"""Turns of a scope after which a kind that came no more weighs half."""


class Kind(NamedTuple):
    """What makes turns alike, as far as a request says it."""

    scope: str
    task: str
    turn_type: str

    def parents(self) -> tuple[Kind, Kind]:
        """The nearer one first."""
        return Kind(self.scope, ANY, self.turn_type), Kind(ANY, ANY, self.turn_type)


class Tally(msgspec.Struct):
    """What is known of one kind. Counts are of outcomes, weighted.

    Good and bad are of answers that were used: one that escalated counts as `escalated` alone.
    """

    small_good: float = 0.0
    small_bad: float = 0.0
    frontier_good: float = 0.0
    frontier_bad: float = 0.0
    tried: float = 0.0
    """Small answers that could be asked again."""
    escalated: float = 0.0
    turns: float = 0.0
    tick: float = 0.0
    """The scope's count of turns when `turns` was true."""
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    output_tokens: float = 0.0
    measured: float = 0.0
    """Turns that the mean tokens are of."""

    def outcomes(self, tier: Tier) -> tuple[float, float]:
        """(good, bad)."""
        if tier == "small":
            return self.small_good, self.small_bad
        return self.frontier_good, self.frontier_bad


@dataclass(frozen=True, slots=True)
class Belief:
    """A success rate as it is believed: mean, variance of that mean, and outcomes of its own."""

    mean: float
    variance: float
    outcomes: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What the policy asks of one kind."""

    kind: Kind
    small: Belief
    frontier: Belief
    escalation_rate: float
    """Of small answers that could be asked again."""
    checked: bool
    """There were such answers."""
    turns: float
    """How often the kind comes, beside others of its scope."""
    prompt_tokens: float
    cached_tokens: float
    output_tokens: float
    measured: bool


class Scope:
    """The kinds of one agent or tenant."""

    __slots__ = ("kinds", "learnt", "tick")

    def __init__(self) -> None:
        self.kinds: dict[Kind, Tally] = {}
        self.tick = 0.0
        self.learnt = 0
        """Grows with each change, so that what was concluded can be kept until then."""


class History:
    """All kinds. For one event loop; the least recently used kind goes first."""

    def __init__(self, knobs: TiersConfig) -> None:
        self._knobs = knobs
        self._fade = 0.5 ** (1.0 / knobs.half_life_turns)
        self._order: OrderedDict[Kind, None] = OrderedDict()
        self._scopes: dict[str, Scope] = {}
        self.version = 0

    def __len__(self) -> int:
        return len(self._order)

    def scope(self, name: str) -> Scope:
        """Empty where nothing is known."""
        return self._scopes.get(name) or Scope()

    # -- learning --

    def came(self, kind: Kind) -> None:
        """A turn of this kind was decided."""
        scope = self._scope(kind.scope)
        scope.tick += 1
        tally = self._tally(kind)
        tally.turns = self._weight(scope, tally) + 1
        tally.tick = scope.tick
        self.version += 1

    def learn(self, kind: Kind, tier: Tier, *, good: bool, weight: float = 1.0) -> None:
        """An outcome, for the kind and all that it is a kind of."""
        fade = self._fade**weight
        for each in (kind, *kind.parents()):
            tally = self._tally(each)
            if tier == "small":
                tally.small_good = tally.small_good * fade + weight * good
                tally.small_bad = tally.small_bad * fade + weight * (not good)
            else:
                tally.frontier_good = tally.frontier_good * fade + weight * good
                tally.frontier_bad = tally.frontier_bad * fade + weight * (not good)
        self._changed(kind)

    def retract(self, kind: Kind, tier: Tier, *, good: bool, weight: float) -> None:
        """An outcome that was only concluded, now that the true one is known."""
        name = f"{tier}_{'good' if good else 'bad'}"
        for each in (kind, *kind.parents()):
            if (tally := self._known(each)) is not None:
                setattr(tally, name, max(0.0, getattr(tally, name) - weight))
        self._changed(kind)

    def tried(self, kind: Kind, *, escalated: bool) -> None:
        """A small answer was checked before anybody saw it."""
        for each in (kind, *kind.parents()):
            tally = self._tally(each)
            tally.tried = tally.tried * self._fade + 1
            tally.escalated = tally.escalated * self._fade + escalated
        self._changed(kind)

    def measured(self, kind: Kind, prompt: int, cached: int, output: int) -> None:
        """The tokens of one turn, whichever model took it."""
        tally = self._tally(kind)
        tally.measured = min(tally.measured + 1, self._knobs.half_life_turns)
        step = 1 / tally.measured
        tally.prompt_tokens += step * (prompt - tally.prompt_tokens)
        tally.cached_tokens += step * (cached - tally.cached_tokens)
        tally.output_tokens += step * (output - tally.output_tokens)
        self.version += 1

    # -- asking --

    def standing(self, kind: Kind) -> Standing:
        """What is believed of a kind, also of one that never came."""
        scope = self._scopes.get(kind.scope)
        own = self._known(kind) or Tally()
        levels = [own, *(self._known(each) or Tally() for each in kind.parents())]
        tried = sum(t.tried for t in levels[:2])
        escalated = sum(t.escalated for t in levels[:2])
        return Standing(
            kind,
            self._belief(levels, kind.turn_type, "small"),
            self._belief(levels, kind.turn_type, "frontier"),
            (escalated + 1) / (tried + 4),  # one in four, until it is known
            tried > 0,
            self._weight(scope, own) if scope is not None else 0.0,
            own.prompt_tokens,
            own.cached_tokens,
            own.output_tokens,
            own.measured > 0,
        )

    def standings(self, scope: str) -> Iterator[Standing]:
        """Of all kinds of a scope."""
        known = self._scopes.get(scope)
        for kind in list(known.kinds) if known is not None else ():
            if kind.task != ANY:
                yield self.standing(kind)

    def _belief(self, levels: list[Tally], turn_type: str, tier: Tier) -> Belief:
        prior = self._knobs.prior_turns
        mean = _promise(turn_type, tier, self._knobs)
        good = bad = 0.0
        for tally in reversed(levels):
            good, bad = tally.outcomes(tier)
            mean = (good + prior * mean) / (good + bad + prior)
        own = good + bad
        return Belief(mean, mean * (1 - mean) / (own + prior + 1), own)

    # -- keeping --

    def rows(self) -> list[tuple[Kind, Tally]]:
        """Everything, the least recently used first; to be stored."""
        return [(kind, self._scopes[kind.scope].kinds[kind]) for kind in self._order]

    def restore(self, rows: list[tuple[Kind, Tally]]) -> None:
        """Begin with what was stored."""
        for kind, tally in rows[-self._knobs.max_kinds :]:
            scope = self._scope(kind.scope)
            scope.kinds[kind] = tally
            scope.tick = max(scope.tick, tally.tick)
            self._order[kind] = None

    def _changed(self, kind: Kind) -> None:
        self._scope(kind.scope).learnt += 1
        self.version += 1

    def _weight(self, scope: Scope, tally: Tally) -> float:
        faded: float = 0.5 ** ((scope.tick - tally.tick) / _SCOPE_HORIZON_TURNS)
        return tally.turns * faded

    def _scope(self, name: str) -> Scope:
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = Scope()
        return scope

    def _known(self, kind: Kind) -> Tally | None:
        scope = self._scopes.get(kind.scope)
        return scope.kinds.get(kind) if scope is not None else None

    def _tally(self, kind: Kind) -> Tally:
        scope = self._scope(kind.scope)
        tally = scope.kinds.get(kind)
        if tally is None:
            tally = scope.kinds[kind] = Tally(tick=scope.tick)
            self._order[kind] = None
        self._order.move_to_end(kind)
        while len(self._order) > self._knobs.max_kinds:
            self._forget(next(iter(self._order)))
        return tally

    def _forget(self, kind: Kind) -> None:
        del self._order[kind]
        scope = self._scopes[kind.scope]
        del scope.kinds[kind]
        if not scope.kinds:
            del self._scopes[kind.scope]


def _promise(turn_type: str, tier: Tier, knobs: TiersConfig) -> float:
    """Before any outcome: side turns are said to suit the small model, others are not."""
    if tier == "frontier" or turn_type in knobs.small_turns:
        return 0.9
    return 0.5
