"""The gateway benchmark's picture: one bar for each door in each figure that has a bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.gateway_doors import OURS
from benchmarks.gateway_speed import Figures
from benchmarks.harness.show import ours_in_colour, picture

_PANELS = (
    ("one client: whole answer, µs", (("p50", "answer_p50_us"), ("p99", "answer_p99_us"))),
    ("one client: SSE, µs", (("first byte", "first_byte_us"), ("whole stream", "stream_us"))),
    ("64 clients: requests/s", (("", "requests_per_s"),)),
    ("64 clients: CPU a request, µs", (("", "cpu_us"),)),
)


def draw(figures: Mapping[str, Figures], path: Path) -> None:
    """Write the picture; `direct`, the engine without anyone before it, is left out."""
    doors = [name for name in figures if name != "direct"]
    title = "Forwarding 20 KB chat requests to the same trivial engine"
    with picture(path, 2, 2, size=(11, 7), title=title, dpi=130) as panels:
        for panel, (about, fields) in zip(panels, _PANELS, strict=True):
            height = 0.8 / len(fields)
            for k, (label, field) in enumerate(fields):
                values = [getattr(figures[name], field) or 0.0 for name in doors]
                places = [i + k * height for i in range(len(doors))]
                colours = ours_in_colour(doors, OURS)
                bars = panel.barh(
                    places, values, height * 0.92, color=colours, alpha=1.0 if k == 0 else 0.45
                )
                panel.bar_label(bars, [f"{v:,.0f} {label}" for v in values], padding=3, fontsize=8)
            panel.set_yticks([i + (len(fields) - 1) * height / 2 for i in range(len(doors))], doors)
            panel.invert_yaxis()
            panel.margins(x=0.28)
            panel.set_title(about, fontsize=10)
