"""The tier benchmark's picture: quality over cost for all floors, and beside it blind choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.harness.show import picture
from benchmarks.tiers_recorded import Score, Split


def draw(
    curve: Sequence[tuple[float, Score]], splits: Sequence[Split], source: str, path: Path
) -> None:
    """Write the picture. Everything is a share of always asking the frontier."""
    with picture(path, 1, 1, size=(8, 5.5), dpi=130) as (axis,):
        small = mean(s.small.cost for s in splits), mean(s.small.quality for s in splits)
        oracle = mean(s.oracle.cost for s in splits), mean(s.oracle.quality for s in splits)
        axis.plot([small[0], 1], [small[1], 1], "--", color="tab:gray", label="random")
        costs, qualities = [s.cost for _, s in curve], [s.quality for _, s in curve]
        axis.plot(costs, qualities, "-", color="tab:orange", label="policy, by quality floor")
        for floor, score in curve:
            if round(100 * floor) % 5 == 0:
                axis.annotate(
                    f"{floor:.2f}", (score.cost, score.quality), xytext=(4, -11),
                    textcoords="offset points", fontsize=8,
                )  # fmt: skip
                axis.plot(score.cost, score.quality, "o", color="tab:orange")
        axis.plot([s.policy.cost for s in splits], [s.policy.quality for s in splits], ".",
                  color="tab:orange", alpha=0.35, label="splits at the default floor")  # fmt: skip
        axis.plot(*small, "s", color="tab:blue", label="always small")
        axis.plot(1, 1, "D", color="tab:red", label="always frontier")
        axis.plot(
            *oracle, "*", color="tab:green", markersize=12, label="oracle (knows all answers)"
        )
        axis.axhline(0.95, color="black", linewidth=0.6)
        axis.axvline(0.60, color="black", linewidth=0.6)
        axis.set_xlabel("cost, share of always frontier")
        axis.set_ylabel("right answers, share of always frontier")
        axis.set_title(f"Tier policy on recorded answers: {source}", fontsize=10)
        axis.legend(fontsize=8, loc="lower right")
