"""`warmloop up`: one process that owns a running stack.

    supervisor ── guardian ── serving.cluster    Ray, replicas, engines
               └─ guardian ── orchestrator.front the front door, started again when it dies

The order is: lock, check the machine, the agents and the journal, fetch weights, start the cluster,
start the front door, wait until every model has its replicas. An engine that cannot start ends it
with the engine's own last words. The front door keeps nothing that it cannot rebuild, so its death
costs its clients a reconnect and nobody a warm prefix. When the supervisor itself dies, by SIGKILL
too, the guardians see their pipes close and take everything down.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import psutil

from serving import preflight, whole_file
from serving.cluster.local_cluster import LocalCluster
from serving.config.home import home
from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.engines import guardian
from serving.engines.ports import free_port
from serving.engines.process import meaningful
from serving.errors import ConfigError, EngineError, WarmloopError
from serving.models import weights
from serving.tables.discovery import needs_ray

POLL_S = 0.2
RESTART_MAX_S = 5.0
PATIENT_S = 15.0
"""After so long, and again and again, it is said what a start is waiting for."""
OUTLIVE_S = 120.0
"""How long a stack serves without Ray's head: long enough for the turns that run, and soon started
anew."""
STOP_S = 8.0
"""For Ray and the engines to end in good order; what is left then is killed."""

Say = Callable[[str], None]


class RunFile(msgspec.Struct, frozen=True):
    """Where a running stack can be reached; lies in the stack's folder while it runs."""

    name: str
    pid: int
    url: str
    config: str
    state: Literal["starting", "ready"] = "starting"
    created: float = 0.0
    """When the process began, in Unix seconds: its id alone may be another one's by now."""

    @property
    def folder(self) -> Path:
        """The stack's folder."""
        return home() / "stacks" / self.name

    def process(self) -> psutil.Process | None:
        """The supervisor; None when it has ended."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid)
            if abs(found.create_time() - self.created) < 1:
                return found
        return None


def run_file_path(folder: Path) -> Path:
    return folder / "run.json"


def running() -> list[RunFile]:
    """Every stack of this user whose supervisor is alive."""
    found = []
    for path in sorted(home().glob("stacks/*/run.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            run = msgspec.json.decode(path.read_bytes(), type=RunFile)
            if run.process() is not None:
                found.append(run)
    return found


def find(name: str | None) -> RunFile:
    """The running stack called `name`, or the only one there is."""
    stacks = running()
    if name is not None:
        stacks = [run for run in stacks if run.name == name]
    if not stacks:
        what = f"the stack {name!r} is not running" if name else "no stack is running"
        raise WarmloopError(f"{what}; start one with: warmloop up -c configs/cpu.yaml")
    if len(stacks) > 1:
        names = ", ".join(run.name for run in stacks)
        raise ConfigError(f"several stacks run ({names}); choose one with -c FILE")
    return stacks[0]


def get_json(
    url: str, timeout_s: float = 5.0, headers: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any] | None:
    """GET a JSON object from our own front door; None while it does not answer."""
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 our own http URL
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            found = json.load(answer)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def stop(run: RunFile, timeout_s: float = 60.0) -> None:
    """Ask a stack to end and wait until its supervisor is gone."""
    process = run.process()
    if process is None:
        return
    try:
        process.terminate()
        process.wait(timeout_s)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        # The guardians end everything below when their owner is gone, however it went.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(timeout_s)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says which folder cannot be written, and what to do about it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}; "
            "point WARMLOOP_HOME to a folder of yours with space in it"
        ) from None


class Supervisor:
    """Runs one stack from start to end; see the module's story."""

    def __init__(self, config: StackConfig, config_path: Path, *, say: Say) -> None:
        self._config = config
        self._config_path = config_path.resolve()
        self._say = say
        self._stop = threading.Event()
        self._folder = config.folder
        self._port = config.front.port or free_port()
        self._cluster = LocalCluster(self._config_path, self._folder) if needs_ray(config) else None
        self._front: guardian.Guarded | None = None
        self._end_at = math.inf
        self._why_end = ""

    @property
    def url(self) -> str:
        return f"http://{self._config.front.host}:{self._port}"

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Bring the stack up, call `on_ready(url)`, and hold it until SIGINT or SIGTERM.

        Raises ConfigError, WeightsError or EngineError when it cannot come up.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop.set())
        with self._only_one():
            try:
                preflight.check(self._config)
                self._write_run_file("starting")
                self._check_front()
                self._fetch_weights()
                if not self._stop.is_set():
                    self._start_cluster()
                    self._start_front()
                if self._wait_ready():
                    self._write_run_file("ready")
                    on_ready(self.url)
                    self._hold()
            finally:
                self._take_down()

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """Hold the stack's lock: two supervisors would fight over journal and port.

        Raises ConfigError when another one holds it.
        """
        with writing(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # conversations lie here
            lock = (self._folder / "up.lock").open("a+")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"name: the stack {self._config.name!r} is already running; "
                    "stop it with 'warmloop down', or give this one another name:"
                ) from None
            for part in ("front", "cluster"):  # what an earlier run said is not this one's doing
                with contextlib.suppress(FileNotFoundError):
                    self._log(part).replace(self._log(part).with_suffix(".log.1"))
            yield

    def _log(self, part: str) -> Path:
        return self._folder / "logs" / f"{part}.log"

    def _write_run_file(self, state: Literal["starting", "ready"]) -> None:
        created = psutil.Process().create_time()
        where = (self.url, str(self._config_path))
        run = RunFile(self._config.name, os.getpid(), *where, state, created)
        path = run_file_path(self._folder)
        with writing(self._folder):
            whole_file.write(path, msgspec.json.encode(run))

    def _fetch_weights(self) -> None:
        """All models at once: downloads wait for the network, conversions for one core each."""
        progress = weights.RichProgress()
        failed: list[BaseException] = []

        def fetch(name: str, model: ModelConfig) -> None:
            try:
                weights.fetch(name, model, progress=progress)
            except BaseException as error:
                failed.append(error)

        fetches = [
            # Daemons: a fetch that is interrupted is taken up again the next time.
            threading.Thread(target=fetch, args=item, daemon=True)
            for item in self._config.models.items()
            if item[1].sources and weights.cached(item[1]) is None
        ]
        if fetches:
            self._say("fetching weights")
        for thread in fetches:
            thread.start()
        while any(thread.is_alive() for thread in fetches) and not (failed or self._stop.is_set()):
            time.sleep(POLL_S)
        if failed:
            raise failed[0]

    def _start_cluster(self) -> None:
        if self._cluster is not None:
            self._say("Ray and engines")
            self._cluster.start()

    def _check_front(self) -> None:
        """Load the agents' tools and open the journal, before anything is downloaded.

        In a process of its own, where a user's module may do what it likes.
        """
        checking = self._spawn_front("--check")
        try:
            while checking.poll() is None:
                if self._stop.wait(POLL_S / 4):
                    return
        finally:
            status = checking.close()
        if status != 0:
            raise self._ended("the front door cannot start", "front", status)

    def _start_front(self) -> None:
        self._front = self._spawn_front("--port", str(self._port))

    def _spawn_front(self, *args: str) -> guardian.Guarded:
        argv = [sys.executable, "-m", "orchestrator.front", "--config", str(self._config_path)]
        return guardian.spawn(
            [*argv, *args],
            env=dict(os.environ),
            log=self._log("front"),
            grace_s=self._config.front.drain_s + 2,
        )

    def _wait_ready(self) -> bool:
        """Poll the front door until every model has its replicas; False when told to stop."""
        waiting = {
            name: 1 if model.engine == "external" else model.first_replicas
            for name, model in self._config.models.items()
        }
        started = time.monotonic()
        next_word = started + PATIENT_S
        patience_s = max(model.ready_timeout_s for model in self._config.models.values())
        while not self._stop.wait(POLL_S):
            self._check_children(starting=True)
            engines = (get_json(f"{self.url}/health") or {}).get("engines", [])
            for name in list(waiting):
                mine = [engine for engine in engines if engine["model"] == name]
                if sum(engine["state"] == "ready" for engine in mine) >= waiting[name]:
                    self._say(f"{name} is ready after {time.monotonic() - started:.0f} s")
                    del waiting[name]
                    continue
            if not waiting:
                return True
            if time.monotonic() > next_word:
                next_word += PATIENT_S
                reasons = {e["reason"] for e in engines if e["model"] in waiting and e["reason"]}
                why = "; ".join(sorted(reasons)) or "starting"
                self._say(f"waiting for {', '.join(waiting)}: {why}")
            if time.monotonic() - started > patience_s:
                raise EngineError(
                    f"models.{', '.join(waiting)}: not ready after {patience_s:.0f} s; "
                    f"see {self._folder / 'logs'}, or raise ready_timeout_s"
                )
        return False

    def _hold(self) -> None:
        """Watch the children; the front door is started again, the cluster's end is ours."""
        while not self._stop.wait(POLL_S):
            self._check_children(starting=False)
            if time.monotonic() > self._end_at:
                raise EngineError(self._why_end)

    def _check_children(self, *, starting: bool) -> None:
        if self._cluster is not None:
            alive = self._cluster.alive()
            for event in self._cluster.new_events():
                if event.kind == "failed":
                    fields = event.fields
                    raise EngineError(f"models.{fields['model']}: {fields['reason']}")
                if event.kind == "ray-lost":
                    self._lost(event.fields["what"])
            if not alive:
                raise self._ended("Ray ended unexpectedly", "cluster")
        if self._front is not None and (status := self._front.poll()) is not None:
            if starting:
                raise self._ended("the front door ended at start", "front", status)
            self._restart_front()

    def _lost(self, what: str) -> None:
        """Ray's head has ended. Engines go on, but one that dies is not replaced."""
        self._why_end = f"Ray's {what} ended; start the stack again: its conversations go on"
        self._end_at = time.monotonic() + OUTLIVE_S
        self._say(f"Ray's {what} ended: engines go on for {OUTLIVE_S:.0f} s, then the stack ends")

    def _restart_front(self) -> None:
        """Start the front door again, more slowly the more often it fails in a row."""
        pause_s = 0.1
        while not self._stop.wait(pause_s):
            self._say("front door ended; starting it again")
            self._start_front()
            began = time.monotonic()
            while self._front is not None and self._front.poll() is None:
                if self._stop.wait(POLL_S) or get_json(f"{self.url}/health") is not None:
                    return
                if self._cluster is not None and not self._cluster.alive():
                    return
            lived_s = time.monotonic() - began
            pause_s = min(RESTART_MAX_S, max(0.5, pause_s * 2) if lived_s < 30 else 0.5)

    def _ended(self, what: str, part: str, status: int = 1) -> WarmloopError:
        """Why a child ended: what it said of it as a sentence, else its last words."""
        path = self._log(part)
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            return EngineError(f"{what} (no log at {path})")
        # Lines of JSON are progress and requests, unless they tell of an error.
        telling = [line for line in lines if line[:1] != "{" or '"level":"error"' in line]
        _, sentence, said = "\n".join(telling).rpartition("warmloop: ")
        if sentence:
            return ConfigError(said) if status == ConfigError.exit_code else EngineError(said)
        words = "\n".join(f"    {line}" for line in meaningful(telling))
        return EngineError(f"{what}\n{words}\n(whole log: {path})")

    def _take_down(self) -> None:
        """Front door first, so that no turn meets an engine that is going away."""
        if self._front is not None:
            self._front.close()
        if self._cluster is not None:
            self._cluster.stop(STOP_S)
        run_file_path(self._folder).unlink(missing_ok=True)
