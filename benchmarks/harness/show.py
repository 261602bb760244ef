"""Tables and pictures in one style. matplotlib is loaded when a picture is drawn, not before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = "tab:orange"
OTHERS = "tab:blue"


def console(width: int) -> Console:
    """At least so wide, for tables; also where no terminal says how wide it is."""
    made = Console()
    made.width = max(made.width, width)
    return made


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> Table:
    """The first `left` columns are words, the others figures."""
    made = Table(title=title)
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place < left else "right")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def picture(
    path: Path,
    rows: int,
    columns: int,
    *,
    size: tuple[float, float],
    title: str = "",
    share_y: bool = False,
    dpi: int = 120,
) -> Iterator[list[Axes]]:
    """Panels to draw into, row by row; written to `path` (PNG or SVG, by its name) at the end."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", sharey=share_y, squeeze=False
    )
    try:
        for panel in panels.flat:
            panel.spines[["top", "right"]].set_visible(False)
        yield list(panels.flat)
        if title:
            figure.suptitle(title, fontsize=11)
        figure.savefig(path, dpi=dpi)
    finally:
        pyplot.close(figure)


def ours_in_colour(names: Iterable[str], ours: str) -> list[str]:
    """A colour for each name."""
    return [OURS if name == ours else OTHERS for name in names]
