"""The tier policy on two real models, through the real front door, on answers that are checked.

    always small, always frontier     the model is named
    small first                       `auto`, policy small: what is invalid or unsure escalates
    auto, untaught                    `auto` as it is before anybody reported an outcome
    auto, taught                      `auto` that knows the outcomes of every other question; scored
                                      on the rest

Costs are the stack's prices times what the engines counted, unused tries included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.engines import PATIENCE, engine, front_door, model_of
from benchmarks.tiers_questions import Checked, all_questions
from router.tiers.history import History, Kind
from serving.config.model import ModelConfig, Prices
from serving.config.router import TiersConfig
from serving.protocol import CHAT

AT_ONCE = 4
TYPES = {"calls": "tool-call", "orders": "format", "sums": "unknown"}


@dataclass(frozen=True, slots=True)
class Got:
    """What came of one question."""

    task: str
    right: bool
    model: str
    usd: float
    escalated: str
    """Why, where it was asked again."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to choose, over some questions."""

    name: str
    got: tuple[Got, ...]

    @property
    def right(self) -> int:
        return sum(each.right for each in self.got)

    @property
    def usd(self) -> float:
        return sum(each.usd for each in self.got)

    @property
    def escalations(self) -> int:
        return sum(bool(each.escalated) for each in self.got)

    def of_task(self, task: str) -> list[Got]:
        return [each for each in self.got if each.task == task]


async def measure(stack: Path, asked: Callable[[], None]) -> list[Way]:
    """All ways, one after the other, on both engines of the stack's two models."""
    models = {name: model_of(stack, name) for name in ("frontier", "small")}
    prices = {name: model.prices for name, model in models.items()}
    questions = all_questions()
    halves = questions[1::2]
    async with AsyncExitStack() as running:
        engines: dict[str, tuple[ModelConfig, str]] = {}
        for name, model in models.items():
            engines[name] = (model, await running.enter_async_context(engine(name, model)))

        async def way(
            name: str,
            model: str,
            some: Sequence[Checked],
            tiers: TiersConfig | None = None,
            teach: Callable[[History], None] = lambda _: None,
        ) -> Way:
            async with front_door(engines, tiers, teach) as door:
                return Way(name, await _ask_all(door.url, model, some, prices, asked))

        plain = TiersConfig(explore=0)
        small = await way("always small", "small", questions)
        frontier = await way("always frontier", "frontier", questions)
        first = await way("small first", "auto", questions, TiersConfig(policy="small"))
        untaught = await way("auto, untaught", "auto", questions, plain)
        # 23 outcomes of a tier are few: what is known must do, without caution on top of it.
        bold = TiersConfig(explore=0, caution=0, prior_turns=3)
        taught = await way(
            "auto, taught", "auto", halves, bold, lambda history: _teach(history, small, frontier)
        )
    half_small = Way("always small, same half", small.got[1::2])
    half_frontier = Way("always frontier, same half", frontier.got[1::2])
    return [small, frontier, first, untaught, taught, half_small, half_frontier]


def run(stack: Path, asked: Callable[[], None]) -> list[Way]:
    """`measure`, from a program without a loop."""
    return asyncio.run(measure(stack, asked))


def count() -> int:
    """Questions that `measure` asks."""
    whole = len(all_questions())
    return 4 * whole + len(all_questions()[1::2])


def _teach(history: History, small: Way, frontier: Way) -> None:
    for one, other in list(zip(small.got, frontier.got, strict=True))[::2]:
        kind = Kind("tenant:", one.task, TYPES[one.task])
        history.came(kind)
        history.learn(kind, "small", good=one.right)
        history.learn(kind, "frontier", good=other.right)


async def _ask_all(
    url: str,
    model: str,
    questions: Sequence[Checked],
    prices: dict[str, Prices],
    asked: Callable[[], None],
) -> tuple[Got, ...]:
    slots = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:

        async def one(question: Checked) -> Got:
            async with slots:
                got = await _ask(http, url, model, question, prices)
            asked()
            return got

        return tuple(await asyncio.gather(*map(one, questions)))


async def _ask(
    http: aiohttp.ClientSession,
    url: str,
    model: str,
    question: Checked,
    prices: dict[str, Prices],
) -> Got:
    headers = {"x-warmloop-task": question.task}
    body = {"model": model, **question.body}
    async with http.post(url + CHAT, json=body, headers=headers) as answer:
        said: dict[str, Any] = await answer.json()
        used = answer.headers.get("x-warmloop-model", "")
        spent = float(answer.headers.get("x-warmloop-spent-usd", 0))
        decision = answer.headers.get("x-warmloop-decision", "")
        if answer.status != 200:
            problem = str(said.get("error", {}).get("message", answer.status))
            return Got(question.task, right=False, model=used, usd=spent, escalated="",
                       problem=problem)  # fmt: skip
    usage = said["usage"]
    details = usage.get("prompt_tokens_details") or {}
    usd = prices[used].cost_usd(
        prompt=usage["prompt_tokens"],
        cached=details.get("cached_tokens") or 0,
        output=usage["completion_tokens"],
    )
    escalated = decision.partition("escalated-")[2].partition(";")[0]
    right = question.right(said["choices"][0]["message"])
    return Got(question.task, right, used, usd + spent, escalated)
