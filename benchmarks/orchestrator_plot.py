"""The orchestrator benchmark's picture: CPU of a step and steps a second, ours beside others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

_FIELDS = (("CPU a step, ms", "cpu_ms_per_step", "{:.3f}"), ("steps/s", "steps_per_s", "{:,.0f}"))


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the picture: a row for each number of sessions, logarithmic."""
    fig, axes = plt.subplots(len(found), 2, figsize=(11, 6), layout="constrained")
    for row, (label, figures) in zip(axes, found.items(), strict=True):
        for axis, (title, field, form) in zip(row, _FIELDS, strict=True):
            values = [getattr(each, field) for each in figures.values()]
            colours = ["tab:orange" if name == "warmloop" else "tab:blue" for name in figures]
            bars = axis.barh(list(figures), values, color=colours)
            axis.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=8)
            axis.set_xscale("log")
            axis.invert_yaxis()
            axis.margins(x=0.3)
            axis.set_title(f"{title}, {label}", fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle("A durable step: model turn and tool call over a 15-turn history", fontsize=11)
    fig.savefig(path, dpi=130)
    plt.close(fig)
