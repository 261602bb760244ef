"""What to change: plain rules over the figures, each with the figure that it goes by.

    change    it costs you now            keep   as it should be
    look      worth a look                again  not known well enough: measure again

A rule sees what was measured and says nothing where its figure is missing. Its limits stand below,
where they can be argued with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness.html import number, percent
from benchmarks.report_figures import Agents, Case, Cost, Latency, Load
from benchmarks.report_read import Results
from benchmarks.report_words import KINDS, cost_of, latency_of, seconds, sessions, shares

HIT_RATE = 0.80
"""Of the prompt tokens: agents' recorded sessions reach .9 and more."""
QUALITY = 0.95
"""Of the answers that are right when the frontier is asked always (`tiers.quality_floor`)."""
WORTH = 0.03
"""A step that saves less of what is left is not worth its risk."""
LARGE = 0.50
"""One kind of tokens, or one part of a turn, that is the thing to work on."""
WAITING = 0.20
STACK = 0.05
FAILING = 0.50
"""Solved tasks below which a model is no choice for them."""

Kind = Literal["change", "look", "again", "keep"]
KINDS_IN_ORDER: tuple[Kind, ...] = ("change", "look", "again", "keep")


@dataclass(frozen=True, slots=True)
class Advice:
    kind: Kind
    found: str
    """The figure, in words."""
    do: str
    by: str
    """Whose figure it is."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured; None: nothing was."""

    cost: Cost | None
    latency: Latency | None
    load: Load | None
    agents: Agents | None

    @classmethod
    def of(cls, results: Results) -> Evidence:
        found = (
            cost_of(results),
            latency_of(results),
            results.of("load"),
            results.of("agents"),
        )
        return cls(*(each.envelope.figures if each else None for each in found))


def advice(evidence: Evidence) -> list[Advice]:
    """All that the rules say, what costs most first."""
    found = [each for rule in RULES for each in rule(evidence)]
    return sorted(found, key=lambda each: KINDS_IN_ORDER.index(each.kind))


def hit_rate(evidence: Evidence) -> Iterator[Advice]:
    if evidence.cost is None:
        return
    best = evidence.cost.own.best
    rate = percent(best.hit_rate)
    if best.hit_rate < HIT_RATE:
        yield Advice(
            "change",
            f"{rate} of the prompt tokens are found in a cache; agents reach more than "
            f"{percent(HIT_RATE)}.",
            "Look for what rewrites the head of the prompt between turns (a clock, an id, tools in "
            "another order), send a session id, and give the engine more `kv_cache_gib`.",
            "cost",
        )
    else:
        yield Advice(
            "keep",
            f"{rate} of the prompt tokens are found in a cache.",
            "Nothing else saves as much. Keep the head of the prompt as it is, byte for byte.",
            "cost",
        )


def quality(evidence: Evidence) -> Iterator[Advice]:
    if evidence.cost is None:
        return
    naive, best = evidence.cost.own.naive, evidence.cost.own.best
    kept = best.right / naive.right if naive.right else 1.0
    said = f"{best.right:,} answers are right where the large model alone has {naive.right:,}"
    if kept < QUALITY:
        yield Advice(
            "change",
            f"{said}: {percent(kept)} of them.",
            "Raise `tiers.quality_floor`, or report what was right to /v1/warmloop/outcomes, so "
            "that the policy learns where the small model fails.",
            "cost",
        )
    else:
        yield Advice(
            "keep",
            f"{said}: {percent(kept)} of them.",
            "The saving is not bought with errors.",
            "cost",
        )


def frontier_share(evidence: Evidence) -> Iterator[Advice]:
    if evidence.cost is None:
        return
    share = 1 - evidence.cost.own.best.small_share
    if share > LARGE:
        yield Advice(
            "change",
            f"The large model gives {percent(share)} of the answers.",
            "Find out with `warmloop bench agents` which kinds of turns the small model can take; "
            "an adapter for your tools (`adapters` of the small model) or a better small model "
            "moves them over.",
            "cost",
        )


def steps(evidence: Evidence) -> Iterator[Advice]:
    """Steps that do not pay."""
    if evidence.cost is None:
        return
    for name, share in evidence.cost.own.saved():
        step = name.removeprefix("+ ")
        if share < 0:
            yield Advice(
                "change",
                f"{step.capitalize()} makes a task {percent(-share)} dearer.",
                "Leave it out for this workload.",
                "cost",
            )
        elif share < WORTH:
            yield Advice(
                "look",
                f"{step.capitalize()} saves {percent(share, 1)} of what is left.",
                "It hardly pays here; leave it out unless you need it for another reason.",
                "cost",
            )


_LEFT = {
    "fresh": (
        "prompt tokens that are computed anew",
        "Cut what tools return (`limits.tool_result_bytes`), and ask for less of it.",
    ),
    "cached": (
        "prompt tokens that are read from the cache again and again",
        "Conversations are long: compact them earlier (`context.strategy`).",
    ),
    "output": (
        "tokens that models write",
        "Ask for shorter answers, lower `max_output_tokens`, and let the small model write more of "
        "them.",
    ),
}


def what_is_left(evidence: Evidence) -> Iterator[Advice]:
    if evidence.cost is None or not (whole := evidence.cost.own.best.usd_for.whole):
        return
    for kind, (what, do) in _LEFT.items():
        share = getattr(evidence.cost.own.best.usd_for, kind) / whole
        if share >= LARGE:
            yield Advice("look", f"{percent(share)} of what is left is for {what}.", do, "cost")


def own_or_hosted(evidence: Evidence) -> Iterator[Advice]:
    if evidence.cost is None or not evidence.cost.break_even:
        return
    machine = evidence.cost.machine
    easy = min(evidence.cost.break_even, key=lambda each: each.tokens)
    hard = max(evidence.cost.break_even, key=lambda each: each.tokens)
    if easy.share > 1:
        yield Advice(
            "change",
            f"{machine.name} never pays: a hosted list is cheaper even beside a machine without a "
            "pause.",
            "Ask a hosted API, or run on a faster machine.",
            "cost",
        )
        return
    whole = (
        f"{billions(easy.tokens)} to {billions(hard.tokens)}"
        if easy != hard
        else billions(easy.tokens)
    )
    yield Advice(
        "look",
        f"From {whole} tokens a month on your own machine is cheaper than a hosted API: "
        f"{percent(easy.share, 1)} to {percent(hard.share, 1)} of what it can do.",
        "Below that ask a hosted API; a machine that idles half of the time costs twice as much.",
        "cost",
    )


def assumed(evidence: Evidence) -> Iterator[Advice]:
    if evidence.cost is not None and not evidence.cost.machine.measured:
        yield Advice(
            "again",
            "The machine's speed is assumed, and so is how often models are right.",
            "Run `warmloop bench cost` on the machine that you would pay for before you decide.",
            "cost",
        )


_PARTS = {
    "prefill": "The prompt is still computed to a good part: look at the share of cached tokens, "
    "and at what was added since the turn before.",
    "decode": "Fewer tokens in an answer save more time than anything else: shorter answers, "
    "shorter arguments of tools, a smaller model.",
    "tool": "The tools are the slow part: cache their results, or call them at the same time "
    "(`max_parallel_calls`).",
}


def a_warm_turn(evidence: Evidence) -> Iterator[Advice]:
    case = _first(evidence, "warm")
    if case is None:
        return
    found = shares(case)
    for kind, do in _PARTS.items():
        if found[kind] >= LARGE:
            what = {
                "prefill": "reading the prompt",
                "decode": "writing the answer",
                "tool": "tools",
            }
            yield Advice(
                "look", f"{percent(found[kind])} of a warm turn is {what[kind]}.", do, "latency"
            )


def waiting(evidence: Evidence) -> Iterator[Advice]:
    if evidence.latency is None:
        return
    for case in evidence.latency.of_stack("warm"):
        share = shares(case)["queue"]
        if share >= WAITING:
            yield Advice(
                "change",
                f"With {sessions(case.sessions)} {percent(share)} of a warm turn is waiting.",
                "Add `replicas`, or raise `max_running` where the engine has memory for more.",
                "latency",
            )
            return


def stack_share(evidence: Evidence) -> Iterator[Advice]:
    if evidence.latency is None:
        return
    warm = [each for each in evidence.latency.compared if each.kind == "warm"]
    for each in sorted(warm, key=lambda each: each.sessions)[:1]:
        interval = f"{percent(each.share.low, 1)} to {percent(each.share.high, 1)}"
        said = f"The stack adds {percent(each.share.value, 1)} ({interval}) to a warm turn."
        if each.share.low > STACK:
            do = "Look which of its parts it is; a slow disk shows under `to begin` and `to ask`."
            yield Advice("change", said, do, "latency")
        elif each.share.high > STACK or each.share.high < 0:
            do = "Few pairs, or a busy machine: `--again` with more of them makes this narrower."
            yield Advice("again", said, do, "latency")
        else:
            yield Advice("keep", said, "Durability and routing cost next to nothing.", "latency")


def going_cold(evidence: Evidence) -> Iterator[Advice]:
    cold, warm = _first(evidence, "cold"), _first(evidence, "warm")
    if cold is None or warm is None or not warm.whole_at_p50:
        return
    ratio = cold.whole_at_p50 / warm.whole_at_p50
    if ratio > 1.2:
        yield Advice(
            "keep",
            f"A cold turn takes {number(ratio)} times as long as a warm one "
            f"({seconds(cold.whole_at_p50)} against {seconds(warm.whole_at_p50)}).",
            "So sessions should stay on their replica: one that moves or is evicted pays again.",
            "latency",
        )


def knee(evidence: Evidence) -> Iterator[Advice]:
    if evidence.load is None or evidence.load.knee is None or evidence.load.knee.low is None:
        return
    rate = evidence.load.knee.low
    yield Advice(
        "look",
        f"The server takes {number(rate)} new sessions a second before answers are late.",
        "Plan for less than that; what is above it waits or is refused. Replicas move it up.",
        "load",
    )


def failing_kinds(evidence: Evidence) -> Iterator[Advice]:
    if evidence.agents is None:
        return
    best = max(evidence.agents.models, key=lambda each: each.solved.value)
    said = f"{best.model} solves most tasks: {percent(best.solved.value)} of {best.tasks}"
    bad = [kind for kind, (won, asked) in best.by_kind.items() if asked and won / asked < FAILING]
    if bad:
        yield Advice(
            "change",
            f"{said}, but fewer than half of the kinds {', '.join(bad)}.",
            "Send those to a larger model, give them solved examples, or an adapter.",
            "agents",
        )
    priced = [m for m in evidence.agents.models if m.usd_a_solved_task is not None]
    if len(priced) > 1:
        cheap = min(priced, key=lambda each: each.usd_a_solved_task or 0.0)
        yield Advice(
            "look",
            f"{said}; {cheap.model} has the cheapest solved task, failures paid too "
            f"({number(1000 * (cheap.usd_a_solved_task or 0.0), 'USD')} for 1,000; it solves "
            f"{percent(cheap.solved.value)}).",
            "Take the cheaper one where a failure is caught and asked again.",
            "agents",
        )


RULES: tuple[Callable[[Evidence], Iterator[Advice]], ...] = (
    hit_rate,
    quality,
    frontier_share,
    steps,
    waiting,
    stack_share,
    what_is_left,
    own_or_hosted,
    a_warm_turn,
    going_cold,
    knee,
    failing_kinds,
    assumed,
)


def _first(evidence: Evidence, kind: str) -> Case | None:
    """Of the fewest sessions."""
    assert kind in KINDS
    cases = evidence.latency.of_stack(kind) if evidence.latency else []
    return cases[0] if cases else None


def billions(tokens: float) -> str:
    """Tokens of a month, in words."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if tokens >= size:
            return f"{number(tokens / size)} {word}"
    return number(round(tokens))
