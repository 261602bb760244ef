"""What several parts of the report say alike: which run counts, a turn's parts, figures."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.harness.html import MINUS, Html, number, tag
from benchmarks.report_figures import Case, Way
from benchmarks.report_read import Result, Results

GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "prefill": ("the engine reads the prompt", ("prefill", "first token")),
    "decode": ("it writes the answer", ("decode",)),
    "server": ("its HTTP, template and tokenizer", ("server",)),
    "queue": ("waiting", ("queue",)),
    "tool": ("tools", ("tool",)),
    "stack": (
        "the stack: router, journal, orchestration, network",
        ("network", "to begin", "to ask", "to call", "to end", "orchestration", "router"),
    ),
    "rest": ("anything else", ("rest",)),
}
"""Kind of a piece → what it is, and which parts of a turn (benchmarks.latency_budget) it holds."""
KINDS = {
    "cold": "nothing warm",
    "warm": "warm",
    "call": "warm, ends in a tool call",
    "answer": "after a tool",
}


def cost_of(results: Results) -> Result | None:
    """What was measured counts before what was computed from a trace."""
    return results.of("cost") or results.of("cost --offline")


def latency_of(results: Results) -> Result | None:
    return results.of("latency") or results.of("latency --simulated")


def shares(case: Case) -> dict[str, float]:
    """Of a turn about the median, by kind of piece."""
    whole = case.whole_at_p50
    return {
        kind: sum(case.at_p50.get(part, 0.0) for part in parts) / whole if whole else 0.0
        for kind, (_, parts) in GROUPS.items()
    }


def absent(said: str, command: str) -> Html:
    return tag("p", said, " ", tag("code", command), " makes it.", class_="warn")


def sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} at once"


def answers(way: Way) -> str:
    return f"{way.right:,} of {way.checked:,}"


def times(factor: float) -> str:
    return f"{number(factor)} times less" if factor >= 1 else f"{number(1 / factor)} times more"


def dollars(usd_a_task: float) -> str:
    """For a thousand tasks."""
    return usd(1000 * usd_a_task)


def usd(value: float) -> str:
    """With its cents, where these matter."""
    return f"{value:,.2f} USD" if 0.1 <= value < 100 else number(value, "USD")


def seconds(value: float | None) -> str:
    if value is None:
        return number(None)
    if abs(value) < 0.01:
        return f"{1000 * value:.2g} ms".replace("-", MINUS)
    return number(1000 * value, "ms") if abs(value) < 1 else number(value, "s")
