"""Each benchmark's tables and plots, below its command."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from benchmarks.harness.html import (
    NOTHING,
    Html,
    Line,
    Piece,
    bars,
    join,
    legend,
    number,
    percent,
    table,
    tag,
)
from benchmarks.harness.svg import Curve, lines
from benchmarks.report_figures import Account, Agents, Cost, Interval, Latency, Load, Spread, Steps
from benchmarks.report_list import Entry
from benchmarks.report_plain import colour, plain
from benchmarks.report_words import answers, dollars, seconds, sessions

_TOKENS = ("fresh", "cached", "output")


def tables(entry: Entry, figures: Any) -> Html:
    """All that is shown of one run, below its command."""
    show = _FORMS.get(entry.figures)
    if show:
        return show(figures)
    known = figures.model_dump() if isinstance(figures, BaseModel) else figures
    return plain(known, entry.drawn)


def cost(found: Cost) -> Html:
    parts: list[object] = [tag("p", found.source, ". ", found.machine.name)]
    for account in found.accounts:
        parts += [tag("h4", account.prices.name), _ways(account)]
        if account is not found.own:
            parts.append(waterfall_of(account))
        parts.append(_source(account))
    parts += [tag("h4", "Tokens a task"), _token_bars(found)]
    if found.break_even:
        parts += [tag("h4", f"Break-even with {found.machine.name}"), *_break_even(found)]
    return join(parts)


def waterfall_of(account: Account) -> Html:
    """Only what is new beside the table: the picture."""
    naive = account.naive.usd
    rows = [
        Line(
            way.name,
            [Piece(way.usd, "ours" if way is account.best else "others")],
            dollars(way.usd),
        )
        for way in account.ways
    ]
    return bars(rows, about=f"Cost by way, {account.prices.name}", whole=naive or None)


def _ways(account: Account) -> Html:
    saved = [NOTHING, *(percent(share) for _, share in account.saved())]
    rows = [
        (
            way.name,
            *(number(round(getattr(way, kind))) for kind in _TOKENS),
            number(way.seconds, "s"),
            dollars(way.usd),
            share,
            percent(way.small_share),
            answers(way),
        )
        for way, share in zip(account.ways, saved, strict=True)
    ]
    columns = ("a task's tokens", *_TOKENS, "engine", "1,000 tasks", "saves", "small", "right")
    return table(columns, rows)


def _source(account: Account) -> Html:
    listed = account.prices
    dated = f"Prices of {listed.date}. " if listed.date else ""
    models = f"Large: {listed.frontier}; small: {listed.small}. "
    return tag("p", dated, models, listed.source, ". ", listed.note, class_="soft")


def _token_bars(found: Cost) -> Html:
    rows = [
        Line(
            way.name,
            [
                Piece(getattr(way, kind), kind, f"{kind}: {number(getattr(way, kind))}")
                for kind in _TOKENS
            ],
            number(round(way.fresh + way.cached + way.output)),
        )
        for way in found.own.ways
    ]
    kinds = (("fresh", "computed anew"), ("cached", "found in the cache"), ("output", "written"))
    return join([bars(rows, about="Tokens of a task by way and kind"), legend(kinds)])


def _break_even(found: Cost) -> list[Html]:
    month = found.machine.usd_per_hour * 730
    rows = [
        (
            each.hosted,
            each.hosted_way,
            dollars(each.hosted_usd),
            number(each.tokens / 1e6),
            number(round(each.tasks)),
            percent(each.share, 1) if each.share <= 1 else f"never: {number(each.share)} machines",
        )
        for each in found.break_even
    ]
    columns = (
        "hosted",
        "over there",
        "1,000 tasks",
        "million tokens a month",
        "tasks",
        "of the machine",
    )
    least = min(each.tokens for each in found.break_even) / 10
    most = max(each.tokens for each in found.break_even) * 5
    curves = [Curve("your own machine", [least / 1e6, most / 1e6], [month, month], "-")]
    hosted = [*dict.fromkeys(each.hosted for each in found.break_even)]
    if least > 0 and month > 0:
        curves += [
            Curve(
                f"{each.hosted}, {each.hosted_way}",
                [least / 1e6, most / 1e6],
                [month * least / each.tokens, month * most / each.tokens],
                "-" if place % 2 == 0 else "--",
                colour=1 + hosted.index(each.hosted),
            )
            for place, each in enumerate(found.break_even)
        ]
        plot = lines(curves, x="million tokens a month, cached ones too", y="USD a month", log="xy")
        drawn = figure(
            plot, "A hosted bill grows with the tokens; a machine costs the same busy or idle."
        )
    else:
        drawn = Html()
    note = "Tokens are compared, not models: a hosted large model is another than that served here."
    return [drawn, table(columns, rows, left=2), tag("p", note, class_="soft")]


def latency(found: Latency) -> Html:
    parts: list[object] = []
    for arm, title in (("stack", "A turn of the stack"), ("bare", "A turn of the bare engine")):
        cases = [each for each in found.cases if each.arm == arm]
        if not cases:
            continue
        names = dict.fromkeys(part for case in cases for part in case.parts)
        used = [name for name in names if any(_some(case.parts.get(name)) for case in cases)]
        rows: list[Sequence[object]] = [
            ("turns", *(number(case.turns) for case in cases)),
            ("cached", *(percent(case.cached_share) for case in cases)),
            *((name, *(_spread(case.parts.get(name)) for case in cases)) for name in used),
            (tag("b", "whole"), *(tag("b", _spread(case.whole)) for case in cases)),
            ("first text", *(_spread(case.first_text) for case in cases)),
        ]
        heads = (f"{case.kind}, {sessions(case.sessions)}" for case in cases)
        parts += [tag("h4", f"{title}: p50, p99"), table(("", *heads), rows)]
    if found.compared:
        rows = [
            (
                f"{each.kind}, {sessions(each.sessions)}",
                number(each.pairs),
                _interval(each.share, percent),
                _interval(each.added_s, seconds),
            )
            for each in found.compared
        ]
        parts += [
            tag("h4", "What the stack adds to the bare engine's turn: median (95 %)"),
            table(("turns", "pairs", "adds", "time"), rows),
        ]
    return join(parts)


def load(found: Load) -> Html:
    runs = sorted(found.runs, key=lambda run: run.rate or 0.0)
    rows = [
        (
            number(run.rate),
            number(run.figures.requests_per_s),
            number(run.figures.requests),
            percent(run.figures.good_share, 1),
            number(run.figures.good_per_s),
            seconds(run.figures.ttft.p50),
            seconds(run.figures.ttft.p99),
            seconds(run.figures.latency.p99),
            percent(run.figures.cached_share),
            number(sum(run.figures.errors.values())),
        )
        for run in runs
    ]
    columns = (
        *("sessions/s", "requests/s", "counted", "good", "good/s"),
        *("first token p50", "p99", "whole p99", "cached", "errors"),
    )
    parts: list[object] = []
    if found.knee and found.knee.low is not None:
        to = f" to {number(found.knee.high)}" if found.knee.high is not None else " or more"
        parts.append(
            tag("p", "The knee: ", tag("b", number(found.knee.low), to), " sessions a second.")
        )
    parts.append(table(columns, rows))
    drawn = [run for run in runs if run.rate and run.figures.ttft.p50 and run.figures.ttft.p99]
    if len(drawn) > 1:
        rates = [run.rate or 0.0 for run in drawn]
        curves = [
            Curve(name, rates, [getattr(run.figures.ttft, name) or 0.0 for run in drawn], style)
            for name, style in (("p50", "o-"), ("p99", "o--"))
        ]
        plot = lines(curves, x="sessions a second", y="first token, s", log="xy")
        parts.append(figure(plot, "First token, counted from when a request was due."))
    doubts = [f"{number(run.rate)} sessions/s: {why}" for run in runs for why in run.doubts]
    parts += [tag("p", "Not judged: ", each, class_="warn") for each in doubts]
    return join(parts)


def agents(found: Agents) -> Html:
    rows = [
        (
            each.model,
            f"{percent(each.solved.value)} of {each.tasks}",
            f"{percent(each.solved.low)} to {percent(each.solved.high)}",
            number(each.turns.value),
            number(each.tool_errors.value),
            *(number(round(getattr(each, kind).value)) for kind in _TOKENS),
            dollars(each.cost_usd.value) if each.cost_usd else NOTHING,
            dollars(each.usd_a_solved_task) if each.usd_a_solved_task is not None else NOTHING,
            seconds(each.seconds.value),
        )
        for each in found.models
    ]
    columns = (
        *("model", "solved", "95 %", "turns", "refused calls", *_TOKENS),
        *("1,000 tasks", "1,000 solved", "a task"),
    )
    kinds = [*dict.fromkeys(kind for each in found.models for kind in each.by_kind)]
    where = [
        (each.model, *("{} of {}".format(*each.by_kind.get(kind, (0, 0))) for kind in kinds))
        for each in found.models
    ]
    solved = [
        Line(each.model, [Piece(each.solved.value, "ours")], percent(each.solved.value))
        for each in found.models
    ]
    return join(
        [
            bars(solved, about="Share of tasks that each model solves", whole=1.0),
            table(columns, rows),
            tag("h4", "Solved, by kind of task"),
            table(("model", *kinds), where),
        ]
    )


def steps(found: Steps) -> Html:
    """Medians of the rounds; the bars are of the steps a second."""
    parts: list[object] = []
    for label, loops in found.root.items():
        medians = {
            name: [
                statistics.median(getattr(each, field) for each in rounds)
                for field in ("cpu_ms_per_step", "steps_per_s", "cpu_ms_per_response")
            ]
            for name, rounds in loops.items()
            if rounds
        }
        rows = [(name, *map(number, each)) for name, each in medians.items()]
        longest = [
            Line(name, [Piece(each[0], colour(name))], number(each[0], "ms"))
            for name, each in medians.items()
        ]
        columns = ("loop", "CPU ms a step", "steps/s", "CPU ms a response")
        parts += [
            tag("h4", f"{label}: CPU of a step"),
            bars(longest, about=f"CPU of a step, {label}"),
            table(columns, rows),
        ]
    return join(parts)


def figure(drawn: Html, caption: str) -> Html:
    return tag("figure", drawn, tag("figcaption", caption))


def _some(spread: Spread | None) -> bool:
    return spread is not None and bool(spread.p99)


def _spread(spread: Spread | None) -> str:
    if spread is None or not _some(spread):
        return NOTHING
    return f"{seconds(spread.p50)}, {seconds(spread.p99)}"


def _interval(found: Interval, said: Callable[..., str]) -> str:
    digits = (1,) if said is percent else ()
    value, low, high = (said(each, *digits) for each in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


_FORMS: Mapping[str, Callable[[Any], Html]] = {
    "cost": cost,
    "latency": latency,
    "load": load,
    "agents": agents,
    "steps": steps,
}
