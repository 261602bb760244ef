"""What to change, by where time goes, what servers take, and what agents solve."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness.html import number, percent
from benchmarks.report_evidence import Advice, Evidence
from benchmarks.report_figures import Case
from benchmarks.report_words import KINDS, seconds, sessions, shares

LARGE = 0.50
"""One kind of tokens, or one part of a turn, that is the thing to work on."""
WAITING = 0.20
STACK = 0.05
FAILING = 0.50
"""Solved tasks below which a model is no choice for them."""


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
                timed=True,
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
            yield Advice("change", said, do, "latency", timed=True)
        elif each.share.high > STACK or each.share.high < 0:
            do = "Few pairs, or a busy machine: `--again` with more of them makes this narrower."
            yield Advice("again", said, do, "latency", timed=True)
        else:
            yield Advice(
                "keep", said, "Durability and routing cost next to nothing.", "latency", timed=True
            )


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
            timed=True,
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
        timed=True,
    )


_BINDS = {
    "prefill": "A better hit rate or a faster engine moves it up, and so do replicas.",
    "slots": "Raise `max_running` where the engine has memory for more.",
    "KV memory": "More `kv_cache_gib`, or shorter conversations (`context.strategy`).",
    "front door": "More front doors share the load (`front.peers`).",
    "journal": "A faster disk, or PostgreSQL (`journal.url`).",
}


def capacity(evidence: Evidence) -> Iterator[Advice]:
    if evidence.capacity is None:
        return
    one = evidence.capacity.clusters[0]
    yield Advice(
        "look",
        f"Replicas: {one.replicas:,}. They serve {one.agents:,} agents at once, "
        f"{number(round(one.tasks_a_day))} tasks a day; {one.binds} binds first.",
        _BINDS.get(one.binds, "That is what to add first."),
        "capacity",
    )


def failing_kinds(evidence: Evidence) -> Iterator[Advice]:
    if evidence.agents is None:
        return
    best = max(evidence.agents.models, key=lambda each: each.solved.value)
    said = f"{best.model} solves the most: {percent(best.solved.value)} of {best.tasks} tasks"
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


def _first(evidence: Evidence, kind: str) -> Case | None:
    """Of the fewest sessions."""
    assert kind in KINDS
    cases = evidence.latency.of_stack(kind) if evidence.latency else []
    return cases[0] if cases else None
