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
    """A bar for each phase on a terminal; plain lines anywhere else."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._plain = PlainProgress(self._console.file)
        self._lock = threading.Lock()
        self._phase = ""
        self._shown: tuple[bars.Progress, bars.TaskID] | None = None

    def __call__(self, progress: Progress) -> None:
        if not self._console.is_terminal:
            self._plain(progress)
            return
        with self._lock:
            if progress.phase in ("ready", "failed"):
                self._end()
                self._console.print(str(progress), highlight=False, markup=False)
                return
            if self._shown is None or progress.phase != self._phase:
                self._end()
                self._phase = progress.phase
                self._shown = self._begin(progress)
            bar, task = self._shown
            note = f"{progress.unit} {progress.note}".strip()
            bar.update(task, completed=progress.done, total=progress.total or None, note=note)

    def _begin(self, progress: Progress) -> tuple[bars.Progress, bars.TaskID]:
        from rich import progress as bars

        bar = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[note]}", markup=False),
            bars.TimeElapsedColumn(),
            console=self._console,
        )
        task = bar.add_task(f"{progress.model}: {progress.phase}", total=None, note="")
        bar.start()
        return bar, task

    def _end(self) -> None:
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None
