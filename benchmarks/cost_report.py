"""What the cost benchmark says: tables on the terminal, figures as JSON, and the break-even."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from benchmarks.cost_ledger import Account, BreakEven, Way, break_even
from benchmarks.cost_prices import Machine
from benchmarks.harness.bars import Bar
from benchmarks.harness.show import table


@dataclass(frozen=True)
class Found:
    """What a run found; the first account is that of one's own machine."""

    source: str
    machine: Machine
    accounts: Sequence[Account]
    bars: Sequence[Bar]
    alone: Mapping[str, Way] = field(default_factory=dict)
    """What was asked beside the ways, of real engines: the small model always."""


def break_evens(found: Found) -> list[BreakEven]:
    """Each hosted list, once with its cache alone and once with all that works over there too."""
    own = found.accounts[0].ways[-1]
    over_there = {"with its cache": 1, "all but the adapter": 3}
    return [
        break_even(account.prices, account.ways[place], own, found.machine, label)
        for account in found.accounts[1:]
        for label, place in over_there.items()
    ]


def show(console: Console, found: Found, breaks: Sequence[BreakEven]) -> None:
    """All tables."""
    console.print(f"[bold]{found.source}[/]", highlight=False)
    for account in found.accounts:
        _show_account(console, account)
    for name, way in found.alone.items():
        usd = 1000 * way.bill_of_time(found.machine).usd
        said = f"{name}: {way.right} of {way.checked} right, {usd:,.3f} USD/1000 tasks self-hosted"
        console.print(said, highlight=False)
    _show_break_even(console, found, breaks)


def _show_account(console: Console, account: Account) -> None:
    prices = account.prices
    shares = ["", *(f"{drop.share:.0%}" for drop in account.drops())]
    rows = [
        (
            way.name,
            *(f"{way.per_task(what):,.0f}" for what in ("fresh", "cached", "output")),
            f"{way.per_task('seconds'):,.1f}",
            f"{1000 * bill.usd:,.3f}",
            share,
            f"{way.small_share():.0%}",
            f"{way.right} of {way.checked}",
        )
        for way, bill, share in zip(account.ways, account.bills(), shares, strict=True)
    ]
    dated = f", {prices.date}: {prices.frontier}, {prices.small}" if prices.date else ""
    title = f"{prices.name}{dated}; tokens and engine seconds a task"
    columns = ("", "fresh", "cached", "output", "s", "USD/1000 tasks", "saves", "small", "right")
    console.print(table(title, columns, rows))
    console.print(f"  {prices.source}. {prices.note}", style="dim", highlight=False)


def _show_break_even(console: Console, found: Found, breaks: Sequence[BreakEven]) -> None:
    own = found.accounts[0].bills()[-1].usd
    rows = [
        (
            each.hosted,
            each.hosted_way,
            f"{1000 * each.hosted_usd:,.3f}",
            f"{each.tokens / 1e6:,.0f}",
            f"{each.tasks:,.0f}",
            f"{each.share:.1%}" if each.pays else f"never: {each.share:.1f} machines",
        )
        for each in breaks
    ]
    title = (
        f"Break-even with {found.machine.name}: {found.machine.usd_per_month:,.0f} USD a month, "
        f"{1000 * own:,.3f} USD/1000 tasks when busy"
    )
    columns = (
        "hosted",
        "over there",
        "USD/1000 tasks",
        "M tokens/month",
        "tasks",
        "of the machine",
    )
    console.print(table(title, columns, rows, left=2))
    console.print(
        "  Tokens are compared, not models: a hosted frontier model is not the one served here.",
        style="dim",
    )


def figures(found: Found, breaks: Sequence[BreakEven], *, steps: bool) -> dict[str, Any]:
    """As JSON: sums a task for each way and list, and, of real engines, every call."""
    accounts = [
        {
            "prices": account.prices.model_dump(mode="json"),
            "factor": account.factor,
            "ways": [
                {
                    "name": way.name,
                    **{
                        each: way.per_task(each)
                        for each in ("fresh", "cached", "output", "seconds")
                    },
                    "usd": bill.usd,
                    "usd_for": asdict(bill),
                    "small_share": way.small_share(),
                    "right": way.right,
                    "checked": way.checked,
                }
                for way, bill in zip(account.ways, account.bills(), strict=True)
            ],
            "saved_usd": {drop.name: drop.saved for drop in account.drops()},
        }
        for account in found.accounts
    ]
    listed = found.accounts[0].ways if steps else ()
    return {
        "source": found.source,
        "machine": found.machine,
        "accounts": accounts,
        "break_even": breaks,
        "alone": {
            name: {"right": w.right, "checked": w.checked} for name, w in found.alone.items()
        },
        "steps": {way.name: way.steps for way in listed},
    }
