"""Progress of a long fetch: a callable that is told what happens, and two that listen.

    fetch(..., progress=sink)  →  sink(Progress("small", "download", done=3, total=22))

A sink may be called from several threads, often; it must be quick and must not raise.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich import progress as bars
    from rich.console import Console

Phase = Literal["waiting", "download", "join", "convert", "failed", "ready"]
PLAIN_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened. `total` 0 = unknown; `note` is a short sentence."""

    model: str
    phase: Phase
    done: int = 0
    total: int = 0
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        counted = f" {self.done}/{self.total} {self.unit}".rstrip() if self.total else ""
        return f"{self.model}: {self.phase}{counted}" + (f", {self.note}" if self.note else "")


ProgressSink = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """The sink that listens to nobody."""


class PlainProgress:
    """A line a phase, and one each few seconds within it: for logs and for CI."""

    def __init__(
        self, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._lock = threading.Lock()
        self._last: tuple[str, str] | None = None
        self._last_at = 0.0

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            here, now = (progress.model, progress.phase), self._clock()
            finished = progress.total > 0 and progress.done >= progress.total
            if here == self._last and not finished and now - self._last_at < PLAIN_EVERY_S:
                return
            self._last, self._last_at = here, now
            print(progress, file=self._stream, flush=True)


class RichProgress:
    """A bar for each model on a terminal; plain lines anywhere else."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._plain = PlainProgress(self._console.file)
        self._lock = threading.Lock()
        self._bars: bars.Progress | None = None
        self._tasks: dict[str, bars.TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if not self._console.is_terminal:
            self._plain(progress)
            return
        with self._lock:
            if progress.phase in ("ready", "failed"):
                self._end(progress)
            else:
                self._update(progress)

    def _update(self, progress: Progress) -> None:
        if self._bars is None:
            self._bars = self._begin()
        if progress.model not in self._tasks:
            self._tasks[progress.model] = self._bars.add_task("", total=None, note="")
        self._bars.update(
            self._tasks[progress.model],
            description=f"{progress.model}: {progress.phase}",
            completed=progress.done,
            total=progress.total or None,
            note=f"{progress.unit} {progress.note}".strip(),
        )

    def _end(self, progress: Progress) -> None:
        task = self._tasks.pop(progress.model, None)
        if self._bars is not None and task is not None:
            self._bars.remove_task(task)
            if not self._tasks:
                self._bars.stop()
                self._bars = None
        self._console.print(str(progress), highlight=False, markup=False)

    def _begin(self) -> bars.Progress:
        from rich import progress as bars

        shown = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[note]}", markup=False),
            bars.TimeElapsedColumn(),
            console=self._console,
        )
        shown.start()
        return shown
