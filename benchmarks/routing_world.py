"""Engines in virtual time, and sessions that are played through a policy.

    World          the replicas: SimulatedEngines, the table that the router reads, deaths
    Stage          every session's turns, one after the other, through the policy of a front door

The engines, and the router under test, are the real code; only sleeping is not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from benchmarks.routing_workload import Session, Turn, Workload
from benchmarks.virtual_time import LoopClock
from serving.config.model import SimulatorConfig
from serving.protocol import Usage
from serving.simulator.engine import Job, SimulatedEngine
from serving.tables.base import Engine

MODEL = "model"
POLL_S = 1.0
"""How old the engines' reports may be when a router reads them, as with a real table."""
RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Arrival:
    """A turn on its way, as a front door sees it."""

    session: Session
    turn: Turn


class Ticket(Protocol):
    """One turn's way through a policy; a context, left when the turn has ended in any way."""

    def __enter__(self) -> Ticket: ...

    def __exit__(self, *error: object) -> None: ...

    async def place(self, without: Sequence[int]) -> int | None:
        """The number of the replica to send it to, not one of `without`; may wait."""

    def began(self) -> None:
        """The first token is there."""

    def ended(self, usage: Usage) -> None:
        """The answer is complete."""

    def failed(self, replica: int) -> None:
        """The replica that it was sent to died."""


class Policy(Protocol):
    """What decides in one front door."""

    def open(self, arrival: Arrival) -> Ticket: ...


@runtime_checkable
class Sharing(Protocol):
    """A policy whose front doors speak with each other."""

    async def start(self) -> None: ...

    def close(self) -> None:
        """It died."""


class World:
    """The replicas of one model."""

    def __init__(self, replicas: int, config: SimulatorConfig, max_running: int = 256) -> None:
        self.config = config
        self.engines = [
            SimulatedEngine(config, max_running=max_running, clock=LoopClock())
            for _ in range(replicas)
        ]
        self.alive = list(range(replicas))
        self.computed_tokens = [0] * replicas
        """By replica: prompt tokens that were not in its cache."""
        self.on: list[set[_Attempt]] = [set() for _ in range(replicas)]
        """What is under way, by replica."""
        self._table: tuple[Engine, ...] = ()
        self._asked_s = float("-inf")

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def table(self) -> tuple[Engine, ...]:
        """What the engines last said of themselves: at most a second old."""
        now = self.now()
        if now >= self._asked_s + POLL_S:
            self._asked_s = now
            self._table = tuple(
                Engine(
                    replica=f"{MODEL}-{i}",
                    model=MODEL,
                    url=f"http://replica-{i}",
                    served_name=MODEL,
                    kind="simulated",
                    load=self.engines[i].load(),
                    capacity_tokens=self.config.capacity_tokens,
                )
                for i in self.alive
            )
        return self._table

    def kill(self, replica: int) -> None:
        """The engine is gone at once, with what it held and what it was doing."""
        self.alive.remove(replica)
        for attempt in list(self.on[replica]):
            attempt.cut("replica")


Part = Literal["replica", "door"]


class _Attempt:
    """A turn under way at a replica through a front door; either may die."""

    __slots__ = ("_by", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._by: Part | None = None

    def cut(self, by: Part) -> None:
        """`by` died."""
        if self._by is None and self._task is not None:
            self._by = by
            self._task.cancel()

    def was_cut(self, by: Part) -> bool:
        """Whether a CancelledError is this death's; if so it has been dealt with."""
        if self._by != by or self._task is None:
            return False
        self._task.uncancel()
        self._by = None
        return True


@dataclass(slots=True)
class _Course:
    """A turn from its arrival to its end, by whatever front doors and replicas."""

    arrival: Arrival
    arrived_s: float
    begun: bool = False


class Door:
    """A front door: a policy with a memory of its own."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.open = True
        self.under_way: set[_Attempt] = set()

    def kill(self) -> None:
        self.open = False
        if isinstance(self.policy, Sharing):
            self.policy.close()
        for attempt in list(self.under_way):
            attempt.cut("door")


@dataclass(slots=True)
class Outcome:
    """What came of all turns."""

    hit_tokens: int = 0
    ttfts_s: list[float] = field(default_factory=list)
    session_s: list[float] = field(default_factory=list)
    makespan_s: float = 0.0
    moves: int = 0
    stays: int = 0
    computed_tokens: list[int] = field(default_factory=list)
    turns_at: list[int] = field(default_factory=list)
    """Answers by replica."""
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a workload is played."""

    live: int = 0
    """Sessions at a time; the next begins when one ends. 0: they come at their own times."""
    spread_s: float = 1.0
    """Between the first sessions' arrivals."""
    lose_replica: bool = False
    """The last replica dies when half of the turns have ended."""
    lose_door: bool = False
    """... the last front door."""
    seed: int = 1


class Stage:
    """One workload, played once."""

    def __init__(
        self, workload: Workload, world: World, doors: Sequence[Policy], plan: Plan
    ) -> None:
        self.workload = workload
        self.world = world
        self.doors = [Door(policy) for policy in doors]
        self.plan = plan
        self.outcome = Outcome(turns_at=[0] * len(world.engines))
        self._random = random.Random(plan.seed)
        self._half = workload.turns // 2
        self._ended = 0

    async def play(self) -> Outcome:
        """All sessions to their ends."""
        waiting = iter(self.workload.sessions)
        for door in self.doors:
            if isinstance(door.policy, Sharing):
                await door.policy.start()
        async with asyncio.TaskGroup() as group:
            if not self.plan.live:
                for session in waiting:
                    group.create_task(self._visit(session))
            else:
                for i in range(self.plan.live):
                    group.create_task(self._one_after_another(waiting, i * self.plan.spread_s))
        self.outcome.computed_tokens = self.world.computed_tokens
        self.outcome.makespan_s = self.world.now()
        return self.outcome

    async def _visit(self, session: Session) -> None:
        await asyncio.sleep(session.start_s)
        await self._session(session)

    async def _one_after_another(self, waiting: Iterator[Session], delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        for session in waiting:
            await self._session(session)

    async def _session(self, session: Session) -> None:
        started_s = self.world.now()
        last: int | None = None
        for turn in session.turns:
            if turn.think_s:
                await asyncio.sleep(turn.think_s)
            replica = await self._turn(Arrival(session, turn))
            if last is not None:
                self.outcome.moves += replica != last
                self.outcome.stays += replica == last
            last = replica
            self.outcome.turns_at[replica] += 1
        self.outcome.session_s.append(self.world.now() - started_s)

    async def _turn(self, arrival: Arrival) -> int:
        """The replica that answered."""
        course = _Course(arrival, self.world.now())
        while True:
            door = self._random.choice([d for d in self.doors if d.open])
            replica = await self._through(door, course)
            if replica is not None:
                self._ended += 1
                if self._ended == self._half:
                    self._lose()
                return replica
            self.outcome.retries += 1
            await asyncio.sleep(RETRY_S)  # the client comes again, through another door

    def _lose(self) -> None:
        if self.plan.lose_replica:
            self.world.kill(self.world.alive[-1])
        if self.plan.lose_door:
            self.doors[-1].kill()

    async def _through(self, door: Door, course: _Course) -> int | None:
        """None when the front door died under it."""
        attempt = _Attempt()
        door.under_way.add(attempt)
        tried: list[int] = []
        try:
            with door.policy.open(course.arrival) as ticket:
                while (replica := await ticket.place(tried)) is not None:
                    if await self._at(replica, attempt, ticket, course):
                        return replica
                    ticket.failed(replica)
                    tried.append(replica)
                    self.outcome.retries += 1
                raise RuntimeError("no replica is left to try")
        except asyncio.CancelledError:
            if not attempt.was_cut("door"):
                raise
            return None
        finally:
            door.under_way.discard(attempt)

    async def _at(self, replica: int, attempt: _Attempt, ticket: Ticket, course: _Course) -> bool:
        """False when the replica is dead, or dies under it."""
        world, turn, outcome = self.world, course.arrival.turn, self.outcome
        if replica not in world.alive:
            return False
        job = Job(turn.blocks, turn.prompt_tokens, turn.output_tokens)
        world.on[replica].add(attempt)
        try:
            async with world.engines[replica].run(job) as running:
                ticket.began()
                if not course.begun:  # once: what is continued elsewhere was not waited for
                    course.begun = True
                    outcome.ttfts_s.append(world.now() - course.arrived_s)
                    outcome.hit_tokens += running.cached_tokens
                world.computed_tokens[replica] += turn.prompt_tokens - running.cached_tokens
                await running.decode(turn.output_tokens)
            ticket.ended(Usage(turn.prompt_tokens, running.cached_tokens, turn.output_tokens))
        except asyncio.CancelledError:
            if not attempt.was_cut("replica"):
                raise
            return False
        finally:
            world.on[replica].discard(attempt)
        return True
