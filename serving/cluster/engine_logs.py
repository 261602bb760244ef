"""The logs of a model's engines: one file an engine, found by the model's name, bounded in number.

    logs/MODEL-1f3a9c02.log       what the engine with that replica id printed
    logs/MODEL-1f3a9c02.log.1     what came before, when it was much (the guardian's bound)

An engine that is started again has a new id and a new file, so that the words of one that was
killed are still there. The guardian holds a lock on the log that it writes: who holds no lock is
dead, whatever became of the process that started it. Before each start the oldest of the dead are
removed, beyond `keep` files and `keep_mib` of all of the model's logs; never those of the living.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.config.model import EngineLogsConfig

MIB = 2**20
_NAME = re.compile(r"^(?P<model>.+)-[0-9a-f]{8}\.log$")


@dataclass(frozen=True, slots=True)
class EngineLog:
    """One engine's log, its predecessor included."""

    path: Path
    size_bytes: int
    written_at: float
    """Unix seconds."""
    living: bool

    @property
    def replica(self) -> str:
        return self.path.name.removesuffix(".log")

    @property
    def before(self) -> Path:
        return self.path.with_name(self.path.name + ".1")


def path(log_dir: Path, replica: str) -> Path:
    return log_dir / f"{replica}.log"


def find(log_dir: Path, model: str) -> list[EngineLog]:
    """All logs of this model's engines on this machine, the oldest first."""
    found = []
    for file in log_dir.glob("*.log"):
        name = _NAME.match(file.name)
        if name is None or name["model"] != model:
            continue
        with contextlib.suppress(OSError):  # removed meanwhile, or not ours
            stat = file.stat()
            size = stat.st_size
            with contextlib.suppress(FileNotFoundError):
                size += file.with_name(file.name + ".1").stat().st_size
            found.append(EngineLog(file, size, stat.st_mtime, _is_locked(file)))
    return sorted(found, key=lambda log: (log.living, log.written_at))


def surplus(logs: Sequence[EngineLog], knobs: EngineLogsConfig) -> list[EngineLog]:
    """Which of `logs` (oldest first) must go, so that one more engine has room for its own."""
    kept = len(logs)
    size = sum(log.size_bytes for log in logs)
    gone = []
    for log in logs:
        if kept < knobs.keep and size <= knobs.keep_mib * MIB:
            break
        if not log.living:
            gone.append(log)
            kept -= 1
            size -= log.size_bytes
    return gone


def prune(log_dir: Path, model: str, knobs: EngineLogsConfig) -> None:
    """Remove what is too much; what cannot be removed stays."""
    for log in surplus(find(log_dir, model), knobs):
        for file in (log.path, log.before):
            with contextlib.suppress(OSError):
                file.unlink()


def _is_locked(file: Path) -> bool:
    with file.open("rb") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
