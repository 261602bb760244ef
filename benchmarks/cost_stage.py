"""Ways to ask two engines, played by turns: each question of a task in all ways, then the next one.

So what else the machine does hits all ways alike, and one question at a time is asked, so that a
call's seconds are its own. A way has a front door of its own for each task, and a salt of its own
in the engines' caches: none finds what another one paid for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import msgspec

from benchmarks.cost_busy import Busy
from benchmarks.cost_desk import Asked
from benchmarks.cost_ledger import WAYS, Step, Way
from benchmarks.engines import PATIENCE, front_door
from router.logs import TurnRecord
from router.tiers.history import History, Kind
from serving.config.model import ModelConfig
from serving.config.router import TiersConfig
from serving.protocol import CHAT
from serving.tables.base import Tier

TASK = "desk"
SHOWN = 200
"""Characters of an answer that a report keeps."""
BOLD = TiersConfig(explore=0, caution=0, prior_turns=3)
"""Outcomes are few: what is known must do, without caution on top of it."""


@dataclass(frozen=True)
class Arm:
    """One way to ask."""

    way: str
    model: str
    """What is asked: frontier, `auto`, or the small model."""
    small: str
    """The name under which the small engine is there: with its adapter, or without."""
    tasks: Sequence[Sequence[Asked]]
    taught: Mapping[Tier, Way] = field(default_factory=dict)
    """`auto` knows before each task what came of the other tasks here."""


@dataclass(frozen=True)
class Engines:
    """The two of them, by tier."""

    models: Mapping[Tier, ModelConfig]
    urls: Mapping[Tier, str]
    busy: Mapping[Tier, Busy]
    """Empty: an engine is busy from when it is asked until it has answered."""

    def busy_s(self) -> dict[Tier, float]:
        """Until now, by tier."""
        return {tier: busy.seconds() for tier, busy in self.busy.items()}


async def play(
    engines: Engines, arms: Sequence[Arm], asked: Callable[[], None] = lambda: None
) -> list[Way]:
    """Every question in every way. `asked` hears of each that was."""
    steps: dict[str, list[Step]] = {arm.way: [] for arm in arms}
    for number in range(len(arms[0].tasks)):
        async with AsyncExitStack() as open_doors:
            desks = [await open_doors.enter_async_context(_desk(engines, a, number)) for a in arms]
            for at in range(len(arms[0].tasks[number])):
                for desk in desks if at % 2 == 0 else desks[::-1]:
                    steps[desk.arm.way] += await desk.ask(at)
                    asked()
    return [Way(name, tuple(taken)) for name, taken in steps.items()]


@asynccontextmanager
async def _desk(engines: Engines, arm: Arm, number: int) -> AsyncIterator[_Desk]:
    sections = {
        "frontier": (engines.models["frontier"], engines.urls["frontier"]),
        arm.small: (engines.models["small"], engines.urls["small"]),
    }
    log: list[TurnRecord] = []
    sink = lambda line: log.append(msgspec.json.decode(line, type=TurnRecord))  # noqa: E731
    async with (
        front_door(sections, BOLD, _lessons(number, arm.taught), sink) as door,
        aiohttp.ClientSession(timeout=PATIENCE) as http,
    ):
        yield _Desk(arm, number, engines, door.url, http, log)


@dataclass(frozen=True)
class _Desk:
    """One task in one way, behind its front door."""

    arm: Arm
    number: int
    engines: Engines
    url: str
    http: aiohttp.ClientSession
    log: list[TurnRecord]

    async def ask(self, at: int) -> list[Step]:
        """One turn."""
        arm, asked = self.arm, self.arm.tasks[self.number][at]
        salt = f"{arm.way} {self.number} {at}" if arm.way == WAYS[0] else arm.way
        self.log.clear()
        before = self.engines.busy_s()
        said = await self._answer(asked.body(arm.model, salt))
        busy = {tier: now - before[tier] for tier, now in self.engines.busy_s().items()}
        steps = taken(self.number, str(at), self.log, busy)
        used = replace(steps[-1], right=asked.right(said), said=_shown(said))
        return [*steps[:-1], used]

    async def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's message; one that is an error is none, and not right."""
        headers = {"x-warmloop-task": TASK, "x-session-id": f"{self.arm.way}/{self.number}"}
        async with self.http.post(self.url + CHAT, json=body, headers=headers) as answer:
            said: dict[str, Any] = await answer.json()
            if answer.status != 200 and "invalid_tool_call" not in str(said):
                raise RuntimeError(f"{self.url} answered {answer.status}: {said}")
        if "choices" not in said:
            return {}
        message: dict[str, Any] = said["choices"][0]["message"]
        return message


def _shown(message: Mapping[str, Any]) -> str:
    calls = [each["function"] for each in message.get("tool_calls") or ()]
    shown = " ".join(f"{each['name']} {each['arguments']}" for each in calls)
    return (shown or message.get("content") or "")[:SHOWN]


def taken(
    task: int, turn: str, log: Sequence[TurnRecord], busy: Mapping[Tier, float]
) -> list[Step]:
    """The steps of one turn: every try that reached an engine; the last one's answer was used.

    `busy` are the seconds of each engine, which its tries share as the clock has them; of one that
    is not there, the clock's.
    """
    tries = [record for record in log if record.prompt_tokens]
    if not tries:
        said = [f"{record.model} {record.status} {record.error}".strip() for record in log]
        raise RuntimeError(f"task {task}, turn {turn}: no engine answered; the log: {said}")
    waited: dict[Tier, float] = {"frontier": 0.0, "small": 0.0}
    for record in tries:
        waited[_tier(record)] += record.total_s or 0.0
    steps = []
    for record in tries:
        tier, clock_s = _tier(record), record.total_s or 0.0
        share = clock_s / waited[tier] if waited[tier] else 1.0
        cached, output = record.cached_tokens or 0, record.output_tokens or 0
        fresh = (record.prompt_tokens or 0) - cached
        seconds = busy[tier] * share if tier in busy else clock_s
        steps.append(Step(task, turn, tier, fresh, cached, output, seconds, clock_s=clock_s))
    return steps


def _tier(record: TurnRecord) -> Tier:
    return "frontier" if record.model == "frontier" else "small"


def _lessons(number: int, taught: Mapping[Tier, Way]) -> Callable[[History], None]:
    """What is known before task `number`: outcomes of all others."""

    def teach(history: History) -> None:
        kind = Kind("tenant:", TASK, "tool-call")
        for tier, way in taught.items():
            for step in way.steps:
                if step.task != number and step.right is not None:
                    history.learn(kind, tier, good=step.right)
                    history.came(kind)

    return teach
