"""From runs to rows, bars and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.harness import show
from benchmarks.harness.bars import Bar
from benchmarks.harness.stats import percentile
from benchmarks.routing_scenarios import OURS, Result, Scenario


@dataclass(frozen=True, slots=True)
class Row:
    """One policy in one scenario, all orders together."""

    scenario: str
    policy: str
    hits: float
    """Of the tokens that an endless shared cache would find."""
    hit_rate: float
    """Of all prompt tokens."""
    oracle_rate: float
    mean_ttft_s: float
    """From the turn's arrival, all waiting included."""
    p99_ttft_s: float
    mean_session_s: float
    makespan_s: float
    """The mean over the orders."""
    prefill_imbalance: float
    """Tokens computed by the busiest replica over the mean."""
    turns_imbalance: float
    stays: float
    """Of the turns after a session's first, those that stayed at its replica."""
    moves: int
    retries: int
    turns: int
    orders: int


def rows(results: Iterable[Result]) -> list[Row]:
    """In the order in which scenarios and policies first appear."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.run.scenario.name, result.run.policy), []).append(result)
    return [_row(*key, group) for key, group in groups.items()]


def _row(scenario: str, policy: str, group: Sequence[Result]) -> Row:
    outcomes = [r.outcome for r in group]
    ttfts = sorted(t for o in outcomes for t in o.ttfts_s)
    hits = sum(o.hit_tokens for o in outcomes)
    oracle = sum(r.oracle_tokens for r in group)
    prompts = sum(r.prompt_tokens for r in group)
    moves, stays = sum(o.moves for o in outcomes), sum(o.stays for o in outcomes)
    return Row(
        scenario,
        policy,
        hits=hits / oracle if oracle else 1.0,
        hit_rate=hits / prompts,
        oracle_rate=oracle / prompts,
        mean_ttft_s=statistics.mean(ttfts),
        p99_ttft_s=percentile(ttfts, 0.99),
        mean_session_s=statistics.mean(s for o in outcomes for s in o.session_s),
        makespan_s=statistics.mean(o.makespan_s for o in outcomes),
        prefill_imbalance=statistics.mean(_imbalance(o.computed_tokens) for o in outcomes),
        turns_imbalance=statistics.mean(_imbalance(o.turns_at) for o in outcomes),
        stays=stays / (moves + stays) if moves + stays else 1.0,
        moves=moves,
        retries=sum(o.retries for o in outcomes),
        turns=sum(r.turns for r in group),
        orders=len(group),
    )


def _imbalance(by_replica: Sequence[int]) -> float:
    mean = statistics.mean(by_replica)
    return max(by_replica) / mean if mean else 1.0


def table(scenario: Scenario, found: Sequence[Row]) -> Table:
    """One scenario's policies; the best of each column stands out."""
    first = found[0]
    shown = Table(title=f"{scenario.name}: {scenario.title()}, {first.turns:,} turns")
    shown.add_column("policy")
    columns: dict[str, list[float]] = {
        "hits ÷ oracle": [r.hits for r in found],
        "hits": [r.hit_rate for r in found],
        "TTFT s": [r.mean_ttft_s for r in found],
        "p99 s": [r.p99_ttft_s for r in found],
        "session s": [r.mean_session_s for r in found],
        "makespan s": [r.makespan_s for r in found],
        "prefill max÷mean": [r.prefill_imbalance for r in found],
        "turns max÷mean": [r.turns_imbalance for r in found],
        "moves": [r.moves for r in found],
        "retries": [r.retries for r in found],
    }
    for name in columns:
        shown.add_column(name, justify="right")
    best = {name: max(v) if name.startswith("hits") else min(v) for name, v in columns.items()}
    for i, row in enumerate(found):
        cells = []
        for name, values in columns.items():
            text = _figure(name, values[i])
            marked = values[i] == best[name] and name not in ("moves", "retries")
            cells.append(f"[bold green]{text}[/]" if marked else text)
        style = "on grey15" if row.policy in OURS else ""
        shown.add_row(row.policy, *cells, style=style)
    return shown


def _figure(name: str, value: float) -> str:
    if name in ("moves", "retries"):
        return f"{value:,.0f}"
    if name.startswith("hits"):
        return f"{value:.3f}"
    if name in ("session s", "makespan s"):
        return f"{value:,.0f}"
    return f"{value:.2f}"


def bars(found: Sequence[Row]) -> list[Bar]:
    """Those that these rows can tell."""
    by = {(r.scenario, r.policy): r for r in found}
    told = [
        *_fits(by),
        *(bar for name in ("tight-48", "tight-128") for bar in _tight(name, found)),
        *_doors(by),
    ]
    if row := by.get(("open", "ours-no-ids")):
        what = f"conversations by timestamps: hit rate, of {row.oracle_rate:.3f}"
        least = 0.35 / 0.366 * min(row.oracle_rate, 0.366)
        told.append(Bar(what, row.hit_rate, least, at_most=False))
    if row := by.get(("shared-head", "ours-no-ids")):
        told += [
            Bar("shared 8 KB prompt, no ids: turns that stay", row.stays, 1.0, at_most=False),
            Bar("shared 8 KB prompt, no ids: busiest ÷ mean", row.turns_imbalance, 1.2),
        ]
    return told


def _fits(by: Mapping[tuple[str, str], Row]) -> Iterable[Bar]:
    ours, sticky = by.get(("fits", "ours")), by.get(("fits", "sticky"))
    if ours:
        yield Bar("KV fits: hits ÷ oracle", ours.hits, 0.99, at_most=False)
    if ours and sticky:
        yield Bar("KV fits: makespan ÷ sticky's", ours.makespan_s / sticky.makespan_s, 1.01)


def _tight(name: str, found: Sequence[Row]) -> Iterable[Bar]:
    ours = next((r for r in found if r.scenario == name and r.policy == "ours"), None)
    others = [r for r in found if r.scenario == name and r.policy not in OURS]
    if ours is None or not others:
        return
    for says, field, slack in (
        ("mean TTFT", "mean_ttft_s", 1.0),
        ("p99 TTFT", "p99_ttft_s", 1.0),
        ("mean session time", "mean_session_s", 1.0),
        ("makespan", "makespan_s", 1.01),
    ):
        best = min(others, key=lambda r: float(getattr(r, field)))
        mine, theirs = getattr(ours, field), getattr(best, field)
        what = f"{name}: {says} ÷ the best other's ({theirs:,.2f} s, {best.policy})"
        yield Bar(what, mine / theirs, slack)


def _doors(by: Mapping[tuple[str, str], Row]) -> Iterable[Bar]:
    alone = by.get(("fits", "ours"))
    for name, says in (("doors-4", "four front doors"), ("door-lost", "... and one dies")):
        row = by.get((name, "ours"))
        if alone and row:
            yield Bar(f"{says}: share of hits lost", alone.hits - row.hits, 0.02)


def picture(found: Sequence[Row], scenarios: Sequence[Scenario], path: Path) -> None:
    """A line of panels for each scenario: hits, mean and p99 TTFT, session time, makespan."""
    columns = (
        ("hits", "hits ÷ oracle"),
        ("mean_ttft_s", "mean TTFT, s"),
        ("p99_ttft_s", "p99 TTFT, s"),
        ("mean_session_s", "mean session, s"),
        ("makespan_s", "makespan, s"),
    )
    shown = [s for s in scenarios if any(r.scenario == s.name for r in found)]
    size = (16.0, 2.3 * len(shown) + 0.6)
    with show.picture(path, len(shown), len(columns), size=size, dpi=110) as panels:
        drawn = iter(panels)
        for scenario in shown:
            mine = [r for r in found if r.scenario == scenario.name][::-1]
            names = [r.policy for r in mine]
            colours = [show.OURS if name in OURS else show.OTHERS for name in names]
            for field, title in columns:
                panel = next(drawn)
                values = [float(getattr(r, field)) for r in mine]
                drawn_bars = panel.barh(names, values, color=colours)
                panel.bar_label(
                    drawn_bars, [_short(field, v) for v in values], padding=2, fontsize=7
                )
                panel.set_xlim(0, max(values) * 1.25 or 1)
                panel.tick_params(labelsize=7, labelleft=field == columns[0][0])
                if scenario is shown[0]:
                    panel.set_title(title, fontsize=10)
                if field == columns[0][0]:
                    panel.set_ylabel(f"{scenario.name}\n{scenario.says}", fontsize=8)


def _short(field: str, value: float) -> str:
    if field == "hits":
        return f"{value:.3f}"
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
