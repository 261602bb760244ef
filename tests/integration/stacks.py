"""Whole stacks for tests: started by the real command, found and killed by a mark they inherit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from orchestrator import supervisor

MARK = "WARMLOOP_TEST_MARK"
PATIENCE_S = 240.0
POLL_S = 0.1


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Poll until `condition` is truthy; fails with `what` when time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


@dataclass
class Stack:
    """One stack's file, environment and processes."""

    config: Path
    home: Path
    name: str
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    extra_env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "WARMLOOP_HOME": str(self.home),
            MARK: self.mark,
            **self.extra_env,
        }

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator.cli", *args]

    def run(self, *args: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run `warmloop ARGS` to its end."""
        return subprocess.run(
            self.command(*args),
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start `warmloop ARGS` beside the test."""
        process = subprocess.Popen(
            self.command(*args),
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def up(self) -> str:
        """`warmloop up --detach`; returns the front door's URL."""
        done = self.run("up", "--detach", "-c", str(self.config))
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return self.url()

    def url(self) -> str:
        run_file = supervisor.run_file_path(self.home / "stacks" / self.name)
        return str(yaml.safe_load(run_file.read_text())["url"])

    def logs(self) -> str:
        """The end of each log, for a failure's message."""
        folder = self.home / "stacks" / self.name / "logs"
        return "".join(
            f"\n--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(folder.rglob("*.log"))
        )

    def processes(self) -> list[psutil.Process]:
        """Every living process that descends from a command of this stack."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def process(self, *words: str) -> psutil.Process | None:
        """The process itself (not its guardian) whose command line holds all of `words`."""
        for process in self.processes():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            guardian = any(part.endswith("guardian.py") for part in line)
            if all(word in line for word in words) and not guardian:
                return process
        return None

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for child in self.started:
            child.communicate()


@contextmanager
def stack(tmp_path: Path, **sections: Any) -> Iterator[Stack]:
    """A stack from the sections of its file; nothing of it survives the block."""
    name = f"t{uuid.uuid4().hex[:8]}"
    config = tmp_path / "stack.yaml"
    front = {"port": 0, **sections.pop("front", {})}
    config.write_text(yaml.safe_dump({"name": name, "front": front, **sections}))
    made = Stack(config, tmp_path / "home", name)
    made.home.mkdir(exist_ok=True)
    try:
        yield made
    finally:
        made.kill_all()
