"""Real figures beside simulated ones: a table, a picture, and whether their rankings agree."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rich.table import Table

from benchmarks.harness import show
from benchmarks.harness.stats import percentile

NOISE = 0.15
"""Two figures of real runs that differ by less than this share are not told apart."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One policy, all rounds together; or its simulation."""

    policy: str
    hits: float
    """Of the prompt tokens, those found in a cache, by the engines' own counters."""
    mean_ttft_s: float
    p90_ttft_s: float
    mean_session_s: float
    makespan_s: float


def figures_of(
    policy: str, hits: float, ttfts: Sequence[float], sessions: Sequence[float], makespan_s: float
) -> Figures:
    """From what was measured of one policy."""
    return Figures(
        policy,
        hits,
        statistics.mean(ttfts),
        percentile(ttfts, 0.9),
        statistics.mean(sessions),
        makespan_s,
    )


def disagreements(real: Sequence[Figures], simulated: Sequence[Figures]) -> list[str]:
    """Pairs that differ by more than noise in reality, and the other way round in simulation."""
    told = {f.policy: f for f in simulated}
    found = []
    for field, says in (("hits", "hits"), ("mean_ttft_s", "mean TTFT")):
        for a, b in combinations(real, 2):
            x, y = getattr(a, field), getattr(b, field)
            if abs(x - y) <= NOISE * max(x, y):
                continue
            u, v = getattr(told[a.policy], field), getattr(told[b.policy], field)
            if (x - y) * (u - v) < 0:
                found.append(
                    f"{says}: {a.policy} {x:.3f} and {b.policy} {y:.3f}, "
                    f"simulated {u:.3f} and {v:.3f}"
                )
    return found


def table(title: str, figures: Sequence[Figures]) -> Table:
    rows = []
    for f in figures:
        numbers = (f.mean_ttft_s, f.p90_ttft_s, f.mean_session_s, f.makespan_s)
        rows.append((f.policy, f"{f.hits:.3f}", *(f"{n:.2f}" for n in numbers)))
    columns = ("policy", "hits", "mean TTFT s", "p90 TTFT s", "session s", "makespan s")
    return show.table(title, columns, rows)


def ranking(figures: Sequence[Figures]) -> str:
    """Best first, by mean TTFT."""
    return " < ".join(f.policy for f in sorted(figures, key=lambda f: f.mean_ttft_s))


def picture(real: Sequence[Figures], simulated: Sequence[Figures], path: Path) -> None:
    """Hits and mean TTFT of each policy, real beside simulated."""
    shown = (("hits", "prompt tokens found in a cache"), ("mean_ttft_s", "mean TTFT, s"))
    with show.picture(path, 1, 2, size=(10, 3.6)) as panels:
        for panel, (field, title) in zip(panels, shown, strict=True):
            for offset, (label, found, colour) in enumerate(
                (("real engines", real, "tab:green"), ("simulated", simulated, "tab:gray"))
            ):
                at = [i + 0.4 * offset for i in range(len(found))]
                values = [getattr(f, field) for f in found]
                bars = panel.bar(at, values, 0.38, label=label, color=colour)
                panel.bar_label(bars, fmt="%.2f", fontsize=8)
            panel.set_xticks([i + 0.2 for i in range(len(real))], [f.policy for f in real])
            panel.set_title(title, fontsize=10)
        panels[1].legend(fontsize=8, loc="upper right")
