"""Latency benchmark, figures: turns that were measured → p50, p99 and means by part, shares. Pure.

A percentile of each part by itself does not add up to the whole's. So beside those there is, of the
turns about the median and of the slowest hundredth, the mean of each part: these do add up.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.harness.stats import Interval, interval, paired, percentile
from benchmarks.latency_budget import PARTS, STORING, Budget
from benchmarks.latency_load import Arm, JournalClock, Turn

Parts = Mapping[str, float]
CaseKind = Literal["cold", "warm", "call", "answer"]
KINDS: tuple[CaseKind, ...] = ("cold", "warm", "call", "answer")


@dataclass(frozen=True)
class Case:
    """One kind of turns, of one arm, with so many sessions at once. A response with tools has turns
    that call and one that answers."""

    arm: Arm
    kind: CaseKind
    sessions: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.sessions}"


@dataclass(frozen=True)
class Spread:
    """Two percentiles, in seconds."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Figures:
    """Of one case; seconds."""

    turns: int
    whole: Spread
    parts: Mapping[str, Spread]
    """Each part by itself: they do not add up."""
    mean: Parts
    at_p50: Parts
    """Mean of the turns from the 40th to the 60th hundredth of the whole."""
    at_p99: Parts
    """Mean of the slowest hundredth, one turn at least."""
    cached_share: float
    output_tokens: float
    first_event: Spread | None
    """From the request; None of turns that are not a response's first, or where there is none."""
    first_text: Spread | None


@dataclass(frozen=True)
class Journal:
    """Of a response, what must be stored before it goes on, and of it the journal's own clock.

    The clock is exact for one session; of several it is the mean of a round.
    """

    sessions: int
    storing: Spread
    clock: Spread
    appends: float


@dataclass(frozen=True)
class Compared:
    """The stack beside the bare engine: medians over pairs of turns."""

    pairs: int
    left_out: int
    """Pairs that were not the same work: other counts of cached or written tokens."""
    share: Interval
    """What the stack adds, as a share of the bare engine's turn."""
    added_s: Interval
    explained_s: Interval
    """The same by the parts: the stack's own ones, less the bare client's network."""
    first_text_added_s: Interval | None


def cases(turns: Sequence[Turn]) -> dict[Case, list[Turn]]:
    """By kind, sessions and arm; a response with tools becomes turns of two cases."""
    found: dict[Case, list[Turn]] = {}
    for turn in turns:
        if turn.kind != "tools":
            found.setdefault(Case(turn.arm, turn.kind, turn.sessions), []).append(turn)
            continue
        first = replace(turn.asked, first_text=None)
        calls = replace(turn, asked=first, budgets=turn.budgets[:-1])
        answer = replace(turn, budgets=turn.budgets[-1:])
        found.setdefault(Case(turn.arm, "call", turn.sessions), []).append(calls)
        found.setdefault(Case(turn.arm, "answer", turn.sessions), []).append(answer)
    places = {kind: place for place, kind in enumerate(KINDS)}
    return dict(
        sorted(
            found.items(), key=lambda each: (places[each[0].kind], each[0].sessions, each[0].arm)
        )
    )


def figures(case: Case, turns: Sequence[Turn]) -> Figures:
    """Of the turns of one case."""
    budgets = [budget for turn in turns for budget in turn.budgets]
    begins = turns if case.kind != "answer" else ()
    texts = [t.asked.first_text - t.asked.sent for t in begins if t.asked.first_text is not None]
    prompt = sum(each.prompt_tokens for each in budgets)
    return Figures(
        turns=len(budgets),
        whole=spread([each.whole_s for each in budgets]),
        parts={part: spread([each.parts[part] for each in budgets]) for part in PARTS},
        mean=mean(budgets),
        at_p50=mean(_between(budgets, 0.4, 0.6)),
        at_p99=mean(_between(budgets, 0.99, 1.0)),
        cached_share=sum(each.cached_tokens for each in budgets) / prompt if prompt else 0.0,
        output_tokens=statistics.fmean(each.output_tokens for each in budgets),
        first_event=spread([t.asked.first_event - t.asked.sent for t in begins])
        if begins
        else None,
        first_text=spread(texts) if texts else None,
    )


def spread(values: Sequence[float]) -> Spread:
    return Spread(percentile(values, 0.5), percentile(values, 0.99))


def mean(budgets: Sequence[Budget]) -> Parts:
    """Seconds of each part; they add up to the mean of the wholes."""
    return {part: statistics.fmean(each.parts[part] for each in budgets) for part in PARTS}


def _between(budgets: Sequence[Budget], low: float, high: float) -> list[Budget]:
    """Those between two shares of all, by their whole time; one at least."""
    ordered = sorted(budgets, key=lambda each: each.whole_s)
    start = min(int(low * len(ordered)), len(ordered) - 1)
    return ordered[start : max(start + 1, int(high * len(ordered)))]


def journal(turns: Sequence[Turn], clocks: Sequence[JournalClock]) -> Journal:
    """Of the stack's responses of one kind with so many sessions, and of their rounds."""
    storing = [sum(b.parts[part] for b in turn.budgets for part in STORING) for turn in turns]
    return Journal(
        sessions=turns[0].sessions,
        storing=spread(storing),
        clock=spread([each.seconds for each in clocks]),
        appends=statistics.fmean(each.appends for each in clocks),
    )


def compared(ours: Sequence[Turn], theirs: Sequence[Turn]) -> Compared:
    """Pairs are of the same round and session. Raises ValueError where none is left."""
    bare = {turn.place: turn for turn in theirs}
    pairs = [(turn, bare[turn.place]) for turn in ours if turn.place in bare]
    same = [(a.budgets[0], b.budgets[0]) for a, b in pairs if _work(a) == _work(b)]
    ratio = paired([a.whole_s for a, _ in same], [b.whole_s for _, b in same])
    texts = [
        (a.asked.first_text - a.asked.sent) - (b.asked.first_text - b.asked.sent)
        for a, b in pairs
        if a.asked.first_text is not None and b.asked.first_text is not None
    ]
    return Compared(
        pairs=len(same),
        left_out=len(pairs) - len(same),
        share=Interval(ratio.value - 1, ratio.low - 1, ratio.high - 1),
        added_s=interval([a.whole_s - b.whole_s for a, b in same]),
        explained_s=interval([a.stack_s - b.stack_s for a, b in same]),
        first_text_added_s=interval(texts) if texts else None,
    )


def _work(turn: Turn) -> list[tuple[int, int, int]]:
    return [(b.prompt_tokens, b.cached_tokens, b.output_tokens) for b in turn.budgets]
