"""Latency benchmark, what is shown: tables, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.harness.show import OTHERS, OURS, picture, table
from benchmarks.harness.stats import Interval
from benchmarks.latency_budget import PARTS, STACK
from benchmarks.latency_figures import Case, Compared, Figures, Journal, Parts, Spread
from benchmarks.latency_load import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "network": "#fdd0a2",
    "to begin": "#fdae6b",
    "to ask": "#fd8d3c",
    "to call": "#f16913",
    "to end": "#d94801",
    "orchestration": "#a63603",
    "router": "#7f2704",
    "queue": "#969696",
    "server": "#9ecae1",
    "first token": "#4292c6",
    "prefill": "#2171b5",
    "decode": "#084594",
    "tool": "#74c476",
    "rest": "#e377c2",
}
"""The stack's own in orange, the engine's in blue."""
TITLES: dict[Arm, str] = {"stack": "the stack", "bare": "the bare engine"}


def tables(
    console: Console,
    found: Mapping[Case, Figures],
    journals: Mapping[str, Journal],
    beside: Mapping[Case, Compared],
) -> None:
    """All figures, on the terminal."""
    for arm, title in TITLES.items():
        _parts(console, f"A turn of {title}, ms: p50, p99", arm, found)
    rows = [
        (name, f"{each.appends:.1f}", _ms(each.storing), _ms(each.clock))
        for name, each in journals.items()
    ]
    columns = (
        "a response",
        "appends",
        "to begin + ask + call + end",
        "of it by the journal's clock",
    )
    console.print(table("Storing, ms: p50, p99", columns, rows))
    compare = [
        (
            str(case),
            f"{each.pairs}" + (f" ({each.left_out} left out)" if each.left_out else ""),
            _interval(each.share, 100, "%"),
            _interval(each.added_s, 1000),
            _interval(each.explained_s, 1000),
            _interval(each.first_text_added_s, 1000) if each.first_text_added_s else "",
        )
        for case, each in beside.items()
    ]
    columns_of = ("turns", "pairs", "adds", "ms", "by the parts, ms", "to the first text, ms")
    title = "What the stack adds to the bare engine's turn: median (95 %)"
    console.print(table(title, columns_of, compare))


def _parts(console: Console, title: str, arm: Arm, found: Mapping[Case, Figures]) -> None:
    """A column for each case."""
    chosen = {case: each for case, each in found.items() if case.arm == arm}
    used = [part for part in PARTS if any(each.parts[part].p99 for each in chosen.values())]
    rows = [
        ("turns", *(str(each.turns) for each in chosen.values())),
        ("cached", *(f"{each.cached_share:.0%}" for each in chosen.values())),
        *((part, *(_ms(each.parts[part]) for each in chosen.values())) for part in used),
        ("whole", *(_ms(each.whole) for each in chosen.values())),
        ("first event", *(_ms(each.first_event) for each in chosen.values())),
        ("first text", *(_ms(each.first_text) for each in chosen.values())),
    ]
    console.print(table(title, ("", *map(str, chosen)), rows))


def _ms(said: Spread | None) -> str:
    if said is None or not said.p99:
        return ""
    return "  ".join(f"{1000 * s:,.{1 if s < 0.1 else 0}f}" for s in (said.p50, said.p99))


def _interval(said: Interval, times: float, unit: str = "") -> str:
    value, low, high = (f"{each * times:.1f}" for each in (said.value, said.low, said.high))
    return f"{value}{unit} ({low} to {high})"


def draw(found: Mapping[Case, Figures], path: Path, title: str) -> None:
    """Write the picture."""
    from matplotlib.patches import Patch

    used = [part for part in PARTS if any(each.parts[part].p99 for each in found.values())]
    ours = {case: each for case, each in found.items() if case.arm == "stack"}
    with picture(path, 2, 2, size=(15, 11), title=title, dpi=110) as panels:
        about = "where its time goes, %; at the end the whole, ms"
        rows = [(f"{case}: {case.arm}", each.at_p50) for case, each in found.items()]
        _shares(panels[0], rows, f"a turn about the median: {about}")
        rows = [(f"{case}: {case.arm}", each.at_p99) for case, each in found.items()]
        _shares(panels[1], rows, f"the slowest hundredth of turns: {about}")
        rows = [
            (f"{case}: {name}", parts)
            for case, each in ours.items()
            for name, parts in (("p50", each.at_p50), ("p99", each.at_p99))
        ]
        _own(panels[2], rows)
        _first(panels[3], found)
        patches = [Patch(color=COLOURS[part], label=part) for part in used]
        panels[0].figure.legend(
            handles=patches, loc="outside lower center", ncols=len(used), fontsize=9, frameon=False
        )


def _shares(panel: Axes, rows: Sequence[tuple[str, Parts]], about: str) -> None:
    """Each turn as wide as the others: a cold one takes many times as long as a warm one."""
    wholes = [sum(parts.values()) for _, parts in rows]
    shares = [
        {part: 100 * each / whole for part, each in parts.items()}
        for (_, parts), whole in zip(rows, wholes, strict=True)
    ]
    labels = [label for label, _ in rows]
    _stack(panel, labels, shares, totals=wholes, about=about)


def _own(panel: Axes, rows: Sequence[tuple[str, Parts]]) -> None:
    own = [{part: 1000 * parts[part] for part in STACK} for _, parts in rows]
    totals = [sum(each.values()) / 1000 for each in own]
    about = "of these turns the stack's own parts, ms"
    _stack(panel, [label for label, _ in rows], own, totals=totals, about=about)


def _stack(
    panel: Axes,
    labels: Sequence[str],
    rows: Sequence[Parts],
    *,
    totals: Sequence[float],
    about: str,
) -> None:
    places = range(len(rows))
    left = [0.0] * len(rows)
    for part in rows[0]:
        widths = [row[part] for row in rows]
        panel.barh(places, widths, 0.75, left=left, color=COLOURS[part])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, end, total in zip(places, left, totals, strict=True):
        panel.text(end, place, f" {total * 1000:,.1f}", va="center", fontsize=8)
    panel.set_yticks(places, labels)
    panel.invert_yaxis()
    panel.margins(x=0.1)
    panel.set_title(about, fontsize=10)


def _first(panel: Axes, found: Mapping[Case, Figures]) -> None:
    """Time to the first event and to the first text, as a client sees them."""
    from matplotlib.ticker import LogLocator, NullLocator

    rows = [
        (f"{case}: {case.arm}, {name}", said, OURS if case.arm == "stack" else OTHERS)
        for case, each in found.items()
        for name, said in (("event", each.first_event), ("text", each.first_text))
        if said is not None
    ]
    for place, (_, said, colour) in enumerate(rows):
        panel.plot([said.p50 * 1000, said.p99 * 1000], [place, place], color=colour, linewidth=1)
        panel.plot([said.p50 * 1000], [place], "o", color=colour, markersize=7)
        panel.text(said.p99 * 1000, place, f" {said.p50 * 1000:,.1f}", va="center", fontsize=7)
    panel.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=7)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(axis="x", linewidth=0.3)
    panel.set_title("first event and first text, ms: p50, and a line to p99", fontsize=10)
