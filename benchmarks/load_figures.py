"""Load benchmark, the figures: from what was sent to what is said of it. Pure.

Counted are the requests that were due after the warm-up and before the end. Good ones ended without
an error and met every objective that was set; the others are not left out of anything but the
latencies, which only an answer has.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.harness.stats import percentile
from benchmarks.load_play import TOO_MANY, Played, Sent


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds; NaN where there is nothing."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        known = sorted(values)
        mean = statistics.fmean(known) if known else math.nan
        return cls(mean, *(percentile(known, share) for share in (0.5, 0.9, 0.99)))


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a good answer is; None: no matter."""

    ttft_s: float | None = None
    latency_s: float | None = None

    def met(self, sent: Sent) -> bool:
        if sent.error:
            return False
        return (self.ttft_s is None or sent.ttft_s <= self.ttft_s) and (
            self.latency_s is None or sent.latency_s <= self.latency_s
        )

    def __str__(self) -> str:
        said = (("first token", self.ttft_s), ("whole", self.latency_s))
        known = [f"{what} ≤ {value:g} s" for what, value in said if value is not None]
        return ", ".join(known) or "no error"


@dataclass(frozen=True, slots=True)
class Figures:
    """One run."""

    seconds: float
    """The window that is counted."""
    whole_s: float
    """From the beginning to the end of the window, or of the last answer where that is later."""
    requests: int
    good: int
    errors: dict[str, int]
    sessions_begun: int
    sessions_ended: int
    sessions_per_s: float
    """Ended in the window."""
    requests_per_s: float
    """Offered: due in the window."""
    answers_per_s: float
    """Ended in the window, without an error."""
    good_per_s: float
    output_tokens_per_s: float
    prompt_tokens: float
    """Of a request, as the server counts: a mean; NaN where it does not say."""
    output_tokens: float
    cached_share: float
    """Of the prompt tokens; NaN where the server does not say."""
    ttft: Spread
    gap: Spread
    """Between chunks with tokens."""
    per_token: Spread
    """From the first token to the last one, for each token after the first."""
    latency: Spread
    lag: Spread
    """How late requests left: the client's own doing."""
    pulse: Spread
    """How late its loop's timers were: it reads as late as that."""
    cores: float
    """CPU that the client used: one thread, so that it is full at 1."""
    growth: float
    """Requests due in the second half of the window over those in the first: above 1, the load was
    still growing. NaN where there are too few."""

    @property
    def good_share(self) -> float:
        return self.good / self.requests if self.requests else math.nan


def figures(played: Played, objectives: Objectives, warm_up_s: float) -> Figures:
    """All that is said of a run."""
    counted = [s for s in played.sent if warm_up_s <= s.due_s < played.seconds]
    answers = [s for s in counted if not s.error]
    good = sum(objectives.met(s) for s in counted)
    seconds = played.seconds - warm_up_s

    def within(at_s: float) -> bool:
        return warm_up_s <= at_s < played.seconds

    ended = [s for s in played.sent if not s.error and within(s.end_s)]
    sessions = sum(within(at_s) for at_s in played.ended_s)
    told = [s for s in answers if s.prompt_tokens is not None]
    cached = [s for s in told if s.cached_tokens is not None]
    middle_s = warm_up_s + seconds / 2
    early = sum(s.due_s < middle_s for s in counted)
    return Figures(
        seconds=seconds,
        whole_s=max((played.seconds, *(s.end_s for s in played.sent))),
        requests=len(counted),
        good=good,
        errors=dict(Counter(s.error for s in counted if s.error).most_common()),
        sessions_begun=played.begun,
        sessions_ended=len(played.ended_s),
        sessions_per_s=sessions / seconds,
        requests_per_s=len(counted) / seconds,
        answers_per_s=len(ended) / seconds,
        good_per_s=good / seconds,
        output_tokens_per_s=sum(s.output_tokens for s in ended) / seconds,
        prompt_tokens=_mean([s.prompt_tokens or 0 for s in told]),
        output_tokens=_mean([s.output_tokens for s in answers]),
        cached_share=_share(
            sum(s.cached_tokens or 0 for s in cached), sum(s.prompt_tokens or 0 for s in cached)
        ),
        ttft=Spread.of(s.ttft_s for s in answers),
        gap=Spread.of(b - a for s in answers for a, b in pairwise(s.token_s)),
        per_token=Spread.of(
            (s.token_s[-1] - s.token_s[0]) / (s.output_tokens - 1)
            for s in answers
            if s.output_tokens > 1
        ),
        latency=Spread.of(s.latency_s for s in answers),
        lag=Spread.of(s.lag_s for s in counted),
        pulse=Spread.of(played.pulses_s),
        cores=played.cores,
        growth=(len(counted) - early) / early if early >= _FEW else math.nan,
    )


def lateness(found: Figures, most_lag_s: float) -> list[str]:
    """Where the client itself was too late for its figures to be the server's."""
    return [
        f"{what} up to {late.p99 * 1000:.0f} ms late (p99; at most {most_lag_s * 1000:.0f}): the "
        "client is the bottleneck, or its machine is busy"
        for late, what in ((found.lag, "requests left"), (found.pulse, "the client's timers were"))
        if late.p99 > most_lag_s
    ]


def doubts(found: Figures, most_lag_s: float, few: int = 20) -> list[str]:
    """Why these figures say nothing of the server; empty: they do."""
    said = lateness(found, most_lag_s)
    if found.requests < few:
        said.append(f"{found.requests} requests were counted, fewer than {few}: run longer")
    if unsent := found.errors.get(TOO_MANY):
        said.append(f"{unsent} requests were not sent, since too many were open (--most-open)")
    return said


_FEW = 50


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
