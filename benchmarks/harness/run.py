"""One run of a benchmark: its circumstances, its JSON, its last lines.

    {"format": 1, "benchmark", "part", "began", "seconds", "command", "commit", "changed",
     "machine": {"system", "processor", "cores", "memory_gib", "python",
                 "load_before", "load_after"},
     "configuration": {...}, "figures": ...,
     "bars": [{"what", "value", "limit", "at_most", "missed"}]}

No password of a URL is in it. `part`: which of its files, where a benchmark writes several.
`commit` is of the code that ran; `changed`: there were changes on top of it. Both are empty where
the code is no checkout.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.harness.bars import Bar

ROOT = Path(__file__).parents[2]
FORMAT = 1
_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/@]+(?=@)|((?:password|passwd|token|key)=)[^\s&'\"]+")


@dataclass(frozen=True)
class Code:
    """What ran."""

    commit: str
    changed: bool


def code(folder: Path = ROOT) -> Code:
    """Of that checkout."""

    commit = git(folder, "rev-parse", "HEAD")
    changed = commit and git(folder, "status", "--porcelain", "--untracked-files=no")
    return Code(commit or "", bool(changed))


def git(folder: Path, *arguments: str) -> str | None:
    """What it says; None where it fails."""
    try:
        ended = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


class Run:
    """Made when a benchmark begins: it notes the time and the machine's load before the work."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self._configuration = vars(options)
        self._began = time.time()
        self._load_before = os.getloadavg()[0]
        self._code = code()

    def machine(self) -> dict[str, Any]:
        """Where it ran, in words that tell nobody whose machine it is."""
        return {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "python": platform.python_version(),
            "load_before": round(self._load_before, 2),
            "load_after": round(os.getloadavg()[0], 2),
        }

    def report(self, figures: Any, bars: Sequence[Bar] = (), part: str = "") -> dict[str, Any]:
        """All of it, as JSON takes it."""
        whole = {
            "format": FORMAT,
            "benchmark": self.name,
            "part": part,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began)),
            "seconds": round(time.time() - self._began, 1),
            "command": _command(),
            "commit": self._code.commit,
            "changed": self._code.changed,
            "machine": self.machine(),
            "configuration": self._configuration,
            "figures": figures,
            "bars": [{**asdict(bar), "missed": bar.missed} for bar in bars],
        }
        plain: dict[str, Any] = _plain(whole)
        return plain

    def write(self, path: Path, figures: Any, bars: Sequence[Bar] = (), part: str = "") -> None:
        """Write the report. `figures` may hold dataclasses, paths and NaN (null)."""
        text = json.dumps(
            self.report(figures, bars, part), indent=2, allow_nan=False, ensure_ascii=False
        )
        path.write_text(text + "\n", encoding="utf-8")


def out_folder(text: str) -> Path:
    """The type of `--out`: a folder, if only it can be made. Else it is told before the work."""
    path = Path(text)
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise argparse.ArgumentTypeError(f"{str(part)!r} is a file; give a folder")
    return path


def conclude(console: Console, bars: Sequence[Bar], out: Path | None = None) -> int:
    """A benchmark's last lines: each bar, the machine, where the files are. Returns 1 if a bar is
    missed, else 0."""
    for bar in bars:
        console.print(str(bar), highlight=False, soft_wrap=True)
    files = "" if out is None else f"; files in {out}/"
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}{files}", highlight=False)
    return 1 if any(bar.missed for bar in bars) else 0


def _command() -> str:
    """As it can be typed again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("benchmarks."):
        return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _PASSWORD.sub(r"\1\2***", str(value)) if isinstance(value, str | Path) else value
