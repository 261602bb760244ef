"""The table of docs/metrics.md as data: each metric, its labels."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(warmloop_\w+)` \| ([\w, ]*?) ?\|", re.MULTILINE)


def documented() -> dict[str, frozenset[str]]:
    """Metric → the labels that the table gives it."""
    rows = _ROW.findall(DOCS.read_text(encoding="utf-8"))
    names = [name for name, _ in rows]
    assert len(names) == len(set(names)), "a metric is in the table twice"
    return {name: frozenset(re.findall(r"\w+", labels)) for name, labels in rows}
