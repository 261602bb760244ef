"""Load benchmark, what is shown: tables, pictures, and the events of each request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.table import Table

from benchmarks.harness.show import OTHERS, OURS, picture, table
from benchmarks.load_figures import Figures, Objectives, Spread
from benchmarks.load_knee import Bracket
from benchmarks.load_outside import AGREE, Line
from benchmarks.load_play import Played, Sent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAD = "tab:red"


def figures_table(found: Figures, title: str) -> Table:
    """One run, a line a figure."""
    rows = [
        (what, *(_time(value) for value in (s.p50, s.p90, s.p99, s.mean)))
        for what, s in (
            ("first token, from when it was due", found.ttft),
            ("between chunks with tokens", found.gap),
            ("for each token after the first", found.per_token),
            ("whole answer, from when it was due", found.latency),
            ("the client: how late requests left", found.lag),
            ("the client: how late its timers were", found.pulse),
        )
    ]
    return table(title, ("", "p50", "p90", "p99", "mean"), rows)


def summary(found: Figures, objectives: Objectives) -> list[str]:
    """What the table does not hold, a line each."""
    errors = ", ".join(f"{n} of {kind!r}" for kind, n in found.errors.items()) or "none"
    cached = "not said" if math.isnan(found.cached_share) else f"{found.cached_share:.1%} cached"
    lines = [
        f"requests  {found.requests} counted, {found.requests_per_s:.4g}/s due, "
        f"{found.answers_per_s:.4g}/s answered, {found.output_tokens_per_s:,.0f} tokens/s",
        f"goodput   {found.good_per_s:.4g}/s, {found.good_share:.1%} of those due ({objectives})",
        f"sessions  {found.sessions_begun} began, {found.sessions_ended} ended, "
        f"{found.sessions_per_s:.4g}/s",
        f"tokens    {found.prompt_tokens:,.0f} in a prompt, {cached}; "
        f"{found.output_tokens:,.0f} in an answer",
        f"errors    {errors}",
        f"client    {found.cores:.2f} of a core",
    ]
    if found.growth > 1.3:
        lines.append(
            f"the load was still growing: {found.growth:.2f} times as much was due in the second "
            "half as in the first; a longer --warm-up-s and --seconds show it at its level"
        )
    return lines


def steps_table(steps: Sequence[tuple[float, Figures]], share: float) -> Table:
    """The tries of a search, in their order."""
    rows = [
        (
            f"{rate:.4g}",
            f"{f.requests_per_s:.4g}",
            f"{f.requests}",
            f"{f.good_share:.1%}",
            "yes" if f.good_share >= share else "no",
            f"{f.good_per_s:.4g}",
            _time(f.ttft.p50),
            _time(f.ttft.p99),
            _time(f.latency.p99),
            _time(f.lag.p99),
        )
        for rate, f in steps
    ]
    columns = (
        *("sessions/s", "requests/s", "counted", "good", f"≥ {share:.0%}", "good/s"),
        *("first token p50", "p99", "whole p99", "lag p99"),
    )
    return table("Rates, in the order they were tried", columns, rows)


def outside_table(lines: Sequence[Line], harness: str) -> Table:
    """Ours beside theirs; of several pairs, all values."""
    rows = [
        (
            line.what,
            " ".join(f"{v:.4g}" for v in line.ours),
            " ".join(f"{v:.4g}" for v in line.theirs),
            f"{line.percent:+.1f} %",
            f"{(line.ratio.low - 1) * 100:+.1f} to {(line.ratio.high - 1) * 100:+.1f}",
        )
        for line in lines
    ]
    title = f"Ours beside {harness}, {len(lines[0].ours) if lines else 0} pairs; seconds, rates"
    return table(title, ("", "ours", harness, "difference, median", "95 %"), rows)


def draw_run(played: Played, objectives: Objectives, warm_up_s: float, path: Path) -> None:
    """Each request at its due time, and how long they took."""
    good = [s for s in played.sent if not s.error]
    bad = [s for s in played.sent if s.error]
    counted = [s for s in good if s.due_s >= warm_up_s]
    kinds = (
        ("first token", _ttft, OURS, objectives.ttft_s),
        ("whole answer", _latency, OTHERS, objectives.latency_s),
    )
    title = f"{len(played.sent)} requests in {played.seconds:.0f} s"
    with picture(path, 1, 2, size=(12, 4.6), title=title, dpi=130) as (over_time, shares):
        for label, pick, colour, limit in kinds:
            due, took = [s.due_s for s in good], [pick(s) for s in good]
            over_time.scatter(due, took, s=9, color=colour, alpha=0.7, linewidths=0, label=label)
            ordered = sorted(map(pick, counted))
            steps = [(i + 1) / len(ordered) for i in range(len(ordered))]
            shares.step(ordered, steps, where="post", color=colour, label=label)
            if limit is not None:
                over_time.axhline(limit, color=colour, linestyle="--", linewidth=0.9)
                shares.axvline(limit, color=colour, linestyle="--", linewidth=0.9)
        if bad:
            due, ends = [s.due_s for s in bad], [s.latency_s for s in bad]
            over_time.scatter(due, ends, s=18, color=BAD, marker="x", label="ended with an error")
        if warm_up_s:
            over_time.axvspan(0, warm_up_s, color="0.92", zorder=0, label="warm-up, not counted")
        _label(over_time, "due at, s", "s from then", "each request, at its due time")
        _label(shares, "s or less", "share of requests", "how long those counted took")
        if counted:
            over_time.set_ylim(bottom=0)
            shares.set_xlim(left=0)
        shares.set_ylim(0, 1.02)


def draw_search(
    steps: Sequence[tuple[float, Figures]],
    share: float,
    knee: Bracket,
    objectives: Objectives,
    path: Path,
) -> None:
    """Good share and first token over the rate, with the knee."""
    ordered = sorted(steps, key=lambda step: step[0])
    rates = [rate for rate, _ in ordered]
    title = f"sessions/s at which {share:.0%} are good ({objectives}): {knee}"
    with picture(path, 1, 2, size=(12, 4.6), title=title, dpi=130) as (goods, times):
        goods.plot(rates, [f.good_share for _, f in ordered], marker="o", color=OURS, label="good")
        goods.axhline(share, color="0.5", linestyle="--", linewidth=0.9, label=f"{share:.0%}")
        for label, pick, style in (("p50", _p50, "-"), ("p99", _p99, "--")):
            values = [pick(f.ttft) for _, f in ordered]
            times.plot(
                rates, values, style, marker="o", color=OTHERS, label=f"first token, {label}"
            )
        if objectives.ttft_s is not None:
            times.axhline(objectives.ttft_s, color=BAD, linewidth=0.9, label="objective")
        for panel in (goods, times):
            panel.set_xscale("log")
            panel.set_xticks(rates, [f"{rate:.3g}" for rate in rates], rotation=45, fontsize=8)
            panel.set_xticks([], minor=True)
            if knee.low is not None and knee.high is not None:
                panel.axvspan(knee.low, knee.high, color=OURS, alpha=0.15, label="the knee")
        times.set_yscale("log")
        times.yaxis.set_major_formatter("{x:g}")
        times.yaxis.set_minor_formatter("{x:g}")
        times.tick_params(axis="y", which="both", labelsize=8)
        goods.set_ylim(-0.02, 1.05)
        _label(goods, "sessions/s", "share of requests", "requests that met the objectives")
        _label(times, "sessions/s", "s from when it was due", "first token")


def draw_outside(lines: Sequence[Line], harness: str, path: Path) -> None:
    """How far apart the two are, figure by figure, with the bar as a band."""
    title = f"ours beside {harness}: difference in percent, median of the pairs and 95 %"
    with picture(path, 1, 1, size=(9, 0.32 * len(lines) + 1.4), title=title, dpi=130) as (panel,):
        limit = AGREE * 100
        panel.axvspan(-limit, limit, color="0.92", zorder=0, label=f"±{limit:g} %")
        panel.axvline(0, color="0.6", linewidth=0.8)
        for place, line in enumerate(lines):
            low, high = ((end - 1) * 100 for end in (line.ratio.low, line.ratio.high))
            colour = OURS if line.judged else "0.55"
            panel.plot([low, high], [place, place], color=colour, linewidth=2)
            panel.plot([line.percent], [place], "o", color=colour)
        panel.set_yticks(range(len(lines)), [line.what for line in lines], fontsize=8)
        panel.invert_yaxis()
        panel.set_xlabel("ours - theirs, % of theirs; grey: shown, not judged")
        panel.legend(fontsize=8, framealpha=0.9, edgecolor="none")


def write_events(played: Played, path: Path) -> None:
    """One request a line: when it was due, left, was sent, each token came, it ended."""
    ordered = sorted(played.sent, key=lambda s: (s.due_s, s.session))
    path.write_bytes(b"".join(msgspec.json.encode(s) + b"\n" for s in ordered))


def _label(panel: Axes, x: str, y: str, title: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.set_title(title, fontsize=10)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8, framealpha=0.9, edgecolor="none")


def _ttft(sent: Sent) -> float:
    return sent.ttft_s


def _latency(sent: Sent) -> float:
    return sent.latency_s


def _p50(spread: Spread) -> float:
    return spread.p50


def _p99(spread: Spread) -> float:
    return spread.p99


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"
