"""Front doors in a cluster: a Ray Serve deployment that owns one front-door process on each node.

    node of the group `front`:   raylet ── FrontReplica ── guardian ── orchestrator.front (uvicorn)
                                                                          └─ feed ─▶ Ray's head

Ray places one on each node that has the resource `front`, and starts it again when it has died.
No request comes through Serve: clients speak to the process itself, and a Kubernetes Service, or
any balancer, selects the nodes. The feed of a front door is a Ray driver and needs a Ray node
beside it; this way there always is one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.supervisor import POLL_S, get_json
from serving.cluster.replica import keep_to_loopback
from serving.cluster.run_file import import_env
from serving.config.stack import StackConfig
from serving.config.stack_file import load
from serving.engines import guardian
from serving.engines.process import meaningful
from serving.errors import ConfigError, WarmloopError
from serving.tables.ray_table import ADDRESS_VARIABLE, FRONT_VARIABLE

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "front"
RESOURCE = "front"
START_S = 60.0
UNRESPONSIVE_S = 60.0
"""A front door that is silent for so long is replaced."""
SPARE_S = 5.0
"""Beyond the front door's own drain, until Serve kills what is left."""
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 what may stand in front.host


class FrontReplica:
    """One front door, from launch to drained end. Serve awaits `__init__`."""

    async def __init__(self, config_path: str, log_dir: str) -> None:  # type: ignore[misc]
        import ray

        keep_to_loopback()
        stack = load(Path(config_path))
        self._log = Path(log_dir) / "front.log"
        self._health_url = health_url(stack)
        env = {
            **os.environ,
            **import_env(),
            ADDRESS_VARIABLE: ray.get_runtime_context().gcs_address,
            FRONT_VARIABLE: reached_at(ray.util.get_node_ip_address(), stack),
        }
        # The environment of a Ray worker; the feed below is a driver, with a job of its own.
        env.pop("RAY_JOB_ID", None)
        self._tree = guardian.spawn(
            [sys.executable, "-m", "orchestrator.front", "--config", config_path],
            env,
            self._log,
            grace_s=stack.front.drain_s + 2,
        )
        self._heard_s = time.monotonic()
        try:
            while not await self._answers():
                if time.monotonic() - self._heard_s > START_S:
                    raise WarmloopError(f"the front door did not answer for {START_S:.0f} s")
                await asyncio.sleep(POLL_S)
        except BaseException:
            await asyncio.to_thread(self._tree.close)
            raise

    async def check_health(self) -> None:
        """Serve asks each second; what this raises three times running gets us replaced."""
        await self._answers()
        silent_s = time.monotonic() - self._heard_s
        if silent_s > UNRESPONSIVE_S:
            raise WarmloopError(f"the front door has not answered for {silent_s:.0f} s")

    async def __del__(self) -> None:
        """Serve's graceful end: the front door finishes what runs, for `front.drain_s`."""
        await asyncio.to_thread(self._tree.close)

    async def _answers(self) -> bool:
        """True when it answers now; raises WarmloopError, with its last words, once it ended."""
        if (status := self._tree.poll()) is not None:
            try:
                lines = self._log.read_text(errors="replace").splitlines()
            except OSError:
                lines = []
            words = "; ".join(meaningful(lines)[-3:])
            raise WarmloopError(f"the front door ended with status {status}: {words}")
        if await asyncio.to_thread(get_json, self._health_url) is None:
            return False
        self._heard_s = time.monotonic()
        return True


def health_url(stack: StackConfig) -> str:
    """Where the front door of this node says how it is; raises ConfigError for `port: 0`."""
    if stack.front.port == 0:
        raise ConfigError("front.port: 0 cannot be found by others; in a cluster, name a port")
    host = WILDCARDS.get(stack.front.host, stack.front.host)
    return f"http://{host}:{stack.front.port}/health"


def reached_at(node: str, stack: StackConfig) -> str:
    """The URL by which other front doors reach the one on this node; empty: they cannot."""
    if stack.front.host not in WILDCARDS and stack.front.host != node:
        return ""
    host = f"[{node}]" if ":" in node else node
    return f"http://{host}:{stack.front.port}"


def deployment(stack: StackConfig, config_path: Path, count: int) -> Application:
    """The Serve application of `count` front doors, each on a node of its own."""
    from ray import serve

    health_url(stack)
    made = serve.deployment(
        FrontReplica,
        name=NAME,
        num_replicas=count,
        max_replicas_per_node=1,  # they would want the same port
        ray_actor_options={"num_cpus": 0, "resources": {RESOURCE: 0.001}},
        health_check_period_s=1,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=stack.front.drain_s + SPARE_S,
        max_constructor_retry_count=3,
    )
    log_dir = os.environ.get("WARMLOOP_LOGS") or stack.folder / "logs"
    application: Application = made.bind(str(config_path), str(log_dir))
    return application


def build_app(args: dict[str, str]) -> Application:
    """For Serve's own configuration files: `import_path: orchestrator.front_group:build_app`.

    `args` are `config` (the stack file on every node of the group) and `replicas` (default 1).
    """
    path = Path(args["config"])
    return deployment(load(path), path, int(args.get("replicas", "1")))
