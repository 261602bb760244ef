"""The life of a local cluster, as one child process of `warmloop up`.

    python -m serving.cluster --config FILE --run-dir DIR

    Ray up ──▶ directory ──▶ one Serve application a model ──▶ watch ──▶ SIGTERM: drain, Ray down
                                        │
                                        └ an engine's first start fails: say why, end with status 1

What happens is said as lines of JSON, on stdout and in DIR/events.jsonl:

    {"event": "starting", "pid": 1}    {"event": "ray-ready", "address": "127.0.0.1:1", "s": 4.2}
    {"event": "engine", "model": "small", "replica": "small-3f", "state": "ready", "reason": ""}
    {"event": "ready", "s": 12.9}      {"event": "failed", "model": "small", "reason": "..."}
    {"event": "ray-lost", "what": "gcs_server"}
    {"event": "stopping"}              {"event": "stopped"}

While it runs it takes orders from DIR/commands (`commands.py`), e.g. to restart a model.

It is to be run under the guardian (`serving.cluster.local_cluster`), which ends every descendant
when the owner is gone. Ask it to stop by SIGTERM to its own process id: the guardian's would end
Ray at the same moment, and nothing would drain.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from serving.cluster import commands, directory
from serving.cluster.local_ray import LocalRay
from serving.cluster.restart import Restarts
from serving.cluster.run_file import EVENTS, RunFile, read_run_file
from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.config.stack_file import load
from serving.errors import EngineError, WarmloopError
from serving.models.adapter_store import STORE
from serving.preflight import available_memory_bytes
from serving.tables.base import Engine

__all__ = ["RunFile", "read_run_file"]

WATCH_S = 1.0
HEAD = "gcs_server"
MAX_EVENT_BYTES = 8 * 2**20
CALL_S = 2.0


class Events:
    """Progress lines for the owner."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / EVENTS
        self._path.write_bytes(b"")
        self._started_s = time.monotonic()

    def say(self, event: str, **fields: object) -> None:
        elapsed_s = round(time.monotonic() - self._started_s, 2)
        line = json.dumps({"event": event, **fields, "s": elapsed_s})
        with self._path.open("a", encoding="utf-8") as file:
            # An engine that crashes for months must not fill the disk; its log has it all.
            if event != "engine" or file.tell() < MAX_EVENT_BYTES:
                file.write(line + "\n")
        # The owner may be gone and its pipe with it; that is the guardian's business.
        with contextlib.suppress(OSError):
            print(line, flush=True)


class Progress:
    """Turns snapshots into events: what changed, when all is ready, and what failed at first."""

    def __init__(self, models: dict[str, ModelConfig], events: Events) -> None:
        self._wanted = {name: model.first_replicas for name, model in models.items()}
        self._events = events
        self._seen: dict[str, Engine] = {}
        self._up: set[str] = set()

    def take(self, engines: tuple[Engine, ...]) -> None:
        """Raises EngineError when a model's first start has failed."""
        now = {engine.replica: engine for engine in engines}
        for replica, engine in now.items():
            before = self._seen.get(replica)
            if before is None or before.state != engine.state:
                self._say(engine, engine.state, engine.reason)
        for replica in self._seen.keys() - now.keys():
            self._say(self._seen[replica], "gone", "")
        self._seen = now
        for model, wanted in self._wanted.items():
            of_model = [e for e in engines if e.model == model]
            if sum(e.state == "ready" for e in of_model) >= wanted and model not in self._up:
                self._up.add(model)
                if len(self._up) == len(self._wanted):
                    self._events.say("ready")
            dead = [e for e in of_model if e.state == "dead"]
            if dead and model not in self._up:
                self._events.say("failed", model=model, reason=dead[0].reason)
                raise EngineError(dead[0].reason)

    def _say(self, engine: Engine, state: str, reason: str) -> None:
        self._events.say(
            "engine",
            model=engine.model,
            replica=engine.replica,
            url=engine.url,
            state=state,
            reason=reason,
        )


def run(config: StackConfig, run_dir: Path) -> None:
    """Start everything, watch until a signal comes, end everything. Raises WarmloopError."""
    # A flag, not an exception: raised within Ray's compiled code it would become a SystemError.
    stop = threading.Event()
    _set_on_signals(stop)
    events = Events(run_dir)
    events.say("starting", pid=os.getpid())
    # Copies for the engines of an earlier run; none is left that could read them.
    shutil.rmtree(run_dir / STORE / "configured", ignore_errors=True)
    ray_node = LocalRay(run_dir)
    try:
        run_file = ray_node.start()
        _set_on_signals(stop)  # again: Ray's own start replaces the handlers
        events.say("ray-ready", address=run_file.address)
        if not stop.is_set():
            _serve(config, run_dir, events, stop, ray_node)
    finally:
        events.say("stopping")
        commands.close(run_dir)
        _shut_serve_down(config.front.drain_s, ray_node)
        ray_node.stop()
        events.say("stopped")


def _serve(
    config: StackConfig,
    run_dir: Path,
    events: Events,
    stop: threading.Event,
    ray_node: LocalRay,
) -> None:
    import ray
    from ray import serve

    from serving.cluster.replica import deployment

    models = {n: m for n, m in config.models.items() if m.engine != "external"}
    actor = directory.connect()
    serve.start(proxy_location="Disabled")

    def deploy(names: Iterable[str], round_: int = 0, surge: bool = True) -> None:
        made = {
            name: deployment(name, models[name], run_dir / "logs", round_=round_, surge=surge)
            for name in names
        }
        serve.run_many(
            [serve.RunTarget(app, name=name, route_prefix=None) for name, app in made.items()],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    def free_gpus() -> float:
        return float(ray.available_resources().get("GPU", 0))

    commands.open_(run_dir)
    deploy(models)
    progress = Progress(models, events)
    restarts = Restarts(
        models,
        lambda model, round_, surge: deploy([model], round_, surge),
        lambda: (available_memory_bytes(), free_gpus()),
    )
    version = -1
    while not stop.is_set():
        # The watch alone would go on without them, until Ray ends the engines.
        if not ray_node.alive():
            _outlive(ray_node, events, stop)
            return
        try:
            snapshot = ray.get(actor.watch.remote(version, WATCH_S), timeout=CALL_S)
        except ray.exceptions.RayActorError:
            actor = directory.connect()
            continue
        except ray.exceptions.GetTimeoutError:
            continue
        version = snapshot.version
        progress.take(snapshot.engines)
        for asked in commands.take(run_dir):
            restarts.ask(asked, snapshot.engines)
        restarts.take(snapshot.engines)


def _outlive(ray_node: LocalRay, events: Events, stop: threading.Event) -> None:
    """Without its head (`gcs_server`) Ray heals nothing any more, but engines go on: hold them
    until the owner says stop. Raises EngineError when more is gone: then Ray ends them itself."""
    events.say("ray-lost", what=", ".join(ray_node.ended()))
    while not stop.is_set():
        ended = ray_node.ended()
        if set(ended) - {HEAD}:
            raise EngineError(f"of Ray's own processes, {', '.join(ended)} ended")
        stop.wait(WATCH_S / 4)


def _shut_serve_down(drain_s: float, ray_node: LocalRay) -> None:
    """Let Serve drain and end the replicas, unless Ray is gone: then there is nobody to ask."""
    if not ray_node.alive():
        return
    from serving.cluster.replica import KILL_GRACE_S

    timeout_s = drain_s + KILL_GRACE_S

    def shut_down() -> None:
        import ray
        from ray.serve import context

        with contextlib.suppress(Exception):
            ray.get(directory.connect().close_within.remote(drain_s), timeout=CALL_S)
        with contextlib.suppress(Exception):  # whatever fails here, Ray's processes end next
            client = context._get_global_client(raise_if_no_controller_running=False)
            if client is not None:
                client.shutdown(timeout_s=timeout_s)

    # A daemon thread, since a call into a Ray that dies meanwhile never returns.
    thread = threading.Thread(target=shut_down, daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout_s + CALL_S
    while thread.is_alive() and ray_node.alive() and time.monotonic() < deadline:
        thread.join(0.1)


def _set_on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m serving.cluster")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    status = 0
    try:
        run(load(args.config), args.run_dir)
    except WarmloopError as error:
        print(f"warmloop: {error}", file=sys.stderr)
        status = error.exit_code
    except Exception:
        logging.exception("the local cluster failed")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: Ray's exit handlers wait for a Ray that may be gone.
    os._exit(status)
