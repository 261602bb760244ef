"""Orders to a running cluster, as files in the stack's folder: one machine, one user, no port.

    warmloop restart ── DIR/commands/ID.json ──▶ serving.cluster
                    ◀── DIR/commands/ID.log  ──  lines of JSON: {"text": ..., "end": ""}
                                                 the last one's `end` is "done" or "failed"

The folder is its owner's alone; who can write there can do all this anyway. An order is removed
when it is taken, an answer when it has been read or when the next cluster starts.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from serving import whole_file
from serving.errors import EngineError

FOLDER = "commands"
POLL_S = 0.1
MAX_ORDERS = 16
"""Taken at once; more of them are left for the next time."""

End = Literal["", "done", "failed"]


class Restart(msgspec.Struct, frozen=True):
    """Replace all engines of a model, one after another."""

    model: str
    in_place: bool = False
    """Stop each one before its successor starts."""


class Line(msgspec.Struct, frozen=True):
    """One line of an answer."""

    text: str
    end: End = ""


@dataclass(frozen=True, slots=True)
class Order:
    """A restart that was asked for, and where to answer."""

    restart: Restart
    answer: Path

    def say(self, text: str, end: End = "") -> None:
        # Nobody may be reading any more, or the disk be full: what was ordered goes on.
        with contextlib.suppress(OSError), self.answer.open("ab") as file:
            file.write(msgspec.json.encode(Line(text, end)) + b"\n")


def open_(run_dir: Path) -> None:
    """Begin to take orders; what an earlier run left is forgotten."""
    close(run_dir)
    (run_dir / FOLDER).mkdir(mode=0o700, parents=True)


def close(run_dir: Path) -> None:
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)


def take(run_dir: Path) -> list[Order]:
    """The orders that have come since; those that cannot be read are dropped."""
    orders = []
    for path in sorted((run_dir / FOLDER).glob("*.json"))[:MAX_ORDERS]:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            data = path.read_bytes()
            path.unlink()
            orders.append(Order(msgspec.json.decode(data, type=Restart), path.with_suffix(".log")))
    return orders


def ask(run_dir: Path, restart: Restart, alive: Callable[[], bool]) -> Iterator[Line]:
    """Give an order, and hand on what is said of it, to the end.

    Raises EngineError when the cluster takes no orders, or ends meanwhile.
    """
    folder = run_dir / FOLDER
    if not folder.is_dir():
        raise EngineError("the engines are still starting; try again when they are ready")
    name = f"{time.time_ns()}-{secrets.token_hex(4)}"
    answer = folder / f"{name}.log"
    whole_file.write(folder / f"{name}.json", msgspec.json.encode(restart))
    read_bytes = 0
    try:
        while True:
            living = alive()  # asked before the look, so that last words are read
            data = answer.read_bytes()[read_bytes:] if answer.exists() else b""
            data = data[: data.rfind(b"\n") + 1]
            read_bytes += len(data)
            for text in data.splitlines():
                line = msgspec.json.decode(text, type=Line)
                yield line
                if line.end:
                    return
            if not living or not folder.is_dir():
                raise EngineError("the stack has ended meanwhile")
            time.sleep(POLL_S)
    finally:
        answer.unlink(missing_ok=True)
