"""Runs as benchmarks write them, and a page as a browser reads it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report_read import read


def way(name: str, usd: float, *, cached: float = 900.0, right: int = 28) -> dict[str, Any]:
    return {
        "name": name,
        "fresh": 1000.0 - cached,
        "cached": cached,
        "output": 50.0,
        "seconds": 2.0,
        "usd": usd,
        "usd_for": {"fresh": usd * 0.6, "cached": usd * 0.1, "output": usd * 0.3},
        "small_share": 0.7,
        "right": right,
        "checked": 30,
    }


def cost_figures(**changes: Any) -> dict[str, Any]:
    def account(name: str, scale: float) -> dict[str, Any]:
        listed = {
            "name": name,
            "date": None if name == "self-hosted" else "2026-10-01",
            "source": "a list",
            "note": "",
            "frontier": "big",
            "small": "little",
        }
        ways = [
            way("naive", 0.020 * scale, cached=0.0, right=29),
            way("+ prefix cache", 0.005 * scale, right=29),
            way("+ routing", 0.002 * scale),
        ]
        return {"prices": listed, "ways": ways, "factor": 10.0, "saved_usd": {}}

    return {
        "source": "2 tasks",
        "machine": {"name": "a card", "usd_per_hour": 2.0, "measured": True, "share": {}},
        "accounts": [account("self-hosted", 1.0), account("theirs", 20.0)],
        "break_even": [
            {
                "hosted": "theirs",
                "hosted_way": "with its cache",
                "hosted_usd": 0.1,
                "tokens": 4e9,
                "tasks": 14600.0,
                "share": 0.05,
            }
        ],
        **changes,
    }


def case(arm: str, kind: str, whole: float, *, sessions: int = 1, queue: float = 0.0) -> Any:
    parts = {"prefill": whole * 0.2, "decode": whole * (0.75 - queue), "router": whole * 0.05}
    parts["queue"] = whole * queue
    return {
        "arm": arm,
        "kind": kind,
        "sessions": sessions,
        "turns": 9,
        "whole": {"p50": whole, "p99": whole * 2},
        "parts": {name: {"p50": each, "p99": each * 2} for name, each in parts.items()},
        "at_p50": parts,
        "cached_share": 0.9,
        "first_text": {"p50": whole * 0.3, "p99": None},
    }


def latency_figures(**changes: Any) -> dict[str, Any]:
    return {
        "cases": [
            case("stack", "cold", 3.0),
            case("stack", "warm", 1.0),
            case("bare", "warm", 1.0),
        ],
        "compared": [
            {
                "arm": "stack",
                "kind": "warm",
                "sessions": 1,
                "pairs": 9,
                "share": {"value": 0.01, "low": 0.0, "high": 0.02},
                "added_s": {"value": 0.01, "low": 0.0, "high": 0.02},
            }
        ],
        **changes,
    }


def envelope(benchmark: str, figures: Any, **changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "benchmark": benchmark,
        "part": "",
        "began": "2026-11-20T10:00:00Z",
        "seconds": 12.5,
        "command": f"python -m benchmarks.{benchmark}",
        "commit": "c0ffee" * 6 + "c0ff",
        "changed": False,
        "machine": {
            "system": "Linux x86_64",
            "processor": "A processor",
            "cores": 2,
            "memory_gib": 24.0,
            "python": "3.11.7",
            "load_before": 0.1,
            "load_after": 1.1,
        },
        "configuration": {"offline": False, "simulated": False, "tasks": 2},
        "figures": figures,
        "bars": [
            {"what": "times less", "value": 10.0, "limit": 5.0, "at_most": False, "missed": False},
            {"what": "lost", "value": 2.0, "limit": 1.0, "at_most": True, "missed": True},
            {"what": "theirs", "value": None, "limit": 1.0, "at_most": True, "missed": False},
        ],
        **changes,
    }


def write(folder: Path, name: str, whole: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(whole))
    return path


def page(folder: Path) -> str:
    return report.whole(read([folder]), {})


class Seen(HTMLParser):
    """Tags, attributes and text, as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str | None] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data
