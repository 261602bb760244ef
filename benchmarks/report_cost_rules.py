"""What to change, by the figures of what a task costs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness.html import number, percent
from benchmarks.report_evidence import Advice, Evidence

HIT_RATE = 0.80
"""Of the prompt tokens: agents' recorded sessions reach .9 and more."""
QUALITY = 0.95
"""Of the answers that are right when the frontier is asked always (`tiers.quality_floor`)."""
WORTH = 0.03
"""A step that saves less of what is left is not worth its risk."""
LARGE = 0.50
"""One kind of tokens, or one part of a turn, that is the thing to work on."""


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
    said = f"{best.right:,} answers are right; the large model alone has {naive.right:,}"
    if naive.right and best.right / naive.right < QUALITY:
        yield Advice(
            "change",
            f"{said}: {percent(best.right / naive.right)}.",
            "Raise `tiers.quality_floor`, or report what was right to /v1/warmloop/outcomes, so "
            "that the policy learns where the small model fails.",
            "cost",
        )
    else:
        yield Advice("keep", f"{said}.", "The saving is not bought with errors.", "cost")


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
    hosted = [dict(account.saved()) for account in evidence.cost.accounts[1:]]
    for name, share in evidence.cost.own.saved():
        step = name.removeprefix("+ ")
        elsewhere = [saved.get(name, 0.0) for saved in hosted]
        if elsewhere and not any(round(each, 3) for each in elsewhere):
            yield Advice(
                "look",
                f"{step.capitalize()} changes nothing here: the tokens are the same without it.",
                "What it adds to the time is noise; leave it out, or find out why it has no work.",
                "cost",
            )
        elif share < 0:
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
            timed=machine.measured,
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
        timed=machine.measured,
    )


def assumed(evidence: Evidence) -> Iterator[Advice]:
    if evidence.cost is not None and not evidence.cost.machine.measured:
        yield Advice(
            "again",
            "The machine's speed is assumed, and so is how often models are right.",
            "Run `warmloop bench cost` on the machine that you would pay for before you decide.",
            "cost",
        )


def billions(tokens: float) -> str:
    """Tokens of a month, in words."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if tokens >= size:
            return f"{number(tokens / size)} {word}"
    return number(round(tokens))
