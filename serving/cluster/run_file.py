"""The run file: where the local Ray cluster is, for whoever needs to find it.

`cluster.json` in the stack's run folder, written whole by one rename when Ray is up, removed when
it ends in good order. The token beside it (mode 0600) is what Ray's own calls authenticate with;
it is ours, so that nothing is written to the user's home folder. Here is also the environment that
every process near Ray needs, since Ray reads most of it when it is imported.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving import whole_file

NAME = "cluster.json"
EVENTS = "events.jsonl"
"""Progress, one line of JSON each; see `serving.cluster`."""
TOKEN = "ray-token"  # noqa: S105 a file's name
PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class RunFile:
    """A running local cluster."""

    address: str
    """The GCS, host:port: what `ray.init(address=...)` takes."""
    token_path: str
    temp_dir: str
    pid: int
    """The process of `serving.cluster`."""


def read_run_file(run_dir: Path) -> RunFile | None:
    """The running cluster's particulars; None while there is none."""
    try:
        return msgspec.json.decode((run_dir / NAME).read_bytes(), type=RunFile)
    except (OSError, msgspec.DecodeError):
        return None


def write_run_file(run_dir: Path, run: RunFile) -> None:
    """Atomic: a reader sees all of it or nothing."""
    run_dir.mkdir(parents=True, exist_ok=True)
    whole_file.write(run_dir / NAME, msgspec.json.encode(run))


def make_token(run_dir: Path) -> Path:
    """A fresh secret for this run, readable by its owner only."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / TOKEN
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def child_env(token_path: str | Path) -> dict[str, str]:
    """Our environment, plus what a process needs to speak to this cluster."""
    return {**os.environ, **import_env(), **ray_env(token_path)}


def import_env() -> dict[str, str]:
    """What lets a Python process import our packages from a checkout that is not installed."""
    if "site-packages" in PACKAGES.parts:
        return {}
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(p for p in (str(PACKAGES), *before) if p))}


def ray_env(token_path: str | Path) -> dict[str, str]:
    """What Ray is told before it is imported; its child processes inherit it."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # The one switch that keeps every gRPC server on 127.0.0.1. Its name says where Ray needed
        # it first; without it, `_node_ip_address="127.0.0.1"` is replaced by the outer address,
        # and the servers listen on all of them.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # No metrics agent work and no idle workers: our actors are few, and engines need the cores.
        "RAY_enable_metrics_collection": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        # A replica that is killed while it starts must not be the last: by default three are.
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1000000",
        # How fresh the figures are that `serving.cluster.autoscale` decides by (default: 10 s).
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        # How long replicas, and so engines, outlive the head (default: 60 s): longer than the
        # supervisor lets the stack go on without it, and than its drain.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        # Ray's own logs are bounded: twice this for each of its processes.
        "RAY_ROTATION_MAX_BYTES": str(8 * 2**20),
        "RAY_ROTATION_BACKUP_COUNT": "1",
    }
