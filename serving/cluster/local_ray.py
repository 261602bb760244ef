"""A Ray of one machine: only the parts that Warmloop needs, nothing beyond loopback.

`ray.init()` by itself also starts an autoscaler, a log monitor and a dashboard server (three
Python processes, 280 MB), and writes a token to the home folder. So the node is built from the
class that `ray.init` and `ray start` use, with those left out; the version is pinned.

Sockets have paths of at most 107 bytes, hence a short folder under /tmp. It is removed at the end;
what a killed run left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psutil

from serving.cluster import directory
from serving.cluster.run_file import NAME, TOKEN, RunFile, child_env, make_token, write_run_file

ROOT = Path("/tmp")  # noqa: S108 mkdtemp makes the folder, for us alone
PREFIX = "wl-"
OWNER = "owner.pid"
OBJECT_STORE_BYTES = 100 * 2**20
"""Ray's shared memory; nothing of ours is kept there."""


class LocalRay:
    """Ray's processes, as children of this one. Blocking."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._node: Any = None
        self._temp_dir: Path | None = None

    def start(self) -> RunFile:
        """Start Ray, connect to it as a driver, and say in the run file where it is."""
        remove_leftovers()
        token = make_token(self._run_dir)
        os.environ.update(child_env(token))  # before Ray is imported, which reads it then
        import ray
        from ray._private.node import Node
        from ray._private.parameter import RayParams

        class QuietNode(Node):  # type: ignore[misc]  # Ray has no type hints
            def start_api_server(self, **_: object) -> None:
                """No dashboard server. `include_dashboard=False` would start it without pages."""

        self._temp_dir = Path(tempfile.mkdtemp(prefix=PREFIX, dir=ROOT))
        (self._temp_dir / OWNER).write_text(str(os.getpid()))
        params = RayParams(
            node_ip_address="127.0.0.1",
            num_cpus=0,  # nothing of ours asks for cores, and idle workers are started by core
            object_store_memory=OBJECT_STORE_BYTES,
            temp_dir=str(self._temp_dir),
            no_monitor=True,
            include_log_monitor=False,
            include_dashboard=False,
            # Any free port instead of fixed ones: another Ray may run on this machine.
            dashboard_agent_listen_port=0,
            min_worker_port=0,
            max_worker_port=0,
        )
        self._node = QuietNode(params, head=True, shutdown_at_exit=False, spawn_reaper=False)
        ray.init(
            address=self._node.address,
            namespace=directory.NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
        run = RunFile(
            address=self._node.address,
            token_path=str(token),
            temp_dir=str(self._temp_dir),
            pid=os.getpid(),
        )
        write_run_file(self._run_dir, run)
        return run

    def alive(self) -> bool:
        """False when one of Ray's own processes has ended: calls into Ray would then hang."""
        return self._node is not None and bool(self._node.remaining_processes_alive())

    def ended(self) -> list[str]:
        """Which of Ray's own processes have ended: `gcs_server`, `raylet`, ..."""
        return [name for name, _ in self._node.dead_processes()] if self._node is not None else []

    def stop(self) -> None:
        """End all of Ray's processes and remove its folder. Idempotent."""
        (self._run_dir / NAME).unlink(missing_ok=True)
        if self._node is not None:
            import ray

            if self.alive():
                with contextlib.suppress(Exception):
                    ray.shutdown()
            self._node.kill_all_processes(check_alive=False, allow_graceful=True)
            self._node = None
        if self._temp_dir is not None:
            shutil.rmtree(self._temp_dir, ignore_errors=True)
        (self._run_dir / TOKEN).unlink(missing_ok=True)


def remove_leftovers() -> None:
    """Remove the folders of clusters of ours that were killed; those that still run stay."""
    for folder in ROOT.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if ours and not psutil.pid_exists(int((folder / OWNER).read_text())):
                shutil.rmtree(folder, ignore_errors=True)
