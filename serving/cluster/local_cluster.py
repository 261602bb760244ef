"""The owner's side of a local cluster: start it, hear what happens, end it, leave nothing behind.

    owner (warmloop up) ── guardian ── serving.cluster ── Ray ── replicas ── guardian ── engine
                              │ the owner dies, by SIGKILL too: every process below is ended

To stop it in good order, `serving.cluster` itself must get the SIGTERM, and time to drain. The
guardian's own way is for emergencies: it ends every descendant at once, Ray and engines too.

Blocking; imports no Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.cluster.run_file import EVENTS, NAME, TOKEN, import_env, read_run_file
from serving.engines import guardian
from serving.errors import EngineError

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the cluster's progress; see `serving.cluster` for the kinds and their fields."""

    kind: str
    fields: dict[str, Any]


class LocalCluster:
    """One `serving.cluster` process under a guardian."""

    def __init__(self, config_path: Path, run_dir: Path) -> None:
        self._config_path = config_path
        self._run_dir = run_dir
        self._tree: guardian.Guarded | None = None
        self._pid = 0
        self._read_bytes = 0

    @property
    def log_path(self) -> Path:
        return self._run_dir / "logs" / "cluster.log"

    def start(self) -> None:
        """Launch it, and return at once."""
        # What a killed run left would lead its readers to a Ray that is gone.
        for name in (EVENTS, NAME):
            (self._run_dir / name).unlink(missing_ok=True)
        argv = [sys.executable, "-m", "serving.cluster", "--config", str(self._config_path)]
        self._tree = guardian.spawn(
            [*argv, "--run-dir", str(self._run_dir)],
            {**os.environ, **import_env()},
            self.log_path,
        )

    def alive(self) -> bool:
        """True while anything of it is left."""
        return self._tree is not None and self._tree.poll() is None

    def new_events(self) -> list[Event]:
        """What happened since the last call."""
        try:
            with (self._run_dir / EVENTS).open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except FileNotFoundError:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(data)
        events = []
        for line in data.splitlines():
            fields = json.loads(line)
            self._pid = fields.get("pid", self._pid)
            events.append(Event(fields.pop("event"), fields))
        return events

    def wait_ready(self, timeout_s: float) -> list[Event]:
        """Return all events so far when every replica of every model is ready.

        Raises EngineError, with the engine's last log lines, when one fails to start.
        """
        deadline = time.monotonic() + timeout_s
        seen: list[Event] = []
        while time.monotonic() < deadline:
            alive = self.alive()
            seen += self.new_events()
            for event in seen:
                if event.kind == "failed":
                    raise EngineError(event.fields["reason"])
            if any(event.kind == "ready" for event in seen):
                return seen
            if not alive:
                raise EngineError(f"Ray ended while it started (log: {self.log_path})")
            time.sleep(POLL_S)
        raise EngineError(f"not all engines ready after {timeout_s:.0f} s (log: {self.log_path})")

    def stop(self, timeout_s: float) -> None:
        """Let it drain and end; end what is left after `timeout_s`. Idempotent."""
        if self._tree is None:
            return
        self.new_events()
        run = read_run_file(self._run_dir)
        deadline = time.monotonic() + timeout_s
        if self._pid and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
            while self.alive() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        self._tree.close()
        # It tidies up itself, unless it was killed.
        for name in (NAME, TOKEN):
            (self._run_dir / name).unlink(missing_ok=True)
        if run is not None:
            shutil.rmtree(run.temp_dir, ignore_errors=True)
