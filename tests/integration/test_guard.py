"""The guard's ratios hold on this machine, whatever else it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.full
def test_what_costs_time_is_not_broken(tmp_path: Path) -> None:
    file = tmp_path / "guard.json"
    command = [sys.executable, "-m", "orchestrator.cli", "bench", "guard", "--json", str(file)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    bars = json.loads(file.read_text())["bars"]
    assert len(bars) == 3
    assert not any(bar["missed"] for bar in bars)
