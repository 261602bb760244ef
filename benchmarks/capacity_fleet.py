"""N replicas and their agents in virtual time, before the router's real code: what it does, costs.

    endless sessions ──► so many agents at a time ──► parse, identify, Scheduler ──► SimulatedEngine
                                                      └───── metered ─────┘

When an agent's task ends the next one begins. Nothing is kept of a task that has ended, so that a
million of them pass through. Counted is what begins after the first ones have ended and before the
last has begun: the fleet is full then.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.capacity_meter import Meter, held_bytes, metered
from benchmarks.harness.stats import percentile
from benchmarks.routing_ours import Bodies, Ours
from benchmarks.routing_synthetic import Numbers
from benchmarks.routing_workload import Message, Recorder, Session, Turn
from benchmarks.routing_world import MODEL, Arrival, World
from benchmarks.virtual_time import in_virtual_time
from router.peers.memory import Room
from router.placing.claim import Claim, Placed
from router.turn import TurnRequest
from serving.config.model import SimulatorConfig
from serving.config.router import RouterConfig
from serving.protocol import CHAT, Usage, parse
from serving.simulator.engine import Job

BLOCK_TOKENS = 128
HEADS, HEAD_TOKENS = 6, 2048
_TOLD = 200
"""Tasks between two words about how far it is."""

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulation."""

    replicas: int
    agents: int
    """At a time, all replicas together."""
    tasks: int
    """That begin, one after the other."""
    kv_tokens: int
    prefill: float = 10_000.0
    decode: float = 60.0
    """Of each sequence."""
    block_tokens: int = BLOCK_TOKENS
    ttft_s: float = 2.0
    """The objective."""
    knobs: RouterConfig = RouterConfig()  # noqa: RUF009  it is frozen


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it."""

    plan: Plan
    turns: int
    seconds: float
    """Virtual ones, that were counted."""
    hit_rate: float
    ttft_s: float
    late: float
    waited: float
    """Share of turns that waited in the router."""
    busiest: float
    """Turns of the busiest replica over the mean."""
    reasons: dict[str, int]
    cpu_us: dict[str, float]
    """Of the router, a turn, by what it did."""
    place_us: dict[str, float]
    """To place a turn, by whether it stayed at `home`, was placed `anew`, or had `waited`."""
    place_p99_us: float
    known_sessions: int
    """That the router remembers at the end."""
    known_boundaries: int
    router_bytes: int

    @property
    def turns_per_s(self) -> float:
        return self.turns / self.seconds if self.seconds else math.nan

    @property
    def each_per_s(self) -> float:
        """... of one replica."""
        return self.turns_per_s / self.plan.replicas

    @property
    def turn_us(self) -> float:
        """All that the router does for a turn."""
        return sum(self.cpu_us.values())


class Unkept(Bodies):
    """Requests whose texts are made for the moment."""

    def request(self, arrival: Arrival) -> tuple[str, bytes]:
        session = arrival.session
        texts = b",".join(self.text(session.messages[i], i) for i in arrival.turn.messages)
        return CHAT, b'{"model":"%s","messages":[%s]}' % (MODEL.encode(), texts)


def small_agents(tasks: int, seed: int = 1, block_tokens: int = BLOCK_TOKENS) -> Iterator[Session]:
    """Short tasks behind a few shared heads: some 4 turns of 3,500 tokens. One at a time."""
    rng = random.Random(seed)
    numbers = Numbers(block_tokens)
    heads = [[numbers.take() for _ in range(HEAD_TOKENS // block_tokens)] for _ in range(HEADS)]
    for number in range(tasks):
        kind = rng.randrange(HEADS)
        recorder = Recorder(f"task-{number}", block_tokens)
        turn = recorder.program(Message(f"head-{kind}", HEAD_TOKENS))
        blocks, tokens = list(heads[kind]), HEAD_TOKENS
        for step in range(2 + min(8, int(rng.expovariate(0.5)))):
            tokens += round(rng.lognormvariate(math.log(800 if step == 0 else 400), 0.6))
            while (len(blocks) + 1) * block_tokens <= tokens:
                blocks.append(numbers.take())
            think_s = min(60.0, 1 + rng.lognormvariate(math.log(4), 1)) if step else 0.0
            turn(think_s, tokens, 20 + round(rng.expovariate(1 / 100)), tuple(blocks))
        yield recorder.session()


@dataclass(frozen=True, slots=True)
class _Placing:
    placed: Placed
    cpu_s: float


@dataclass(slots=True)
class _Tally:
    turns: int = 0
    waited: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    ttfts_s: list[float] = field(default_factory=list)
    at: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    place_s: dict[str, list[float]] = field(default_factory=dict)


class Fleet:
    """One simulation under way."""

    def __init__(self, plan: Plan, sessions: Iterator[Session], meter: Meter, told: Told) -> None:
        config = SimulatorConfig(
            prefill_tokens_per_s=plan.prefill,
            decode_tokens_per_s=plan.decode,
            capacity_tokens=plan.kv_tokens,
            block_tokens=plan.block_tokens,
        )
        self.plan = plan
        self.world = World(plan.replicas, config)
        self._bodies = Unkept(plan.block_tokens)
        self._door = Ours(self.world, self._bodies, Room(), ids=True, knobs=plan.knobs)
        self.scheduler = self._door.scheduler
        self.meter = meter
        self.tally = _Tally()
        self.counted_s = 0.0
        self._sessions = sessions
        self._told = told
        self._begun = 0
        self._ended = 0

    async def play(self) -> None:
        """All tasks to their ends."""
        self.meter.counted = False
        rng = random.Random(1)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.plan.agents, self.plan.tasks)):
                group.create_task(self._agent(rng.uniform(0.0, 10.0)))

    async def _agent(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        for session in self._sessions:
            self._begun += 1
            if self._begun == self.plan.tasks:
                self._counts(False)
            for turn in session.turns:
                if turn.think_s:
                    await asyncio.sleep(turn.think_s)
                await self._turn(Arrival(session, turn))
            self._ended += 1
            if self._ended == min(self.plan.agents, self.plan.tasks // 4):
                self._counts(True)
            if self._ended % _TOLD == 0:
                self._told(self._ended)

    def _counts(self, whether: bool) -> None:
        if whether != self.meter.counted and (whether is False or self._begun < self.plan.tasks):
            self.meter.counted = whether
            self.counted_s += -self.world.now() if whether else self.world.now()

    async def _turn(self, arrival: Arrival) -> None:
        turn, meter, scheduler = arrival.turn, self.meter, self.scheduler
        path, body = self._bodies.request(arrival)
        arrived_s, counted = self.world.now(), meter.counted
        with meter("identify"):
            asked = TurnRequest(path, body, "bench", {"x-session-id": arrival.session.key})
            identity = scheduler.sessions.identify(asked, parse(path, body))
            slot = scheduler.enter(Claim(MODEL, identity.on(MODEL), len(body)))
        try:
            placed, place_s = await meter.through("place", slot.place())
            assert placed is not None
            number = self._door.number(placed.engine.replica)
            job = Job(turn.blocks, turn.prompt_tokens, turn.output_tokens)
            async with self.world.engines[number].run(job) as running:
                with meter("books"):
                    slot.began()
                cached = running.cached_tokens
                ttft_s = self.world.now() - arrived_s
                await running.decode(turn.output_tokens)
            with meter("books"):
                slot.ended(Usage(turn.prompt_tokens, cached, turn.output_tokens))
        finally:
            with meter("books"):
                slot.__exit__(None, None, None)
        if counted:
            self._count(turn, number, _Placing(placed, place_s), cached, ttft_s)

    def _count(
        self, turn: Turn, number: int, placing: _Placing, cached: int, ttft_s: float
    ) -> None:
        tally, placed = self.tally, placing.placed
        tally.turns += 1
        tally.hit_tokens += cached
        tally.prompt_tokens += turn.prompt_tokens
        tally.ttfts_s.append(ttft_s)
        tally.at[number] += 1
        tally.reasons[placed.reason] += 1
        waited = placed.waited_s > 0
        tally.waited += waited
        kind = "waited" if waited else "home" if placed.reason == "home" else "anew"
        tally.place_s.setdefault(kind, []).append(placing.cpu_s)


def play(plan: Plan, sessions: Iterator[Session], told: Told = lambda _: None) -> Played:
    """One simulation, from beginning to end."""
    meter = Meter()
    fleet = Fleet(plan, sessions, meter, told)
    in_virtual_time(fleet.play(), metered(meter))
    told(plan.tasks)
    tally, scheduler = fleet.tally, fleet.scheduler
    if not tally.turns:
        raise ValueError(f"{plan.tasks} tasks are too few for {plan.agents} agents: none counted")
    places = [s for each in tally.place_s.values() for s in each]
    return Played(
        plan,
        tally.turns,
        fleet.counted_s,
        tally.hit_tokens / tally.prompt_tokens,
        statistics.fmean(tally.ttfts_s),
        sum(s > plan.ttft_s for s in tally.ttfts_s) / tally.turns,
        tally.waited / tally.turns,
        max(tally.at.values()) / (tally.turns / plan.replicas),
        dict(tally.reasons),
        {name: 1e6 * seconds / tally.turns for name, seconds in meter.seconds.items()},
        {name: 1e6 * statistics.fmean(each) for name, each in tally.place_s.items()},
        1e6 * percentile(places, 0.99),
        len(scheduler.programs),
        len(scheduler.warmth),
        held_bytes((scheduler.sessions, scheduler.programs, scheduler.warmth, scheduler.rates)),
    )
