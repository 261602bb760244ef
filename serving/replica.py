"""The Ray Serve deployment that owns one engine process: one deployment a model, Ray places it.

    starting ──▶ ready ──▶ draining ──▶ gone        Serve scales down, redeploys or shuts down
        │          └─────▶ dead                     the engine died: Serve replaces the replica
        └─────────────────▶ dead, with its last log lines; kept in the directory for minutes

Each state is told to the directory at once, and renewed each second with the engine's load. No
request comes through Serve: clients of an engine speak HTTP to its url. So Serve's own drain has
nothing to wait for; ours asks the engine how many requests still run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from serving import directory
from serving.config import ModelConfig, load
from serving.engines import adapter_for
from serving.engines.base import EngineSpec
from serving.engines.process import EngineProcess, free_port
from serving.errors import ConfigError, WarmloopError
from serving.table import Engine, EngineState

if TYPE_CHECKING:
    from ray.serve import Application

RENEW_S = 1.0
CALL_S = 2.0
LOAD_S = 5.0
UNRESPONSIVE_S = 60.0
"""An engine that is silent for so long is replaced. Long, since a busy CPU engine is slow."""
DRAIN_S = 20.0
SETTLE_S = 0.5
"""From `draining` in the directory until every front door has heard of it."""
KILL_GRACE_S = 15.0

_log = logging.getLogger(__name__)


class EngineReplica:
    """One engine, from launch to drained end. Serve awaits `__init__`, which returns when ready."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model: str, config: ModelConfig, log_dir: str, drain_s: float
    ) -> None:
        _keep_to_loopback()
        self._config = config
        self._drain_s = drain_s
        self._adapter = adapter_for(config.engine)
        self._http = aiohttp.ClientSession()
        self._process = EngineProcess(self._adapter, self._http)
        replica = f"{model}-{secrets.token_hex(4)}"
        self._log_path = Path(log_dir) / f"{replica}.log"
        self._engine = Engine(
            replica=replica,
            model=model,
            url="",
            served_name=model,
            kind=config.engine,
            state="starting",
            context_tokens=config.context_tokens,
            reason="starting",
        )
        self._heard_s = time.monotonic()
        self._directory: Any = None
        self._tasks: set[asyncio.Task[None]] = {asyncio.create_task(self._renew())}
        try:
            await self._start()
        except Exception as error:
            # Serve will only say that a constructor failed; the directory keeps why.
            reason = str(error) if isinstance(error, WarmloopError) else repr(error)
            await self._end()
            await self._tell("dead", reason, directory.FAILURE_LEASE_S)
            raise
        except BaseException:
            await self._end()
            await self._leave()
            raise

    async def _start(self) -> None:
        weights = Path()
        if self._config.sources:
            from serving import weights as store

            weights = await asyncio.to_thread(
                store.fetch, self._engine.model, self._config, python=self._config.python
            )
        if self._config.engine != "simulated":
            # It leads to our packages; an engine has its own Python, and must not see them first.
            os.environ.pop("PYTHONPATH", None)
        spec = EngineSpec(self._engine.model, self._config, weights, free_port())
        self._process.start(spec, self._log_path)
        await self._process.wait_ready(self._config.ready_timeout_s)
        url = self._process.spec.url
        facts = await self._adapter.facts(self._http, url)
        self._engine = replace(
            self._engine,
            url=url,
            capacity_tokens=facts.capacity_tokens,
            context_tokens=facts.context_tokens or self._config.context_tokens,
        )
        self._heard_s = time.monotonic()
        await self._tell("ready")
        self._tasks.add(asyncio.create_task(self._watch()))

    async def check_health(self) -> None:
        """Serve asks each second; what this raises three times running gets us replaced."""
        if self._engine.state == "dead" or not self._process.alive():
            raise RuntimeError(self._engine.reason or "the engine's process is gone")
        silent_s = time.monotonic() - self._heard_s
        if silent_s > UNRESPONSIVE_S:
            raise RuntimeError(f"the engine has not answered for {silent_s:.0f} s")

    async def __del__(self) -> None:
        """Serve's graceful end: out of the table, wait for what runs, end the engine."""
        if self._engine.state == "ready":
            await self._tell("draining", "draining")
            await asyncio.sleep(min(SETTLE_S, self._drain_s))
            await self._process.stop(self._drain_s)
        await self._end()
        if self._engine.state != "dead":  # else the reason stays until its lease is over
            await self._leave()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._process.stop(0)
        await self._http.close()

    async def _watch(self) -> None:
        """Read the engine's load each second; tell at once when it has died."""
        while True:
            await asyncio.sleep(RENEW_S)
            if not self._process.alive():
                if self._engine.state == "ready":
                    await self._tell("dead", str(self._process.failure()))
                return
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, LookupError):
                async with asyncio.timeout(LOAD_S):
                    found = await self._adapter.load(self._http, self._engine.url)
                self._engine = replace(self._engine, load=found)
                self._heard_s = time.monotonic()

    async def _renew(self) -> None:
        """Keep the lease, whatever the engine does; a directory that forgot us is told again."""
        known = False
        while True:
            with self._may_be_away():
                actor = await self._actor()
                async with asyncio.timeout(CALL_S):
                    known = known and await actor.renew.remote(
                        self._engine.replica, self._engine.load
                    )
                    if not known:
                        # As it is now: what `_tell` said meanwhile must not be taken back.
                        await actor.register.remote(self._engine)
                        known = True
            await asyncio.sleep(RENEW_S)

    async def _tell(
        self, state: EngineState, reason: str = "", lease_s: float = directory.LEASE_S
    ) -> None:
        self._engine = replace(self._engine, state=state, reason=reason)
        with self._may_be_away():
            actor = await self._actor()
            async with asyncio.timeout(CALL_S):
                await actor.register.remote(self._engine, lease_s)

    async def _leave(self) -> None:
        with self._may_be_away():
            actor = await self._actor()
            async with asyncio.timeout(CALL_S):
                await actor.leave.remote(self._engine.replica)

    @contextlib.contextmanager
    def _may_be_away(self) -> Iterator[None]:
        """The directory may restart or be slow; the next renewal makes up for what was not told."""
        import ray

        try:
            yield
        except (ray.exceptions.RayError, TimeoutError):
            self._directory = None  # look it up again; it may be another actor by then

    async def _actor(self) -> Any:
        if self._directory is None:
            self._directory = await asyncio.to_thread(directory.connect)
        return self._directory


def _keep_to_loopback() -> None:
    """Serve opens a gRPC server on all addresses in each replica; on one machine, only loopback.

    It cannot be configured, and nothing of ours uses it. It opens after this constructor.
    """
    import ray
    from ray.serve._private import replica as serve_replica

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    opened = getattr(serve_replica, "add_port_to_grpc_server", None)
    if opened is not None:
        serve_replica.add_port_to_grpc_server = lambda server, address: opened(
            server, address.replace("[::]:", "127.0.0.1:")
        )


def deployment(model: str, config: ModelConfig, log_dir: Path, drain_s: float) -> Application:
    """The Serve application of one model: `replicas` engines, each in a replica of its own."""
    from ray import serve

    options: dict[str, Any] = {
        # Placement is by GPU. CPU engines ask for nothing: Ray counts cores, engines are given
        # `threads`, and the memory check of `warmloop up` is what keeps them within the machine.
        "num_cpus": 0,
        "num_gpus": config.gpus,
    }
    made = serve.deployment(
        EngineReplica,
        name=model,
        num_replicas=config.replicas,
        ray_actor_options=options,
        health_check_period_s=1,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=drain_s + KILL_GRACE_S,
        max_constructor_retry_count=3,
    )
    application: Application = made.bind(model, config, str(log_dir), drain_s)
    return application


@dataclass(frozen=True)
class BuildArgs:
    """What `serve build` and `serve deploy` pass to `build_app`."""

    config: str
    model: str


def build_app(args: dict[str, str]) -> Application:
    """For Serve's own configuration files: `import_path: serving.replica:build_app`.

    `args` are `config` (the stack file on every node) and `model`.
    """
    given = BuildArgs(**args)
    stack = load(Path(given.config))
    if given.model not in stack.models or stack.models[given.model].engine == "external":
        raise ConfigError(f"{given.config}: {given.model!r} is not a model that Warmloop starts")
    log_dir = Path(os.environ.get("WARMLOOP_LOGS") or stack.folder / "logs")
    return deployment(given.model, stack.models[given.model], log_dir, DRAIN_S)
