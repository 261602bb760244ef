"""`warmloop logs MODEL`: which engines there were, where their logs are, and how they end.

Shown are the engines that live, and the one that died last: why it did is what is asked most. The
logs are read from the stack's folder, so this also works when the stack is down; engines on other
machines of a cluster have theirs there. Lines carry the replica's name when there are several.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from serving.cluster import engine_logs
from serving.cluster.engine_logs import EngineLog
from serving.errors import ConfigError

POLL_S = 0.3
TAIL_BYTES = 2**20
CHUNK_BYTES = 2**20
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def chosen(logs: Sequence[EngineLog]) -> list[EngineLog]:
    """Of all `logs` (the dead first, by age): the living, and the one that died last."""
    dead = [log for log in logs if not log.living]
    return [*dead[-1:], *(log for log in logs if log.living)]


def show(out: Console, log_dir: Path, model: str, lines: int) -> None:
    """Print the list and the ends. Raises ConfigError when there is nothing to show."""
    logs = engine_logs.find(log_dir, model)
    if not logs:
        raise ConfigError(
            f"{model}: no engine of it has a log in {log_dir}; "
            "start the stack with 'warmloop up', or name the right one with -c"
        )
    shown = chosen(logs)
    for log in logs:
        _print(out, _line(log, log in shown))
    for log in shown:
        if lines:
            _print(out, "")
        for text in tail(log, lines):
            _print(out, _prefix(log.replica, len(shown)) + text)


def follow(
    out: Console,
    log_dir: Path,
    model: str,
    *,
    goes_on: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print what the model's engines print from now on, also those that start meanwhile."""
    readers = {
        log.path: Reader(log.path, log.path.stat().st_size)
        for log in engine_logs.find(log_dir, model)
    }
    while goes_on():
        for log in engine_logs.find(log_dir, model):
            if log.path not in readers:
                readers[log.path] = Reader(log.path, 0)
                _print(out, _line(log, True))
        for reader in readers.values():
            for text in reader.new_lines():
                _print(out, _prefix(reader.path.stem, 2) + text)
        sleep(POLL_S)


class Reader:
    """Follows one log, also when it begins anew because it was full."""

    def __init__(self, path: Path, position: int) -> None:
        self.path = path
        self._position = position
        self._rest = b""
        self._inode: int | None = None

    def new_lines(self) -> list[str]:
        """Whole lines since the last call; what is left of a full log's end comes first."""
        try:
            inode = self.path.stat().st_ino
        except FileNotFoundError:
            return []
        data = b""
        if self._inode is not None and inode != self._inode:
            data = self._read(self.path.with_name(self.path.name + ".1"))
            self._position = 0
        self._inode = inode
        data = self._rest + data + self._read(self.path)
        whole, _, self._rest = data.rpartition(b"\n")
        return [plain(line) for line in whole.split(b"\n")] if whole or data[:1] == b"\n" else []

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(self._position)
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        self._position += len(data)
        return data


def tail(log: EngineLog, lines: int) -> list[str]:
    """The last lines of a log, its predecessor's too when it has only just begun."""
    kept: deque[str] = deque(maxlen=lines)
    for path in (log.before, log.path):
        if path.exists():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                kept.extend(plain(line) for line in file.read().splitlines())
    return list(kept)


def plain(line: bytes) -> str:
    """Text that a terminal can be given: no control characters of the engine's."""
    text = _COLOUR.sub("", line.decode(errors="replace").rpartition("\r")[2])
    return "".join(c for c in text if c.isprintable() or c == "\t")


def _prefix(replica: str, count: int) -> str:
    return f"{replica} | " if count > 1 else ""


def _line(log: EngineLog, shown: bool) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(log.written_at))
    state = "running" if log.living else "ended  "
    mark = "▶" if shown else " "
    return f"{mark} {log.replica}  {state}  {when}  {log.size_bytes / 1024:,.0f} KiB  {log.path}"


def _print(out: Console, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
