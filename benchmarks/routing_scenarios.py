"""What is played: scenarios, and one run of one policy in one of them.

The engine is a dense 30B on one H100, or an 8B that shares its GPU: 10,000 tokens a second of
prefill, one prompt at a time, and 60 a second of decode for each sequence. A context of 150,000
tokens; pauses of a minute at most. With the recorded coding agents this lies near the figures
that Warmloop set out to beat (300k tokens a replica, 48 sessions: sticky finds .77 of the oracle's
tokens, mean TTFT 5.4 s, makespan 8,842 s).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from benchmarks import routing_policies as policies
from benchmarks.routing_ours import Bodies, Ours
from benchmarks.routing_synthetic import one_long_head, synthetic
from benchmarks.routing_workload import (
    Workload,
    agent_sessions,
    is_open,
    open_requests,
    oracle_tokens,
)
from benchmarks.routing_world import Outcome, Plan, Policy, Stage, World
from benchmarks.virtual_time import in_virtual_time
from router.peers.memory import Room
from serving.config.model import SimulatorConfig

PREFILL_TOKENS_PER_S = 10_000.0
DECODE_TOKENS_PER_S = 60.0
CONTEXT_TOKENS = 150_000
MOST_THINK_S = 60.0
QUICK_S = 300.0
PEER_LATENCY_S = 0.002
"""Of a message between front doors."""

Load = Literal["agents", "open", "chats"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One sweep's world and what comes to it."""

    name: str
    says: str
    load: Load = "agents"
    sessions: int = 48
    capacity_tokens: int = 1_000_000
    replicas: int = 8
    orders: int = 1
    doors: int = 1
    lose_replica: bool = False
    lose_door: bool = False

    def title(self) -> str:
        """What is played, in words."""
        many = f"{self.sessions} {self.load}, " if self.sessions else ""
        size = f"{self.replicas} replicas of {self.capacity_tokens // 1000:,}k tokens"
        return f"{self.says} ({many}{size})"


FITS = Scenario("fits", "KV fits", orders=2)
SCENARIOS = (
    FITS,
    Scenario("tight-48", "KV is scarce", capacity_tokens=300_000, orders=5),
    Scenario("tight-128", "KV is scarce", sessions=128, capacity_tokens=600_000, orders=5),
    replace(FITS, name="doors-4", says="four front doors", doors=4),
    replace(FITS, name="door-lost", says="one of four dies half-way", doors=4, lose_door=True),
    replace(FITS, name="replica-lost", says="a replica dies half-way", lose_replica=True),
    Scenario("shared-head", "one system prompt of 8 KB, no ids", "chats", sessions=256, replicas=4),
    Scenario(
        # What fits into a GPU alone keeps .27 of an ideal .37, whoever routes: Mooncake pools
        # host memory.
        "open",
        "requests by their timestamps, no ids",
        "open",
        sessions=0,
        capacity_tokens=3_000_000,
    ),
)


def quick(scenario: Scenario) -> Scenario:
    """The same question, asked of fewer sessions and replicas."""
    if scenario.load == "agents":
        return replace(
            scenario, sessions=scenario.sessions // 4, replicas=2, orders=min(2, scenario.orders)
        )
    return replace(scenario, sessions=scenario.sessions // 4)


Maker = Callable[[World, Bodies, Room], Policy]
POLICIES: dict[str, Maker] = {
    "round-robin": lambda world, *_: policies.RoundRobin(world),
    "least-loaded": lambda world, *_: policies.LeastLoaded(world),
    "consistent-hash": lambda world, *_: policies.ConsistentHash(world),
    "sticky": lambda world, *_: policies.Sticky(world),
    "cache-aware-tree": lambda world, *_: policies.CacheAwareTree(world),
    "kv-cost": lambda world, *_: policies.KvCost(world),
    "ours": lambda world, bodies, room: Ours(world, bodies, room, ids=True),
    "ours-no-ids": lambda world, bodies, room: Ours(world, bodies, room, ids=False),
}
OURS = ("ours", "ours-no-ids")


@dataclass(frozen=True, slots=True)
class Run:
    """One policy, one scenario, one order of the sessions. Small, since it crosses processes."""

    scenario: Scenario
    policy: str
    order: int
    traces: tuple[Path, ...] = ()
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave; `prompt_tokens` and `oracle_tokens` are the workload's."""

    run: Run
    outcome: Outcome
    prompt_tokens: int
    oracle_tokens: int
    turns: int


def play(run: Run) -> Result:
    """One run, in virtual time."""
    scenario = run.scenario
    workload = _workload(run)
    config = SimulatorConfig(
        prefill_tokens_per_s=PREFILL_TOKENS_PER_S,
        decode_tokens_per_s=DECODE_TOKENS_PER_S,
        capacity_tokens=scenario.capacity_tokens,
        block_tokens=workload.block_tokens,
    )
    world = World(scenario.replicas, config)
    bodies = Bodies(workload.block_tokens)
    room = Room(PEER_LATENCY_S)
    doors = [POLICIES[run.policy](world, bodies, room) for _ in range(scenario.doors)]
    plan = Plan(
        live=0 if scenario.load == "open" else scenario.sessions,
        lose_replica=scenario.lose_replica,
        lose_door=scenario.lose_door,
        seed=run.order,
    )
    outcome = in_virtual_time(Stage(workload, world, doors, plan).play())
    return Result(
        run,
        outcome,
        sum(t.prompt_tokens for s in workload.sessions for t in s.turns),
        oracle_tokens(workload.sessions, workload.block_tokens),
        workload.turns,
    )


def open_trace(traces: tuple[Path, ...]) -> Path | None:
    """The one without sessions, for the open loop."""
    return next((path for path in traces if is_open(path)), None)


def _workload(run: Run) -> Workload:
    """The sessions of this run, in its order."""
    scenario = run.scenario
    if scenario.load == "open":
        path = open_trace(run.traces)
        assert path is not None, "the open loop needs a trace with timestamps"
        return open_requests(path, seconds=QUICK_S if run.quick else float("inf"))
    if scenario.load == "chats":
        return one_long_head(scenario.sessions, seed=run.order)
    path = next((path for path in run.traces if not is_open(path)), None)
    if path is None:
        return synthetic(scenario.sessions, seed=run.order, turns_scale=0.5 if run.quick else 1.0)
    recorded = _recorded(path)
    sessions = list(recorded.sessions)
    random.Random(run.order).shuffle(sessions)
    return replace(recorded, sessions=tuple(sessions[: scenario.sessions]))


@lru_cache(maxsize=2)
def _recorded(path: Path) -> Workload:
    return agent_sessions(path, context_tokens=CONTEXT_TOKENS, most_think_s=MOST_THINK_S)
