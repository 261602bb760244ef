"""How many replicas? Decided by what waits and by KV use, for Ray Serve to carry out.

    front doors ── what waits there (front_queues) ──▶ replica
    replica ── record_autoscaling_stats ──▶ Serve's controller ── Policy ──▶ wanted replicas
                running, waiting, KV use                              └ after up_ or down_delay_s

Serve's own measure, requests that go through its handles, is blind here: no request does. So are
the engines' queues alone: what an engine cannot begin soon waits in the front doors. `wanted` is
pure. It asks for more when more than `target_waiting` turns or `target_wait_s` of prefill wait for
each engine, in it or in front of it (in proportion, at most twice as many at once), or when their
KV cache is nearly full; for one less only when nothing waits and what runs fits into the rest at
LOW of its capacity. Between the two it leaves things as they are, so that it does not swing. Only
engines that answer count as having a say; how long a wish must last before it is followed is
Serve's part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.cluster.front_queues import Queue
from serving.config.model import AutoscaleConfig
from serving.tables.base import Engine

LOW = 0.6
"""Share of what one replica less could carry, below which one may go."""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """One engine's load, as Serve carries it: `ready` is 1.0 or 0.0, `kv_usage` a share.

    `queued` turns, and `queued_s` of prefill, wait in front doors for the model: each of its
    replicas says the same of that, as it last heard it.
    """

    ready: float
    running: float
    waiting: float
    kv_usage: float
    queued: float = 0.0
    queued_s: float = 0.0


def stats(engine: Engine, queue: Queue) -> dict[str, float]:
    """What a replica says of itself each time that Serve asks."""
    load = engine.load
    ready = engine.state == "ready"
    return {
        "ready": float(ready),
        "running": float(load.running) * ready,
        "waiting": float(load.waiting) * ready,
        "kv_usage": load.kv_usage * ready,
        "queued": float(queue.turns) * ready,
        "queued_s": queue.prefill_s * ready,
    }


def wanted(
    loads: Sequence[ReplicaLoad], current: int, max_running: int, knobs: AutoscaleConfig
) -> int:
    """Replicas that the load asks for; `current` of them are there or on their way."""
    ready = [load for load in loads if load.ready]
    if not ready:
        return _within(current, knobs)
    waiting = sum(load.waiting for load in ready) + max(load.queued for load in ready)
    running = sum(load.running for load in ready)
    kv_usage = sum(load.kv_usage for load in ready)
    count = len(ready)
    turns_over = waiting / (knobs.target_waiting * count)
    wait_over = max(load.queued_s for load in ready) / (knobs.target_wait_s * count)
    if (over := max(turns_over, wait_over)) > 1:
        asked = math.ceil(count * min(2.0, over))
        # Those on their way will take their share; more are asked for when they are here.
        return _within(max(current, asked), knobs)
    if kv_usage > knobs.kv_high * count:
        return _within(max(current, count + 1), knobs)
    rest = current - 1
    fits = running <= LOW * max_running * rest and kv_usage <= LOW * knobs.kv_high * rest
    if waiting == 0 and count == current and fits:
        return _within(rest, knobs)
    return _within(current, knobs)


def _within(count: int, knobs: AutoscaleConfig) -> int:
    return max(knobs.min_replicas, min(knobs.max_replicas, count))


class Policy:
    """`wanted` as a Ray Serve policy: made once in Serve's controller, called in its loop."""

    def __init__(self, max_running: int, **knobs: Any) -> None:
        self._max_running = max_running
        self._knobs = AutoscaleConfig(**knobs)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        loads = latest(context.raw_metrics or {})
        current = context.target_num_replicas
        return wanted(loads, current, self._max_running, self._knobs), {}


def latest(raw: Mapping[str, Mapping[Any, Sequence[Any]]]) -> list[ReplicaLoad]:
    """The newest figures of each replica, from Serve's time series by name and replica."""

    def newest(name: str, replica: Any) -> float:
        series = raw.get(name, {}).get(replica)
        return float(series[-1].value) if series else 0.0

    return [
        ReplicaLoad(*(newest(name, replica) for name in ReplicaLoad.__slots__))
        for replica in raw.get("ready", {})
    ]


def serve_config(knobs: AutoscaleConfig, max_running: int) -> Any:
    """Serve's AutoscalingConfig for one model."""
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    return AutoscalingConfig(
        min_replicas=knobs.min_replicas,
        max_replicas=knobs.max_replicas,
        upscale_delay_s=knobs.up_delay_s,
        downscale_delay_s=knobs.down_delay_s,
        policy=AutoscalingPolicy(
            policy_function="serving.cluster.autoscale:Policy",
            policy_kwargs={"max_running": max_running, **knobs.model_dump()},
        ),
    )
