"""`warmloop bench`: which benchmarks there are, and one of them as a child process.

    warmloop bench                     their names, a line each
    warmloop bench NAME ARGUMENT...    the same as `python -m benchmarks.NAME ARGUMENT...`

Nothing of the product imports `benchmarks`: they are found as files and read as text. One is a
module that can be run and is no part of another (`gateway_engine` is a part of `gateway`); what it
is about is the first line of its docstring.
"""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from serving.config.sections import nearest
from serving.errors import ConfigError

_IS_RUN = 'if __name__ == "__main__":'
_HOW = re.compile(r":? `python -m .*")


def folder() -> Path:
    """Where the benchmarks lie. Raises ConfigError where they are not installed."""
    spec = find_spec("benchmarks")
    if spec is None or spec.origin is None:
        raise ConfigError("benchmarks: not installed beside this command; run it from a checkout")
    return Path(spec.origin).parent


def found(where: Path) -> dict[str, str]:
    """Name → what it is about."""
    about = {}
    for path in sorted(where.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if _IS_RUN in text and not _is_part(path):
            first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
            about[path.stem] = _HOW.sub("", first).rstrip(".")
    return about


def show(out: Console) -> None:
    """Print the list."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, about in found(folder()).items():
        table.add_row(name, about)
    out.print(table, highlight=False, markup=False)
    out.print(
        "warmloop bench NAME --help says more of each", style="dim", highlight=False, markup=False
    )


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one to its end, on this terminal; returns its exit code. Raises ConfigError for a name
    that is none."""
    names = [*found(folder())]
    if name not in names:
        raise ConfigError(f"bench: {name!r} is no benchmark; {nearest(name, names)}")
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}", *arguments]) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            return child.wait()
        except KeyboardInterrupt:  # the terminal has told the child, too: it ends by itself
            child.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _is_part(path: Path) -> bool:
    """`kills_child` is one of `kills`, which lies beside it."""
    words = path.stem.split("_")
    wholes = ("_".join(words[:n]) for n in range(1, len(words)))
    return any(path.with_name(f"{whole}.py").exists() for whole in wholes)
