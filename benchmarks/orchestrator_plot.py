"""The orchestrator benchmark's picture: CPU of a step and steps a second, ours beside others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.show import ours_in_colour, picture

_FIELDS = (("CPU a step, ms", "cpu_ms_per_step", "{:.3f}"), ("steps/s", "steps_per_s", "{:,.0f}"))


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the picture: a row for each number of sessions, logarithmic."""
    title = "A durable step: model turn and tool call over a 15-turn history"
    with picture(path, len(found), 2, size=(11, 6), title=title, dpi=130) as panels:
        drawn = iter(panels)
        for label, figures in found.items():
            for about, field, form in _FIELDS:
                panel = next(drawn)
                values = [getattr(each, field) for each in figures.values()]
                bars = panel.barh([*figures], values, color=ours_in_colour(figures, "warmloop"))
                panel.bar_label(bars, [form.format(v) for v in values], padding=3, fontsize=8)
                panel.set_xscale("log")
                panel.invert_yaxis()
                panel.margins(x=0.3)
                panel.set_title(f"{about}, {label}", fontsize=10)
