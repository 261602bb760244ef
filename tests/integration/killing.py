"""Running a script of `killed.py`'s kind, and killing it where it stops."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
"""A script that comes neither to its point nor to its end is killed then."""


def run(script: Path, *arguments: str) -> list[str]:
    """Its lines, the last one where it was killed, or with which it ended."""
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        said = []
        watchdog = threading.Timer(LIMIT_S, child.kill)
        watchdog.start()
        try:
            for line in child.stdout:
                said.append(line.strip())
                if line.startswith("stopped"):
                    break
        finally:
            watchdog.cancel()
            child.kill()
            child.wait(LIMIT_S)
    return said or [""]
