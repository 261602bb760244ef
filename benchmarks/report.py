"""One page of all runs: what a task costs, why, and what to change: `python -m benchmarks.report`.

    RESULTS ...     files that benchmarks wrote, or folders of them; default: out
    --out FOLDER    where report.html goes; default: out

The page needs no network and no script: open it, send it, print it. First comes the answer, then
why, then what to change by plain rules over the figures, the bars, and each benchmark with the
command that makes it, its commit and its machine. It says which are missing, and which figures are
older than the code that they measure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness.html import Html, join, number, page, prose, table, tag
from benchmarks.harness.run import out_folder
from benchmarks.report_advice import advice
from benchmarks.report_answer import (
    answer,
    in_short,
    prices,
    saving,
    times_of,
)
from benchmarks.report_evidence import Advice, Evidence
from benchmarks.report_read import Result, Results, age, read
from benchmarks.report_tables import tables
from benchmarks.report_words import cost_of, latency_of
from serving.errors import ConfigError

TITLE = "What a task costs, why, and what to change"
_KINDS = {
    "change": ("change", "bad"),
    "look": ("look at", "look"),
    "again": ("measure", "look"),
    "keep": ("good", "good"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS")
    parser.add_argument("--out", type=out_folder, default=Path("out"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        results = read(options.results or [Path("out")])
        if not results.runs:
            raise ConfigError(
                "RESULTS: no report of a run there; make one with `warmloop bench cost --offline`"
            )
        ages = {run.entry.name: age(run.envelope.commit, run.entry.code) for run in results.runs}
        options.out.mkdir(parents=True, exist_ok=True)
        written = options.out / "report.html"
        written.write_text(whole(results, ages), encoding="utf-8")
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for each in results.left_out:
        print(f"left out: {each}", file=sys.stderr)
    print(f"{written}: {len(results.runs)} runs, {len(results.missing)} missing")
    return 0


def whole(results: Results, ages: Mapping[str, str]) -> str:
    """The page; `ages`: by an entry's name, why its figures may be old. Pure."""
    cost, latency = cost_of(results), latency_of(results)
    found = advice(Evidence.of(results))
    return page(
        TITLE,
        tag("h1", TITLE),
        _about(results),
        answer(cost),
        in_short(cost, latency, found),
        _links(),
        tag("h2", "What a task costs, under which prices", id="cost"),
        prices(cost),
        made(cost, ages),
        tag("h2", "Why: which step saves how much", id="why"),
        saving(cost),
        tag("h2", "Why: where the time of a turn goes", id="time"),
        times_of(latency),
        made(latency, ages),
        tag("h2", "What to change", id="change"),
        what_to_change(results, found),
        tag("h2", "Bars", id="bars"),
        held(results),
        tag("h2", "Each benchmark", id="all"),
        contents(results),
        *(section(run, ages) for run in results.runs),
        missing(results),
        left_out(results),
    )


def _about(results: Results) -> Html:
    machines = dict.fromkeys(str(run.envelope.machine) for run in results.runs)
    days = sorted({run.envelope.day for run in results.runs})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    runs = "1 run" if len(results.runs) == 1 else f"{len(results.runs)} runs"
    commits = {run.envelope.commit[:10] for run in results.runs if run.envelope.commit}
    code = f"commit {commits.pop()}" if len(commits) == 1 else f"{len(commits)} commits"
    return tag("p", f"Warmloop, {runs} of {span}; {code}; ", "; ".join(machines), class_="soft")


def _links() -> Html:
    links = (
        ("cost", "prices"),
        ("why", "what saves"),
        ("time", "where time goes"),
        ("change", "what to change"),
        ("bars", "bars"),
        ("all", "each benchmark"),
    )
    return tag("nav", *(tag("a", said, href=f"#{name}") for name, said in links))


def made(result: Result | None, ages: Mapping[str, str]) -> Html:
    """The command, commit, machine and date of figures; warnings where they are owed."""
    if result is None:
        return Html()
    run = result.envelope
    changed = ", with uncommitted changes" if run.changed else ""
    commit = f"commit {run.commit[:10]}{changed}" if run.commit else "no commit"
    line = tag(
        "p",
        tag("code", run.command),
        f" · {run.began[:16].replace('T', ' ')} UTC, {number(run.seconds)} s · {commit} · "
        f"{run.machine}, Python {run.machine.python}, load {run.machine.load_before:g} before and "
        f"{run.machine.load_after:g} after",
        class_="soft",
    )
    warnings = [ages.get(result.entry.name, "")]
    if result.busy:
        warnings.append(
            f"Others used the machine when it began (load {run.machine.load_before:g} on "
            f"{run.machine.cores} cores): its times and rates say little. Measure it again alone."
        )
    return join([line, *(tag("p", each, class_="warn") for each in warnings if each)])


def what_to_change(results: Results, found: Sequence[Advice]) -> Html:
    if not found:
        return tag("p", "Nothing was measured that a rule goes by.")
    items = []
    for each in found:
        said, style = _KINDS[each.kind]
        items.append(
            tag(
                "li",
                tag("span", said, class_=f"kind {style}"),
                tag("p", tag("b", each.found), " ", prose(each.do), *_doubt(results, each)),
            )
        )
    note = "Derived by plain rules: benchmarks/report_cost_rules.py and report_time_rules.py."
    return join([tag("ol", *items, class_="advice"), tag("p", note, class_="soft")])


def _doubt(results: Results, said: Advice) -> list[object]:
    """Where the advice goes by times of a busy machine."""
    runs = {"latency": latency_of(results), "cost": cost_of(results)}
    run = runs.get(said.by) or results.of(said.by)
    if run is None or not said.timed or not run.busy:
        return []
    return [" ", tag("span", "Measured on a busy machine: measure again first.", class_="look")]


def held(results: Results) -> Html:
    """Every bar, those that were missed first."""
    bars = [(run, bar) for run in results.runs for bar in run.envelope.bars]
    if not bars:
        return tag("p", "No run here has a bar.")
    judged = [bar for _, bar in bars if bar.value is not None]
    reached = sum(not bar.missed for bar in judged)
    rows = []
    for run, bar in sorted(bars, key=lambda each: (not each[1].missed, each[1].value is None)):
        if bar.value is None:
            said = tag("span", "not judged", class_="look")
        elif bar.missed:
            said = tag("span", "missed", class_="bad")
        else:
            said = tag("span", "reached", class_="good")
        limit = f"{'≤' if bar.at_most else '≥'} {number(bar.limit)}"
        if run.busy:
            said = join([said, tag("span", ", busy machine", class_="look")])
        measured = number(bar.value)
        if bar.value is not None and bar.value != bar.limit and measured == number(bar.limit):
            measured = f"{bar.value:.6g}"
        link = tag("a", run.entry.name, href=f"#{_anchor(run.entry.name)}")
        rows.append((link, bar.what, measured, limit, said))
    lead = tag(
        "p",
        tag("b", f"{reached} of {len(judged)} reached."),
        " A bar was set before it was measured.",
    )
    return join([lead, table(("benchmark", "bar", "measured", "limit", ""), rows, left=2)])


def contents(results: Results) -> Html:
    links = [tag("a", run.entry.name, href=f"#{_anchor(run.entry.name)}") for run in results.runs]
    return tag("nav", *(link for link in links))


def section(run: Result, ages: Mapping[str, str]) -> Html:
    return join(
        [
            tag("h3", f"{run.entry.name}: {run.entry.question}", id=_anchor(run.entry.name)),
            made(run, ages),
            tables(run.entry, run.envelope.figures),
        ]
    )


def missing(results: Results) -> Html:
    """Those that were not run, each with the command that makes it."""
    if not results.missing:
        return Html()
    rows = [(each.name, each.question, tag("code", each.command)) for each in results.missing]
    return join(
        [
            tag("h3", "Not run", id="missing"),
            table(("benchmark", "what it would say", "made by"), rows, left=3),
        ]
    )


def left_out(results: Results) -> Html:
    if not results.left_out:
        return Html()
    items = (tag("li", each) for each in results.left_out)
    return join([tag("h3", "Files that were left out"), tag("ul", *items, class_="soft")])


def _anchor(name: str) -> str:
    return "of-" + "".join(each if each.isalnum() else "-" for each in name)


if __name__ == "__main__":
    sys.exit(main())
