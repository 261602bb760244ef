"""What `warmloop status` shows of engines that are not well."""

from __future__ import annotations

import io
import time
from typing import Any

from rich.console import Console

from orchestrator.commands.console import print_status
from orchestrator.supervisor import RunFile

ENGINE: dict[str, Any] = {
    "replica": "small-1f",
    "model": "small",
    "state": "ready",
    "reason": "",
    "ejected": False,
    "running": 1,
    "waiting": 2,
    "kv_usage": 0.5,
    "queried_tokens": 10,
    "hit_tokens": 5,
    "restarts": 0,
    "retry_at": 0.0,
}


def shown(*engines: dict[str, Any]) -> str:
    out = io.StringIO()
    run = RunFile("mine", 1, "http://127.0.0.1:8400", "stack.yaml", "ready")
    health = {"engines": [ENGINE | engine for engine in engines], "sessions": 3}
    print_status(Console(file=out, width=120), run, health)
    return out.getvalue()


def test_an_engine_in_a_crash_loop_shows_its_restarts_its_next_start_and_its_last_words() -> None:
    at = time.time() + 30
    reason = "the engine of small ended with status 1 after 2 s; its last words:\n    [out] of luck"
    said = shown({"state": "dead", "restarts": 7, "retry_at": at, "reason": reason})
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    assert f"small-1f is dead, started again at {clock} (in " in said
    assert "    [out] of luck" in said
    assert "│ 7 " in said


def test_an_engine_that_is_well_has_no_word_below_the_table() -> None:
    assert shown({}).splitlines()[-1] == "sessions: 3"
    assert "small-1f is" not in shown({})


def test_a_dead_engine_is_dead_whether_it_was_ejected_or_not() -> None:
    assert "ejected" in shown({"ejected": True})
    assert "dead" in shown({"ejected": True, "state": "dead"})
