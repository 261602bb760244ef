"""The five ways without engines: recorded or made-up tasks through the real AutoTurns.

Who gets a turn, what is held back, asked again and learnt is the router's own code, request for
request (`tiers_sessions.Pretended`). Engines are pretended: they hold what they have seen, in whole
blocks, and the head that an agent's tasks share; an answer is right, and a small one unsure, by
chance, the same chance in every way. So quality here shows that the policy keeps its floor; how
good models are, only engines can say.

The policy learns from tasks of their own first; those are not counted.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from benchmarks.cost_ledger import WAYS, Step, Way
from benchmarks.cost_prices import PriceList, Speed
from benchmarks.cost_workload import Task, compressed
from benchmarks.tiers_sessions import AGENTS, TOOLS, Agent, Pretended
from router.dispatch import Router
from router.logs import TurnRecord
from router.tiers.auto import AutoTurns
from router.turn import Dispatched, TurnRequest
from serving.config.router import TiersConfig
from serving.config.stack import StackConfig
from serving.protocol import CHAT
from serving.tables.base import Tier

BLOCK = 32
"""Tokens that an engine caches together."""
ADAPTER_ERRORS = (1 - 0.736) / (1 - 0.477)
"""Share of the small model's mistakes that an adapter leaves, as it was measured of smollm2-tools
(examples/adapters): 73.6 % of 220 held-out tool decisions right, its base 47.7 %."""


@dataclass(frozen=True)
class Play:
    """What is the same in all ways."""

    tasks: Sequence[Task]
    lessons: Sequence[Task]
    """From which the policy learns before."""
    head: int
    """Tokens that all tasks of an agent begin with; 0 where they have nothing in common."""
    limit: int
    """Of a tool's result, when it is cut."""
    speed: Mapping[Tier, Speed]
    seed: int = 5


def five_ways(play: Play, prices: PriceList) -> tuple[Way, ...]:
    """Under the prices of one list, which the policy goes by."""
    cut = replace(
        play,
        tasks=[compressed(task, play.limit, play.seed) for task in play.tasks],
        lessons=[compressed(task, play.limit, play.seed) for task in play.lessons],
    )
    tuned = [with_adapter(agent) for agent in AGENTS]

    def steps(model: str, play: Play, agents: Sequence[Agent]) -> tuple[Step, ...]:
        return asyncio.run(_steps(model, play, agents, prices))

    warm = steps("frontier", play, AGENTS)
    cold = tuple(_uncached(step, play.speed) for step in warm)
    routed = steps("auto", play, AGENTS)
    short = steps("auto", cut, AGENTS)
    adapted = steps("auto", cut, tuned)
    every = (cold, warm, routed, short, adapted)
    return tuple(Way(name, each) for name, each in zip(WAYS, every, strict=True))


def with_adapter(agent: Agent) -> Agent:
    """Its small model errs less, and is unsure less often; it is never better than the frontier."""
    small = min(agent.frontier, 1 - (1 - agent.small) * ADAPTER_ERRORS)
    return replace(agent, small=max(agent.small, small), unsure=agent.unsure * ADAPTER_ERRORS)


def _uncached(step: Step, speed: Mapping[Tier, Speed]) -> Step:
    fresh = step.fresh + step.cached
    seconds = speed[step.tier].seconds(fresh=fresh, cached=0, output=step.output)
    return replace(step, fresh=fresh, cached=0, seconds=seconds)


@dataclass
class _Engines(Pretended):
    """Pretended engines that share an agent's head between its tasks, and cache whole blocks."""

    head: int = 0
    seed: int = 0
    seen: set[tuple[str, str]] = field(default_factory=set)
    """(agent, model): the head is there."""

    def cached(self, model: str) -> int:
        own = super().cached(model)
        if (self.agent.name, model) in self.seen:
            own = max(own, self.head)
        prompt = self.turns[self.at].prompt_tokens
        return min(own, prompt - 1) // BLOCK * BLOCK  # the last token is always computed

    @asynccontextmanager
    async def open(self, turn: TurnRequest) -> AsyncGenerator[Dispatched]:
        model = turn.parsed.model if turn.parsed else json.loads(turn.body)["model"]
        key = self.task[self.at].key
        self.chance = random.Random(f"{self.seed}/{self.session}/{key}/{model}")
        async with super().open(turn) as answer:
            yield answer
        self.seen.add((self.agent.name, model))

    @property
    def task(self) -> Task:
        return cast("Task", self.turns)


async def _steps(
    model: str, play: Play, agents: Sequence[Agent], prices: PriceList
) -> tuple[Step, ...]:
    """All tasks, one after the other; `model`: auto, or a tier. Each outcome is reported."""
    tiers: tuple[Tier, ...] = ("small", "frontier")
    models = {
        tier: {"engine": "simulated", "tier": tier, "prices": prices.of(tier).with_cache()}
        for tier in tiers
    }
    knobs = TiersConfig(explore=0.05)
    config = StackConfig.model_validate({"models": models, "router": {"tiers": knobs}})
    engines = _Engines(config, random.Random(play.seed), head=play.head, seed=play.seed)
    turns = AutoTurns(cast("Router", engines))
    steps: list[Step] = []
    lessons = play.lessons if model == "auto" else ()
    for number, task in enumerate([*lessons, *play.tasks], -len(lessons)):
        engines.session, engines.turns = f"t{number}", task
        engines.agent = agents[number % len(agents)]
        for engines.at, turn in enumerate(task):
            first = len(engines.log)
            await _ask(turns, model, engines, report=turn.checked and model == "auto")
            tries = engines.log[first:]
            for record in tries if number >= 0 else ():
                used = record is tries[-1] and turn.checked
                right = engines.right if used else None
                steps.append(_step(number, turn.key, record, play.speed, right))
        if number < 0:
            engines.log.clear()
    return tuple(steps)


def _step(
    task: int, key: str, record: TurnRecord, speed: Mapping[Tier, Speed], right: bool | None
) -> Step:
    tier: Tier = "small" if record.model == "small" else "frontier"
    cached, output = record.cached_tokens or 0, record.output_tokens or 0
    fresh = (record.prompt_tokens or 0) - cached
    seconds = speed[tier].seconds(fresh=fresh, cached=cached, output=output)
    return Step(task, key, tier, fresh, cached, output, seconds, right)


async def _ask(turns: AutoTurns, model: str, engines: _Engines, *, report: bool) -> None:
    request_id = f"{engines.session}-{engines.at}"
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "tools": TOOLS}
    headers = {"x-warmloop-task": engines.agent.name}
    turn = TurnRequest(
        CHAT, json.dumps(body).encode(), request_id, headers, session=engines.session
    )
    async with turns.open(turn) as answer:
        _ = [chunk async for chunk in answer.chunks()]
    if report:
        turns.ledger.report("", request_id, success=engines.right)
