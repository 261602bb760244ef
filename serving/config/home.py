"""Where Warmloop keeps what it downloads and writes."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$WARMLOOP_HOME`, else `~/.warmloop`: weights, and one folder a stack."""
    return Path(os.environ.get("WARMLOOP_HOME") or Path.home() / ".warmloop")
