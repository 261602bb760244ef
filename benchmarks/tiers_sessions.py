"""Whole sessions through the real AutoTurns: does a main chain ever change its model for nothing?

Sessions grow as recorded coding agents' do (a file of such traces, or made up in their shape).
Engines are pretended: they answer at once, right or wrong and sure or unsure by chance, and hold a
session's prefix for ever, each model its own. What is decided, held back, asked again, priced and
learnt is the router's own code, request for request.

A change is read off the models that answered, not off what the router says of itself; then each is
looked up in the router's log. Without a priced reason there, it counts as unpriced.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry

from router.content import Content
from router.dispatch import Router
from router.identity import Sessions
from router.logs import TurnRecord
from router.placing.fleet import Fleet
from router.tiers.auto import AutoTurns
from router.tiers.prices import Quote
from router.tiers.turn_types import note
from router.turn import Decision, Dispatched, TurnRequest
from serving.config.model import Prices
from serving.config.router import TiersConfig
from serving.config.stack import StackConfig
from serving.errors import ConfigError
from serving.protocol import CHAT
from serving.tables.base import Engine, Tier

TOOLS = [{"type": "function", "function": {"name": "act", "parameters": {"type": "object"}}}]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session: its prompt, and how much of it the one before it had as well."""

    prompt_tokens: int
    shared_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Agent:
    """How good each tier is at an agent's turns; `unsure`: of the small model's answers."""

    name: str
    small: float
    frontier: float
    unsure: float


AGENTS = (
    Agent("easy", small=0.95, frontier=0.96, unsure=0.03),
    Agent("mixed", small=0.82, frontier=0.93, unsure=0.15),
    Agent("hard", small=0.45, frontier=0.90, unsure=0.40),
)


def synthetic(sessions: int = 150, seed: int = 3) -> list[list[Turn]]:
    """Made up in the shape of coding agents' sessions: long heads, small steps, some long."""
    chance = random.Random(seed)
    found = []
    for _ in range(sessions):
        prompt, turns = chance.randint(2_000, 20_000), list[Turn]()
        shared = 0
        for _ in range(min(80, round(chance.lognormvariate(2.3, 0.9)) + 1)):
            output = min(4000, round(chance.lognormvariate(5.0, 0.9)) + 1)
            turns.append(Turn(prompt, shared, output))
            shared = prompt
            prompt += output + min(8000, round(chance.lognormvariate(6.0, 1.0)))
        found.append(turns)
    return found


def read(path: Path, most: int = 100, turns: int = 60) -> list[list[Turn]]:
    """The first sessions of a file of traces (kv-cache-tester's form, see `routing_workload`)."""
    found: list[list[Turn]] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                if len(found) >= most:
                    break
                session = json.loads(line)
                requests = [r for r in session["requests"] if "in" in r][:turns]
                found.append(_turns(requests, session["block_size"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: is no gzipped file of traces: {error!r}") from None
    return [session for session in found if session]


def _turns(requests: Sequence[Mapping[str, Any]], block: int) -> list[Turn]:
    turns, before = list[Turn](), list[int]()
    for request in requests:
        blocks = [n for first, count in request["hash_ranges"] for n in range(first, first + count)]
        same = next(
            (i for i, (a, b) in enumerate(zip(before, blocks, strict=False)) if a != b),
            min(len(before), len(blocks)),
        )
        prompt = max(1, int(request["in"]))
        turns.append(Turn(prompt, min(prompt, same * block), max(1, int(request["out"] or 1))))
        before = blocks
    return turns


@dataclass(slots=True)
class _Held:
    """What a model's engines hold of a session: the turn that it saw last."""

    turn: int = -1


@dataclass
class Pretended:
    """What AutoTurns sees of a router, over engines that are not there."""

    config: StackConfig
    chance: random.Random
    log: list[TurnRecord] = field(default_factory=list)
    held: dict[tuple[str, str], _Held] = field(default_factory=dict)
    session: str = ""
    turns: Sequence[Turn] = ()
    at: int = 0
    agent: Agent = AGENTS[0]
    right: bool = False
    """Of the last answer that was given."""

    def __post_init__(self) -> None:
        self.metrics = self.catalogue = self
        self.registry = CollectorRegistry()
        self.sessions = Sessions(10_000)
        self._fleet = Fleet(
            tuple(Engine(f"{name}-0", name, "http://none", name) for name in self.config.models)
        )

    def fleet(self) -> Fleet:
        return self._fleet

    def report(self, record: TurnRecord) -> None:
        self.log.append(record)

    def cached(self, model: str) -> int:
        """The common beginning of this turn and the last one that `model` saw of the session."""
        seen = self.held.get((self.session, model), _Held()).turn
        if seen < 0:
            return 0
        return min(turn.shared_tokens for turn in self.turns[seen + 1 : self.at + 1])

    def quote(self, content: Content, model: str) -> Quote:
        return Quote(self.turns[self.at].prompt_tokens, self.cached(model))

    @asynccontextmanager
    async def open(self, turn: TurnRequest) -> AsyncGenerator[Dispatched]:
        model = turn.parsed.model if turn.parsed else json.loads(turn.body)["model"]
        record = TurnRecord("", turn.request_id, turn.path, 200, model=model)
        now = self.turns[self.at]
        record.prompt_tokens, record.cached_tokens = now.prompt_tokens, self.cached(model)
        record.output_tokens = now.output_tokens
        record.cost_usd = self.config.models[model].prices.cost_usd(
            prompt=now.prompt_tokens, cached=record.cached_tokens, output=now.output_tokens
        )
        if turn.tier is not None:
            note(record, turn.tier)
            record.reason = turn.tier.reason
        self.held[self.session, model] = _Held(self.at)
        small = self.config.models[model].tier == "small"
        unsure = small and self.chance.random() < self.agent.unsure
        self.right = self.chance.random() < (self.agent.small if small else self.agent.frontier)
        spent = turn.tier.spent_usd if turn.tier is not None else 0.0
        yield _Answer(Decision(model, f"{model}-0", "", record.reason, 0, spent), unsure=unsure)
        if turn.on_end is not None:
            turn.on_end(record)
        self.log.append(record)


class _Answer:
    """One call, sure or not."""

    status = 200

    def __init__(self, decision: Decision, *, unsure: bool) -> None:
        self.decision = decision
        self.headers: Mapping[str, str] = {"content-type": "application/json"}
        arguments = '{"a": "value"}'
        tokens = [
            ('{"name": "act", "arguments": {"a": "', 0.0),
            ("value", -2.0 if unsure else -0.1),
        ]
        choice = {
            "message": {"tool_calls": [{"function": {"name": "act", "arguments": arguments}}]},
            "logprobs": {"content": [{"token": t, "logprob": p} for t, p in tokens]},
            "finish_reason": "tool_calls",
        }
        self._body = json.dumps({"choices": [choice]}).encode()

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body


@dataclass(slots=True)
class Outcome:
    """One way to choose, over all sessions."""

    turns: int = 0
    right: int = 0
    usd: float = 0.0
    changes: int = 0
    priced: int = 0
    """Changes for a logged gain above the margin."""
    escalated: int = 0
    """Changes by an escalation."""
    returns: int = 0
    """Back from an escalation after which going back was cheaper, as logged then."""
    unpriced: int = 0


async def play(
    sessions: Sequence[Sequence[Turn]],
    prices: Mapping[Tier, Prices],
    model: str,
    *,
    seed: int = 5,
) -> Outcome:
    """All sessions, one after the other; `model`: auto, or a tier. Each outcome is reported."""
    knobs = TiersConfig(explore=0.05)
    models = {
        tier: {"engine": "simulated", "tier": tier, "prices": each} for tier, each in prices.items()
    }
    config = StackConfig.model_validate({"models": models, "router": {"tiers": knobs}})
    router = Pretended(config, random.Random(seed))
    turns = AutoTurns(cast("Router", router))
    outcome = Outcome()
    for number, session in enumerate(sessions):
        router.session, router.turns = f"s{number}", session
        router.agent = AGENTS[number % len(AGENTS)]
        before: TurnRecord | None = None
        for at in range(len(session)):
            router.at = at
            request_id = f"{number}-{at}"
            body = {"model": model, "messages": [{"role": "user", "content": "x"}], "tools": TOOLS}
            turn = TurnRequest(
                CHAT,
                json.dumps(body).encode(),
                request_id,
                {"x-warmloop-task": router.agent.name},
                session=router.session,
            )
            first = len(router.log)
            async with turns.open(turn) as answer:
                _ = [chunk async for chunk in answer.chunks()]
            tries = router.log[first:]
            outcome.turns += 1
            outcome.right += router.right
            outcome.usd += sum(each.cost_usd or 0.0 for each in tries)
            if model == "auto":
                turns.ledger.report("", request_id, success=router.right)
                _judge(outcome, before, tries[-1], knobs.margin)
            before = tries[-1]
    return outcome


def _judge(outcome: Outcome, before: TurnRecord | None, now: TurnRecord, margin: float) -> None:
    """Whether the chain changed its model with this turn, and by what right."""
    if before is None or before.model == now.model:
        return
    outcome.changes += 1
    gain = now.tier_gain_usd
    if ":escalated-" in now.reason and gain is not None:
        outcome.escalated += 1
    elif ":priced" in now.reason and gain is not None:
        staying = now.tier_prices_usd.get(before.model, 0.0)
        outcome.priced += gain > margin * staying > 0
        outcome.unpriced += not gain > margin * staying > 0
    elif ":escalated-" in before.reason and not before.tier_change:
        outcome.returns += 1
    else:
        outcome.unpriced += 1


def run(sessions: Sequence[Sequence[Turn]], prices: Mapping[Tier, Prices]) -> dict[str, Outcome]:
    """The policy beside the two that need none."""
    return {
        name: asyncio.run(play(sessions, prices, model))
        for name, model in (
            ("always small", "small"),
            ("always frontier", "frontier"),
            ("auto", "auto"),
        )
    }
