"""Lines over an axis as inline SVG, drawn by matplotlib; the same figures give the same text.

Text stays text and follows the page's own colour, light or dark. What files said is drawn as it
stands: no `$` begins a formula.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.harness.html import Html, number

if TYPE_CHECKING:
    from matplotlib.axis import Axis

COLOURS = ("#d9660a", "#2f7fc1", "#3d9a50", "#9467bd", "#b5651d", "#c2408d")
"""Ours is the first one."""
_INK = "#010203"
"""Stands for the page's own colour until the picture is text."""


@dataclass(frozen=True, slots=True)
class Curve:
    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "o-"
    colour: int | None = None
    """Its place among COLOURS; else each has one of its own."""


def lines(
    curves: Sequence[Curve],
    *,
    x: str,
    y: str,
    log: str = "",
    limit: tuple[str, float] | None = None,
    from_zero: bool = False,
) -> Html:
    """One panel. `log` names axes ("x", "xy"); `limit` is a level to hold the curves against."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": f"{x}/{y}",
            "text.parse_math": False,
            "font.family": "sans-serif",
            "font.size": 10,
            "text.color": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
        }
    ):
        figure, panel = pyplot.subplots(figsize=(7.0, 4.0), layout="constrained")
        try:
            panel.spines[["top", "right"]].set_visible(False)
            for place, curve in enumerate(curves):
                chosen = place if curve.colour is None else curve.colour
                colour = COLOURS[chosen % len(COLOURS)]
                panel.plot(curve.x, curve.y, curve.style, color=colour, label=_plain(curve.label))
            if limit:
                panel.axhline(limit[1], color=_INK, linestyle=":", label=_plain(limit[0]))
            if "x" in log:
                panel.set_xscale("log")
                _ticks(panel.xaxis, [value for curve in curves for value in curve.x])
            if "y" in log:
                panel.set_yscale("log")
                _ticks(panel.yaxis, [value for curve in curves for value in curve.y])
            if from_zero:
                panel.set_ylim(bottom=0)
            panel.set_xlabel(x)
            panel.set_ylabel(y)
            panel.legend(
                frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17)
            )
            written = io.StringIO()
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(written, format="svg", transparent=True, metadata=metadata)
        finally:
            pyplot.close(figure)
    drawn = written.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # several pictures of a page would share them
    return Html(
        re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', drawn)
    )


def _ticks(axis: Axis, values: Sequence[float]) -> None:
    """Of a logarithmic axis: figures, and as many as are read at a glance."""
    from matplotlib.ticker import LogLocator, NullFormatter

    wide = max(values, default=1.0) > 100 * min(values, default=1.0)
    axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axis.set_major_formatter(lambda value, _: number(value))
    axis.set_minor_formatter(NullFormatter())


def _plain(label: str) -> str:
    """matplotlib leaves labels with a leading underscore out."""
    return label.lstrip("_") or "?"
