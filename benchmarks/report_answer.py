"""The head of the report: what a task costs, and why.

cost on engines, else by a trace ──► naive against best, under each price list
                                 ──► what each step saved
latency                          ──► where a turn's time goes
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.html import (
    GAP,
    Html,
    Line,
    Piece,
    bars,
    change,
    join,
    legend,
    number,
    percent,
    prose,
    table,
    tag,
)
from benchmarks.report_evidence import Advice
from benchmarks.report_figures import Account, Case, Cost, Latency, Way
from benchmarks.report_read import Result
from benchmarks.report_words import (
    GROUPS,
    KINDS,
    absent,
    answers,
    dollars,
    seconds,
    sessions,
    shares,
    times,
    usd,
)

STEPS = {
    "+ prefix cache": "The engine keeps what it has read and computes only what is new in a turn.",
    "+ routing": "The small model answers where it is good enough, by its record.",
    "+ tool-output compression": "Long results of tools are cut before a model sees them.",
    "+ adapter": "The small model has a LoRA adapter for the tools, so it can take more turns.",
}


def answer(result: Result | None) -> Html:
    """The one sentence to take away."""
    if result is None:
        return absent("What a task costs has not been measured.", "warmloop bench cost")
    cost: Cost = result.envelope.figures
    own = cost.own
    if own.factor > 1:
        than = join([" instead of ", dollars(own.naive.usd), ": ", tag("b", times(own.factor))])
    else:
        than = join([": no less than naively, ", dollars(own.naive.usd)])
    machine = f"{cost.machine.name} at {usd(cost.machine.usd_per_hour)} an hour, kept busy"
    hosted = [account.factor for account in cost.accounts[1:]]
    under = f"Under hosted prices: {number(min(hosted))} to {times(max(hosted))}." if hosted else ""
    return join(
        [
            tag(
                "p",
                "A thousand tasks cost ",
                tag("b", dollars(own.best.usd)),
                " on your own machine",
                than,
                ".",
                class_="lead",
            ),
            tag("p", f"The machine: {machine}. {under}"),
        ]
    )


def in_short(cost: Result | None, latency: Result | None, found: Sequence[Advice]) -> Html:
    """Why, what to change, and how far to trust it: a line each."""
    lines: list[tuple[str, object]] = []
    if cost is not None:
        lines += _of_cost(cost)
    if latency is not None:
        lines.append(("Time", slowest(latency)))
    first = [each for each in found if each.kind in ("change", "look")][:2]
    lines += [("Change", join([each.found, " ", prose(each.do)])) for each in first]
    items = [part for name, said in lines for part in (tag("dt", name), tag("dd", said))]
    return tag("dl", *items)


def _of_cost(result: Result) -> list[tuple[str, object]]:
    cost: Cost = result.envelope.figures
    naive, best = cost.own.naive, cost.own.best
    tokens = number(round(naive.fresh + naive.cached + naive.output))
    kept = f" ({percent(best.right / naive.right)})" if 0 < best.right < naive.right else ""
    steps = ", ".join(
        f"{name.removeprefix('+ ')} {change(-share)}" for name, share in cost.own.saved()
    )
    how = (
        "Measured: real engines ran every call."
        if cost.machine.measured
        else "Computed from a trace by the router's own code. No engine ran: the machine's speed, "
        "and how often models are right, are assumed."
    )
    return [
        (
            "A task",
            f"is an agent's whole conversation, {turns_of(naive, result)}: {tokens} tokens, of "
            f"which it writes {number(round(naive.output))}.",
        ),
        ("Instead", "of the large model for every turn with nothing kept in a cache (naive)."),
        ("Why", f"Step by step, of what was left: {steps}."),
        ("Quality", f"{answers(best)} answers are right{kept}; naively {number(naive.right)}."),
        ("How known", how),
    ]


def slowest(latency: Result) -> str:
    """What most of a warm turn goes to."""
    warm = latency.envelope.figures.of_stack("warm")
    if not warm:
        return "no warm turn was measured"
    found = sorted(shares(warm[0]).items(), key=lambda each: -each[1])[:2]
    said = ", ".join(f"{percent(share)} {GROUPS[kind][0]}" for kind, share in found)
    return f"Of a warm turn of {seconds(warm[0].whole_at_p50)}: {said}."


def prices(result: Result | None) -> Html:
    """Naive against best, a row a list."""
    if result is None:
        return absent("Not measured.", "warmloop bench cost")
    cost: Cost = result.envelope.figures
    rows = [
        (
            where(account, cost),
            dollars(account.naive.usd),
            tag("b", dollars(account.best.usd)),
            tag("b", number(account.factor)),
        )
        for account in cost.accounts
    ]
    return table(("1,000 tasks", "naive", "best", "times less"), rows)


def where(account: Account, cost: Cost) -> Html:
    listed = account.prices
    if account is cost.own:
        name, more = "your own machine", f"{cost.machine.name}, while it is busy"
    else:
        name, more = listed.name, f"{listed.frontier}, {listed.small}; as of {listed.date}"
    return join([name, tag("br"), tag("span", more, class_="soft")])


def saving(cost: Result | None) -> Html:
    """Where the money was saved."""
    if cost is None:
        return absent("Not measured.", "warmloop bench cost")
    figures: Cost = cost.envelope.figures
    named = {name for name, _ in figures.own.saved()}
    what = [(name, said) for name, said in STEPS.items() if name in named]
    items = [part for name, said in what for part in (tag("dt", name), tag("dd", said))]
    return join([waterfall(figures.own), tag("dl", *items), steps(figures)])


def waterfall(account: Account) -> Html:
    """Down from naive to best: each step takes its saving away."""
    naive, best = account.naive, account.best
    lines = [Line("naive", [Piece(naive.usd, "others")], dollars(naive.usd))]
    for before, after, share in zip(
        account.ways, account.ways[1:], (share for _, share in account.saved()), strict=False
    ):
        low, high = sorted((before.usd, after.usd))
        kind = "saved" if after.usd <= before.usd else "dearer"
        lines.append(Line(after.name, [Piece(low, GAP), Piece(high - low, kind)], change(-share)))
    lines.append(Line(tag("b", "best"), [Piece(best.usd, "ours")], tag("b", dollars(best.usd))))
    about = f"From {dollars(naive.usd)} to {dollars(best.usd)} for 1,000 tasks, step by step"
    return join(
        [
            bars(lines, about=about),
            tag(
                "p",
                "On your own machine, US dollars for 1,000 tasks; each step as a share of what was "
                f"left before it. Of a task's prompt {percent(best.hit_rate)} of the tokens are "
                f"found in a cache instead of computed, and the small model gives "
                f"{percent(best.small_share)} of the answers.",
                class_="soft",
            ),
        ]
    )


def steps(cost: Cost) -> Html:
    """The same under all lists."""
    names = [way.name for way in cost.own.ways[1:]]
    rows = []
    for account in cost.accounts:
        saved = dict(account.saved())
        rows.append((account.prices.name, *(change(-saved.get(name, 0.0)) for name in names)))
    return table(("each step, under the prices of", *names), rows)


def times_of(latency: Result | None) -> Html:
    """Where a turn's time goes, and what of it is the stack's."""
    if latency is None:
        return absent("Not measured.", "warmloop bench latency")
    figures: Latency = latency.envelope.figures
    cases = [case for kind in KINDS for case in figures.of_stack(kind)]
    compared = [each for each in figures.compared if each.kind == "warm"]
    said: list[object] = []
    if latency.envelope.configuration.get("simulated"):
        said.append("The engine is simulated: its times are what it was told. ")
    for each in sorted(compared, key=lambda each: each.sessions)[:1]:
        said += [
            "Beside the bare engine the stack adds ",
            tag("b", percent(each.share.value, 1)),
            f" ({percent(each.share.low, 1)} to {percent(each.share.high, 1)}; "
            f"{each.pairs} pairs) to a warm turn.",
        ]
    return join([turn_bars(cases), tag("p", *said) if said else None])


def turn_bars(cases: Sequence[Case]) -> Html:
    """A turn about the median, all equally wide: a cold one takes many times as long."""
    lines = []
    for case in cases:
        whole = case.whole_at_p50
        pieces = [
            Piece(share, kind, f"{GROUPS[kind][0]}: {percent(share)}")
            for kind, share in shares(case).items()
        ]
        label = f"{KINDS.get(case.kind, case.kind)}, {sessions(case.sessions)}"
        lines.append(Line(label, pieces, seconds(whole)))
    used = [kind for kind in GROUPS if any(shares(case)[kind] >= 0.002 for case in cases)]
    about = "Shares of a turn's time: " + "; ".join(
        f"{line.label}: {', '.join(piece.about for piece in line.pieces)}" for line in lines
    )
    return join([bars(lines, about=about, whole=1.0), legend((k, GROUPS[k][0]) for k in used)])


def turns_of(way: Way, result: Result) -> str:
    tasks = result.envelope.configuration.get("tasks")
    if isinstance(tasks, int) and tasks > 0 and way.checked and way.checked % tasks == 0:
        return f"{way.checked // tasks} turns"
    return "some turns"
