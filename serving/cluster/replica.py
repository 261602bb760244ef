"""The Ray Serve deployment that owns one engine at a time: one deployment a model, Ray places it.

    starting ──▶ ready ──▶ draining ──▶ gone     Serve scales down, redeploys or shuts down
       ▲ │         │ it ended, or it is hung
       │ ▼         ▼
     (pause) ◀── dead, with its last words       a new engine in the same replica, with a new name

A replica outlives its engines: Serve would start a dead one again at once and for ever, and give up
for good on one that fails three times before its first success. Ours comes back with growing pauses
(`serving.cluster.crash_loop`), and says in the directory why and when. Only a replica whose own
process ends is Serve's to replace.

Each state is told to the directory at once, and again each second with the engine's load
(`serving.cluster.entry`). No request comes through Serve: clients of an engine speak HTTP to its
url. So Serve's own drain has nothing to wait for; ours (`serving.cluster.drain`) asks the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from serving.cluster import autoscale, directory, drain, engine_logs, gpu_turn
from serving.cluster.crash_loop import CrashLoop
from serving.cluster.entry import RENEW_S, Entry
from serving.cluster.front_queues import Queue
from serving.cluster.stall import Pulse
from serving.config.model import ModelConfig
from serving.config.stack_file import load
from serving.engines import adapter_for, kv_endpoints
from serving.engines.base import EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess
from serving.errors import ConfigError, EngineError, WarmloopError
from serving.models.adapter_store import STORE, configured
from serving.models.model_cards import adapters_in, cards
from serving.tables.base import Engine, EngineState

if TYPE_CHECKING:
    from ray.serve import Application

LOAD_S = 5.0
TURN_S = 0.5
KILL_GRACE_S = 15.0
GROUP_SHARE = 0.001
"""What a replica takes of its node group's resource: it is a mark, and must not run out."""
NO_LIMIT = 1_000_000
"""Of replicas that Serve starts in vain: it must never give up. See also `run_file.ray_env`."""

_log = logging.getLogger(__name__)


class EngineReplica:
    """One engine after another. Serve awaits `__init__`, which returns when the first is ready."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        model: str,
        config: ModelConfig,
        log_dir: str,
        round_: int = 0,
        room: int | None = None,
    ) -> None:
        keep_to_loopback()
        self._model = model
        self._config = config
        self._log_dir = Path(log_dir)
        self._round = round_
        self._crashes = CrashLoop()
        self._adapter = adapter_for(config.engine)
        self._http = aiohttp.ClientSession()
        self._entry = Entry(lambda: self._engine, directory.connect)
        self._queue = Queue()
        """What waits for our model in the front doors."""
        self._probe: asyncio.Task[None] | None = None
        self._buried = ""
        self._begin("starting")
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = {asyncio.create_task(self._entry.keep())}
        if config.autoscale is not None:
            self._tasks.add(asyncio.create_task(self._read_queue()))
        try:
            if room is not None:
                await self._wait_for_room(room)
            await self._bring_up()
        except BaseException:
            await self._end()
            await self._entry.leave(self._engine.replica)
            raise
        self._keeper = asyncio.create_task(self._keep_up())
        self._tasks.add(self._keeper)

    def _begin(self, reason: str) -> None:
        """A new engine, with a name of its own: whatever is known of the last one is not its."""
        self._process = EngineProcess(self._adapter, self._http)
        self._engine = Engine(
            replica=f"{self._model}-{secrets.token_hex(4)}",
            model=self._model,
            url="",
            served_name=self._model,
            kind=self._config.engine,
            state="starting",
            context_tokens=self._config.context_tokens,
            reason=reason,
            restarts=self._crashes.restarts,
            round=self._round,
        )

    async def _bring_up(self) -> None:
        """Start engines until one is ready."""
        while True:
            try:
                await self._start()
                return
            except Exception as error:
                reason = str(error) if isinstance(error, WarmloopError) else repr(error)
                await self._pause(reason, lived_s=0)

    async def _start(self) -> None:
        weights = Path()
        if self._config.sources:
            from serving.models import weights as store

            weights = await asyncio.to_thread(
                store.fetch, self._engine.model, self._config, python=self._config.python
            )
        if self._config.engine != "simulated":
            # It leads to our packages; an engine has its own Python, and must not see them first.
            os.environ.pop("PYTHONPATH", None)
        # Before the launch: a bad adapter costs a sentence, not the start of an engine.
        kept = self._log_dir.parent / STORE / "configured"
        known = weights if self._config.sources else None
        adapters = await asyncio.to_thread(configured, self._config, known, kept)
        host = _node_host()
        kv = kv_endpoints.on(host) if self._config.publishes_kv else None
        spec = EngineSpec(self._engine.model, self._config, weights, free_port(host), host, kv)
        async with gpu_turn.starting(self._config):
            engine_logs.prune(self._log_dir, self._model, self._config.logs)
            self._process.start(spec, engine_logs.path(self._log_dir, self._engine.replica))
            await self._process.wait_ready(self._config.ready_timeout_s)
        url, kv = self._process.spec.url, self._process.spec.kv
        await self._load_adapters(url, adapters)
        facts = await self._adapter.facts(self._http, url)
        self._engine = replace(
            self._engine,
            url=url,
            capacity_tokens=facts.capacity_tokens,
            context_tokens=facts.context_tokens or self._config.context_tokens,
            adapters=tuple(adapters),
            kv_events=kv.events if kv else "",
            kv_replay=kv.replay if kv else "",
        )
        await self._tell("ready")
        self._ready_s = time.monotonic()
        self._pulse = Pulse(self._ready_s, self._ready_s)

    async def _keep_up(self) -> None:
        """For ever: when the engine has died or hangs, another one takes its place."""
        while True:
            reason = await self._watch()
            await self._pause(reason, time.monotonic() - self._ready_s)
            await self._bring_up()

    async def _pause(self, reason: str, lived_s: float) -> None:
        """Say why the engine is dead, end what is left of it, and wait before the next one."""
        knobs = self._config.restart
        self._crashes = self._crashes.died(lived_s, knobs)
        pause_s = self._crashes.pause_s(knobs, random.random())
        self._engine = replace(self._engine, retry_at=time.time() + pause_s)
        await self._tell("dead", reason)
        await asyncio.gather(self._process.stop(0), asyncio.sleep(pause_s))
        # Its entry stays, so that its last words can be read until the model runs again.
        self._engine = replace(self._engine, retry_at=0.0)
        await self._tell("dead", reason, directory.FAILURE_LEASE_S)
        before, self._buried = self._buried, self._engine.replica
        if before:
            await self._entry.leave(before)
        count = self._crashes.failures
        again = "again" if count == 1 else f"again, after {count} failures in a row"
        self._begin(f"starting {again}; the last: {reason.splitlines()[0]}")
        await self._tell("starting", self._engine.reason)

    async def _wait_for_room(self, room: int) -> None:
        """A rolling restart: start no engine while more than `room` others of the model serve."""
        while True:
            known = await self._entry.engines()
            if known is not None:
                others = [
                    e for e in known if e.model == self._model and e.state in ("ready", "draining")
                ]
                if len(others) <= room:
                    break
                leaving = [e.replica for e in others if e.state == "draining"]
                reason = f"waiting for {', '.join(leaving) or 'an older engine'} to end"
                if reason != self._engine.reason:
                    await self._tell("starting", reason)
            await asyncio.sleep(TURN_S)
        await self._tell("starting", "starting")

    async def _load_adapters(self, url: str, adapters: Mapping[str, Path]) -> None:
        """The configured ones; raises EngineError with the field and the engine's reason."""
        for name, folder in adapters.items():
            try:
                async with asyncio.timeout(self._config.lora.load_timeout_s):
                    await self._adapter.load_adapter(self._http, url, name, folder)
            except (EngineError, aiohttp.ClientError, TimeoutError) as error:
                said = str(error) or type(error).__name__
                raise EngineError(f"adapters.{name}: {said}") from None

    async def check_health(self) -> None:
        """Serve asks each second; what this raises three times running gets us replaced."""
        if self._keeper is not None and self._keeper.done() and not self._keeper.cancelled():
            raise RuntimeError(f"nobody watches the engine any more: {self._keeper.exception()!r}")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serving.cluster.autoscale` decides by; Serve carries it to its controller."""
        return autoscale.stats(self._engine, self._queue)

    async def __del__(self) -> None:
        """Serve's graceful end: out of the table, wait for what runs, end the engine."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._engine.state == "ready":
            await self._tell("draining", "finishing its turns")
            if not await drain.until_quiet(self, self._config.drain_s):
                _log.warning("%s: turns were cut at the end of its drain", self._engine.replica)
        await self._end()
        await self._entry.leave(self._engine.replica)

    async def busy(self) -> bool:
        """Does the engine run or queue anything?"""
        return await self._process.busy()

    async def heard(self) -> bool:
        """Does every front door know that we drain?"""
        return await self._entry.heard()

    async def left_s(self) -> float:
        """What the end of the whole cluster leaves for our drain."""
        return await self._entry.left_s()

    async def _end(self) -> None:
        if self._probe is not None:
            self._tasks.add(self._probe)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._process.stop(0)
        await self._http.close()

    async def _watch(self) -> str:
        """Read the engine's load each second; return when it must be replaced, with the reason."""
        patience_s = self._config.patience_s
        while True:
            await asyncio.sleep(RENEW_S)
            if not self._process.alive():
                return str(self._process.failure())
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, LookupError):
                async with asyncio.timeout(LOAD_S):
                    found = await self._adapter.load(self._http, self._engine.url)
                self._engine = replace(self._engine, load=found)
                self._pulse = self._pulse.beat(found, time.monotonic())
                await self._look_at_adapters()
            now_s = time.monotonic()
            if why := self._pulse.hung(now_s, patience_s):
                return (
                    f"the engine of {self._model} is hung: {why} (hung_after_s: {patience_s:g}; "
                    f"its log: {engine_logs.path(self._log_dir, self._engine.replica)})"
                )
            if self._pulse.doubtful(now_s, patience_s) and (
                self._probe is None or self._probe.done()
            ):
                self._probe = asyncio.create_task(self._ask_for_one_token(patience_s))

    async def _ask_for_one_token(self, timeout_s: float) -> None:
        """What it answers is of no interest: its counters move, or they do not.

        But an engine that refuses to answer such a question must not be killed for it.
        """
        body = {"model": self._engine.served_name, "prompt": "x", "max_tokens": 1}
        url = f"{self._engine.url}/v1/completions"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(timeout_s), self._http.post(url, json=body) as answer:
                await answer.read()
                if 400 <= answer.status < 500:
                    self._pulse = self._pulse.spared(time.monotonic())

    async def _look_at_adapters(self) -> None:
        """The front door loads and unloads them; the engine says which ones it has now."""
        if not self._config.takes_adapters:
            return
        found = await cards(self._http, self._engine.url)
        names = tuple(adapters_in(found, self._engine.served_name))
        if names != self._engine.adapters:
            self._engine = replace(self._engine, adapters=names)
            await self._tell(self._engine.state, self._engine.reason)

    async def _read_queue(self) -> None:
        while True:
            self._queue = await self._entry.waiting(self._model)
            await asyncio.sleep(RENEW_S)

    async def _tell(
        self, state: EngineState, reason: str = "", lease_s: float = directory.LEASE_S
    ) -> None:
        self._engine = replace(self._engine, state=state, reason=reason)
        await self._entry.tell(lease_s)


def _node_host() -> str:
    """Where the engines of this node listen: what Ray calls the node, 127.0.0.1 on one machine."""
    import ray

    host: str = ray.util.get_node_ip_address()
    return host


def keep_to_loopback() -> None:
    """Serve opens a gRPC server on all addresses in each replica; on one machine, only loopback.

    It cannot be configured, and nothing of ours uses it. It opens after this constructor.
    """
    from ray.serve._private import replica as serve_replica

    if _node_host() != "127.0.0.1":
        return
    opened = getattr(serve_replica, "add_port_to_grpc_server", None)
    if opened is not None:
        serve_replica.add_port_to_grpc_server = lambda server, address: opened(
            server, address.replace("[::]:", "127.0.0.1:")
        )


def deployment(
    model: str, config: ModelConfig, log_dir: Path, *, round_: int = 0, surge: bool = True
) -> Application:
    """The Serve application of one model: its engines, each in a replica of its own.

    `round_` counts the rolling restarts. With `surge` a replica is only stopped when its successor
    is ready; without, it is stopped first. In both cases one after another.
    """
    from ray import serve

    options: dict[str, Any] = {
        # Placement is by GPU. CPU engines ask for nothing: Ray counts cores, engines are given
        # `threads`, and the memory check of `warmloop up` is what keeps them within the machine.
        "num_cpus": 0,
        "num_gpus": config.gpus,
        # More than one GPU: all of one node, for Ray gives an actor what a single node has.
        "resources": {config.node_group: GROUP_SHARE} if config.node_group else {},
    }
    scale: dict[str, Any] = {"num_replicas": config.replicas}
    room: int | None = config.replicas - (0 if surge else 1)
    if config.autoscale is not None:
        scale = {"autoscaling_config": autoscale.serve_config(config.autoscale, config.max_running)}
        room = None
    made = serve.deployment(
        EngineReplica,
        name=model,
        **scale,
        ray_actor_options=options,
        health_check_period_s=1,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=config.drain_s + drain.HEARD_S + KILL_GRACE_S,
        max_constructor_retry_count=NO_LIMIT,
        max_surge_percent=1 if surge else 0,  # rounded up: one replica
        rolling_update_percentage=0.001,  # at least one is taken: so one at a time
    )
    application: Application = made.bind(
        model, config, str(log_dir), round_, room if round_ else None
    )
    return application


@dataclass(frozen=True)
class BuildArgs:
    """What `serve build` and `serve deploy` pass to `build_app`."""

    config: str
    model: str


def build_app(args: dict[str, str]) -> Application:
    """For Serve's own configuration files: `import_path: serving.cluster.replica:build_app`.

    `args` are `config` (the stack file on every node) and `model`.
    """
    given = BuildArgs(**args)
    stack = load(Path(given.config))
    if given.model not in stack.models or stack.models[given.model].engine == "external":
        raise ConfigError(f"{given.config}: {given.model!r} is not a model that Warmloop starts")
    log_dir = Path(os.environ.get("WARMLOOP_LOGS") or stack.folder / "logs")
    return deployment(given.model, stack.models[given.model], log_dir)
