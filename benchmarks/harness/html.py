"""A page of HTML from values: whatever is not `Html` already is escaped, so no file can add a tag.

    tag("p", "a < b", class_="note")     <p class="note">a &lt; b</p>
    table, bars                          what the pages of benchmarks are made of
    page(title, body)                    one file: no script, nothing from a network

Bars are boxes with widths in percent: they follow the width of a phone and the colours of the page,
and a printer shows them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = Path(__file__).with_name("page.css")
_VOID = frozenset({"br", "hr", "meta"})
NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """One element. `class_` is class; a child or an attribute that is None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{said}>")
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """One after another, escaped where they are not HTML."""
    return Html(
        "".join(
            each if isinstance(each, Html) else html.escape(str(each))
            for each in children
            if each is not None
        )
    )


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], *, left: int = 1) -> Html:
    """The first `left` columns are words, the others figures; a narrow page scrolls it."""

    def line(kind: str, cells: Sequence[object]) -> Html:
        return tag(
            "tr",
            *(
                tag("th" if place == 0 and kind == "td" else kind, cell, class_=_side(place, left))
                for place, cell in enumerate(cells)
            ),
        )

    head = tag("thead", line("th", columns))
    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("div", tag("table", head, body), class_="wide", tabindex=0)


def _side(place: int, left: int) -> str | None:
    return None if place < left else "figure"


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a bar: how long, in the unit of its chart; what it is, as a class of the page's style."""

    length: float
    kind: str
    about: str = ""
    """Shown where a pointer rests on it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A bar with its label before and its figure behind it."""

    label: object
    pieces: Sequence[Piece]
    said: object = ""


GAP = "gap"
"""The kind of a piece that is not drawn: the bar begins behind it."""


def bars(lines: Sequence[Line], *, about: str, whole: float | None = None) -> Html:
    """The longest one, or `whole`, is as long as there is room. `about` says it to a reader who
    does not see it."""
    longest = whole or max((sum(p.length for p in line.pieces) for line in lines), default=0.0)
    rows = []
    for line in lines:
        pieces = [
            tag(
                "i",
                class_=piece.kind,
                style=f"width:{100 * piece.length / longest:.2f}%",
                title=piece.about or None,
            )
            for piece in line.pieces
            if longest and math.isfinite(piece.length) and piece.length > 0
        ]
        rows += [
            tag("div", line.label, class_="label"),
            tag("div", *pieces, class_="track"),
            tag("div", line.said, class_="said"),
        ]
    return tag("div", *rows, class_="bars", role="img", aria_label=about)


def legend(kinds: Iterable[tuple[str, str]]) -> Html:
    """(kind, what it is) of the pieces above or below."""
    return tag(
        "p", *(tag("span", tag("i", class_=kind), " ", said) for kind, said in kinds), class_="keys"
    )


def page(title: str, *body: object) -> str:
    """The whole file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def number(value: float | None, unit: str = "") -> str:
    """Three digits at a glance; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        said = f"{value:.2e}"
    else:
        digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2
        said = f"{value:,.{digits}f}" if size >= 1 or not value else f"{value:.3g}"
    return f"{said} {unit}".rstrip().replace("-", MINUS)


def percent(share: float | None, digits: int = 0) -> str:
    if share is None or not math.isfinite(share):
        return NOTHING
    said = f"{share:.{digits}%}"
    return said.replace("-", MINUS if said.strip("-0.%") else "")


def change(share: float | None) -> str:
    """A share that was added or taken away."""
    said = percent(share)
    return f"+{said}" if share is not None and share > 0 and said != "0%" else said


def prose(said: str) -> Html:
    """Text with `code` in it."""
    return join(
        tag("code", each) if place % 2 else each for place, each in enumerate(said.split("`"))
    )
