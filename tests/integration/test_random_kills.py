"""SIGKILL at random moments over many sessions: nothing lost, nothing done twice, nothing stuck.

The long run is `python -m benchmarks.kills`; this is the same one, shorter, over both stores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills_judge import WRONG
from tests.postgres import Server

ROOT = Path(__file__).parents[2]
LIMIT_S = 600


def kill(kills: int, folder: Path, *options: str) -> dict[str, Any]:
    """What the judge found; the seed is fixed, the machine's timing is not."""
    file = folder / "found.json"
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", str(kills), "--json", str(file)]
    ended = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert file.exists(), ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(file.read_text())["figures"]
    return found


def test_forty_kills_lose_double_and_block_nothing(tmp_path: Path) -> None:
    found = kill(40, tmp_path)
    assert {each: found[each] for each in WRONG} == dict.fromkeys(WRONG, 0), found["examples"]
    assert found["sessions"] > 0
    assert found["effects"] > 0


async def test_nor_do_they_over_postgresql(tmp_path: Path, postgres: Server) -> None:
    async with postgres.database() as url:
        found = kill(12, tmp_path, "--postgres-url", url)
    assert {each: found[each] for each in WRONG} == dict.fromkeys(WRONG, 0), found["examples"]
    assert found["sessions"] > 0


@pytest.mark.full
def test_nor_do_five_hundred(tmp_path: Path) -> None:
    found = kill(500, tmp_path)
    assert {each: found[each] for each in WRONG} == dict.fromkeys(WRONG, 0), found["examples"]
    assert found["runs_with_a_known_key"] > 0, "no kill fell between an effect and its result"
    assert found["calls_in_doubt"] > 0, "no kill fell inside a call that nobody can ask about"
