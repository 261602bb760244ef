"""The cost benchmark's picture: a waterfall for each price list, tokens by way, and the break-even.

A waterfall begins with what a task costs naively; each step below takes its saving away (red where
it costs more), and the last bar is what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cost_ledger import Account, BreakEven, Way
from benchmarks.cost_prices import Machine
from benchmarks.harness.show import OTHERS, OURS, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = ("tab:blue", "tab:green", "tab:purple", "tab:brown")
SAVED, DEARER, NEUTRAL = "tab:green", "tab:red", "tab:gray"
COLUMNS = 3


def draw(
    accounts: Sequence[Account],
    breaks: Sequence[BreakEven],
    machine: Machine,
    path: Path,
    title: str,
) -> None:
    """Write the picture. The first account is that of one's own machine."""
    rows = math.ceil((len(accounts) + 2) / COLUMNS)
    with picture(path, rows, COLUMNS, size=(15, 4.1 * rows), title=title, dpi=130) as panels:
        drawn = iter(panels)
        for account in accounts:
            _waterfall(next(drawn), account)
        _tokens(next(drawn), accounts[0].ways)
        _break_even(next(drawn), breaks, machine)
        for empty in drawn:
            empty.set_axis_off()


def _waterfall(panel: Axes, account: Account) -> None:
    usd = [1000 * bill.usd for bill in account.bills()]
    drops = account.drops()
    names = [account.ways[0].name, *(drop.name for drop in drops), "all of it"]
    for place, drop in enumerate(drops, 1):
        before, after = 1000 * drop.before, 1000 * drop.after
        colour = SAVED if drop.saved >= 0 else DEARER
        panel.barh(place, before - after, left=after, color=colour)
        panel.plot([before, before], [place - 1, place], color=NEUTRAL, linewidth=0.7)
        said = f"{-drop.share:+.0%} of what was left"
        panel.text(max(before, after) + 0.015 * usd[0], place, said, va="center", fontsize=8)
    last = len(names) - 1
    panel.barh(0, usd[0], color=OTHERS)
    panel.barh(last, usd[-1], color=OURS)
    panel.text(usd[0] * 1.015, 0, _usd(usd[0]), va="center", fontsize=8)
    said = f"{_usd(usd[-1])}: {account.factor:.1f} times less"
    panel.text(usd[-1] + 0.015 * usd[0], last, said, va="center", fontsize=8, weight="bold")
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.25)
    dated = f", {account.prices.date}" if account.prices.date else ""
    panel.set_title(f"{account.prices.name}{dated}: USD a thousand tasks", fontsize=10, loc="left")


def _tokens(panel: Axes, ways: Sequence[Way]) -> None:
    """Of a task: what is computed, found, generated."""
    left = [0.0] * len(ways)
    kinds = (("fresh", "tab:red"), ("cached", "tab:cyan"), ("output", "tab:purple"))
    for kind, colour in kinds:
        values = [way.per_task(kind) / 1000 for way in ways]
        panel.barh(range(len(ways)), values, left=left, color=colour, label=kind)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for place, way in enumerate(ways):
        said = f"small {way.small_share():.0%}, right {way.right} of {way.checked}"
        panel.text(left[place], place, f" {said}", va="center", fontsize=7)
    panel.set_yticks(range(len(ways)), [way.name for way in ways], fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.45)
    panel.legend(
        fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.07), frameon=False
    )
    panel.set_title("thousand tokens a task (self-hosted)", fontsize=10, loc="left")


def _break_even(panel: Axes, breaks: Sequence[BreakEven], machine: Machine) -> None:
    """A month's bill over a month's tokens: hosted ones grow, a machine's is what it is."""
    most = max(each.tokens / min(each.share, 1.0) for each in breaks)
    least = min(each.tokens for each in breaks) / 20
    panel.axhline(machine.usd_per_month, color=OURS, label=f"own: {machine.name}")
    for number, each in enumerate(breaks):
        a_token = machine.usd_per_month / each.tokens
        style = "-" if number % 2 == 0 else "--"
        [line] = panel.plot(
            [least, most],
            [least * a_token, most * a_token],
            style,
            color=_LINES[number // 2 % len(_LINES)],
            linewidth=1.2,
            label=f"{each.hosted}, {each.hosted_way}",
        )
        panel.plot(each.tokens, machine.usd_per_month, "o", color=line.get_color(), markersize=4)
    full = breaks[0].tokens / breaks[0].share
    panel.axvline(full, color=NEUTRAL, linewidth=0.8)
    panel.text(full, least * a_token, "the machine is full ", fontsize=8, ha="right")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("tokens a month, cached ones too", fontsize=8)
    panel.set_ylabel("USD a month", fontsize=8)
    panel.legend(
        fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.35, -0.13), frameon=False
    )
    speed = "measured" if machine.measured else "ASSUMED"
    panel.set_title(f"break-even (its speed: {speed})", fontsize=10, loc="left")


def _usd(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
