"""The five ways on two real engines, through the real front door, on answers that are checked.

    naive         the frontier, each turn with a cache of its own (`cache_salt`): nothing is found
    the others    a salt for each way: every way begins cold, and its tasks share their head

One session at a time, so that a call's seconds are its own. Tokens are the engines' own, as the
router logs them for each try, an unseen one too. `auto` is taught before: each task by the outcomes
of the other tasks, of the frontier and of the small model asked always.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console

from benchmarks.cost_desk import Asked, tasks
from benchmarks.cost_ledger import WAYS, Step, Way
from benchmarks.cost_prices import Speed
from benchmarks.engines import PATIENCE, engine, front_door
from benchmarks.replicas_load import WORDS
from router.logs import TurnRecord
from router.tiers.history import History, Kind
from serving import stack_file
from serving.config import LoraConfig, ModelConfig, StackConfig
from serving.engines import adapter_for
from serving.errors import ConfigError
from serving.protocol import CHAT, Usage, usage_in
from serving.router_config import TiersConfig
from serving.table import Tier

TUNED = "tuned"
"""The adapter's name, in the engine and as a model."""
TASK = "desk"
AT_ONCE, SPOKEN = 4, 48
"""Answers and their tokens, when an engine's speed is measured."""
BOLD = TiersConfig(explore=0, caution=0, prior_turns=3)
"""Outcomes are few: what is known must do, without caution on top of it."""


@dataclass(frozen=True)
class Profile:
    """Which models, and how long their prompts are."""

    stack: Path
    context_tokens: int
    rules: int
    """Of the handbook."""
    adapter: Path | None
    """The default one; None where the profile has none of its own."""
    kv_cache_gib: float | None = None
    """Where it is to hold more than the stack's: both tasks of a way, in float32 too."""


PROFILES = {
    "cpu": Profile(
        Path("configs/cpu-small.yaml"), 8_192, 130, Path("examples/adapters/smollm2-tools"), 0.6
    ),
    "gpu": Profile(Path("configs/single-gpu.yaml"), 65_536, 1_500, None),
}


@dataclass(frozen=True)
class Live:
    """What was played, and how fast the engines are."""

    source: str
    ways: tuple[Way, ...]
    alone: Mapping[str, Way]
    """The small model, and the adapter, asked always."""
    share: Mapping[Tier, float]
    speed: Mapping[Tier, Speed]


@dataclass(frozen=True)
class Wanted:
    """What is asked for; None: as the profile has it."""

    profile: str
    tasks: int
    turns: int
    rules: int | None = None
    adapter: Path | None = None


def run(wanted: Wanted, console: Console) -> Live:
    """All ways. Raises ConfigError for what cannot be played."""
    profile, count, turns = wanted.profile, wanted.tasks, wanted.turns
    chosen = PROFILES[profile]
    folder = wanted.adapter or chosen.adapter
    rules = wanted.rules or chosen.rules
    if folder is None:
        raise ConfigError(
            f"--profile {profile}: has no adapter of its own; give --adapter FOLDER, a LoRA "
            f"adapter for the small model of {chosen.stack}"
        )
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"--adapter {folder}: has no adapter_config.json; give what peft saved")
    try:
        whole = tasks(count, turns, rules, cut=False)
    except ValueError as error:
        raise ConfigError(f"--tasks, --turns: {error}; take fewer") from None
    if count < 2:
        raise ConfigError(f"--tasks {count}: one is taught by the others; take 2 at least")
    short = tasks(count, turns, rules, cut=True)
    models = _models(stack_file.load(chosen.stack), chosen, folder.resolve())
    return asyncio.run(_measure(models, whole, short, console))


def _models(stack: StackConfig, profile: Profile, adapter: Path) -> dict[str, ModelConfig]:
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    lora = LoraConfig(enabled=True, max_rank=rank, max_resident=1, max_cached=1)
    changed: dict[str, Any] = {"context_tokens": profile.context_tokens}
    if profile.kv_cache_gib is not None:
        changed["kv_cache_gib"] = profile.kv_cache_gib
    small = {**changed, "lora": lora, "adapters": {TUNED: adapter}}
    return {
        "frontier": stack.models["frontier"].model_copy(update=changed),
        "small": stack.models["small"].model_copy(update=small),
    }


async def _measure(
    models: Mapping[str, ModelConfig],
    whole: Sequence[Sequence[Asked]],
    short: Sequence[Sequence[Asked]],
    console: Console,
) -> Live:
    async with AsyncExitStack() as running:
        urls = {
            name: await running.enter_async_context(engine(name, model))
            for name, model in models.items()
        }
        await _load_adapter(models["small"], urls["small"])
        stage = Stage(models, urls, console)
        small, tuned = await stage.alone("small", whole), await stage.alone(TUNED, short)
        warm = await stage.named(WAYS[1], "frontier", whole)
        routed = await stage.auto(WAYS[2], "small", whole, warm, small)
        cut = await stage.auto(WAYS[3], "small", short, warm, small)
        adapted = await stage.auto(WAYS[4], TUNED, short, warm, tuned)
        cold = await stage.named(WAYS[0], "frontier", whole)
        speed = {tier: await _speed(urls[tier], tier) for tier in ("frontier", "small")}
    total = sum(_size(model) for model in models.values())
    turns = len(whole[0])
    return Live(
        f"{len(whole)} tasks of {turns} turns on real engines",
        (cold, warm, routed, cut, adapted),
        {"small always": small, "adapter always": tuned},
        {"frontier": _size(models["frontier"]) / total, "small": _size(models["small"]) / total},
        {"frontier": speed["frontier"], "small": speed["small"]},
    )


async def _load_adapter(model: ModelConfig, url: str) -> None:
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:
        await adapter_for(model.engine).load_adapter(http, url, TUNED, model.adapters[TUNED])


def _size(model: ModelConfig) -> float:
    return float(model.gpus or model.threads or 1)


class Stage:
    """Two engines, and ways to ask them."""

    def __init__(
        self, models: Mapping[str, ModelConfig], urls: Mapping[str, str], console: Console
    ) -> None:
        self._models = models
        self._urls = urls
        self._console = console

    async def alone(self, model: str, played: Sequence[Sequence[Asked]]) -> Way:
        """One model of the small engine, asked always."""
        return self._said(await self._play(f"{model} always", model, model, played))

    async def named(self, way: str, model: str, played: Sequence[Sequence[Asked]]) -> Way:
        """One model that is asked by its name."""
        return self._said(await self._play(way, model, "small", played))

    async def auto(
        self,
        way: str,
        small: str,
        played: Sequence[Sequence[Asked]],
        frontier_was: Way,
        small_was: Way,
    ) -> Way:
        """`auto` over the frontier and this small model; each task is taught by the others'."""
        steps: list[Step] = []
        for number, task in enumerate(played):
            lessons = _lessons(number, frontier_was, small_was)
            one = await self._play(way, "auto", small, [task], first=number, teach=lessons)
            steps += one.steps
        return self._said(Way(way, tuple(steps)))

    def _said(self, way: Way) -> Way:
        """As it comes: all of it takes minutes."""
        self._console.print(
            f"{way.name}: {way.right} of {way.checked} right, "
            f"{way.per_task('seconds'):.1f} s and {way.per_task('fresh'):,.0f} fresh tokens a task",
            highlight=False,
        )
        return way

    async def _play(
        self,
        way: str,
        model: str,
        small: str,
        played: Sequence[Sequence[Asked]],
        *,
        first: int = 0,
        teach: Callable[[History], None] = lambda _: None,
    ) -> Way:
        engines = {
            "frontier": (self._models["frontier"], self._urls["frontier"]),
            small: (self._models["small"], self._urls["small"]),
        }
        log: list[TurnRecord] = []
        sink = lambda line: log.append(msgspec.json.decode(line, type=TurnRecord))  # noqa: E731
        steps: list[Step] = []
        async with (
            front_door(engines, BOLD, teach, sink) as door,
            aiohttp.ClientSession(timeout=PATIENCE) as http,
        ):
            for number, task in enumerate(played, first):
                for at, asked in enumerate(task):
                    salt = f"{way}/{number}/{at}" if way == WAYS[0] else way
                    log.clear()
                    said = await _ask(http, door.url, asked.body(model, salt), f"{way}/{number}")
                    steps += taken(number, str(at), log, right=asked.right(said))
        return Way(way, tuple(steps))


def taken(task: int, turn: str, log: Sequence[TurnRecord], *, right: bool) -> list[Step]:
    """The steps of one turn: every try that reached an engine; the last one's answer was used."""
    tries = [record for record in log if record.prompt_tokens]
    steps = []
    for record in tries:
        tier: Tier = "frontier" if record.model == "frontier" else "small"
        cached = record.cached_tokens or 0
        fresh = (record.prompt_tokens or 0) - cached
        output, seconds = record.output_tokens or 0, record.total_s or 0.0
        steps.append(Step(task, turn, tier, fresh, cached, output, seconds))
    if not steps:
        raise RuntimeError(f"task {task}, turn {turn}: no engine answered")
    return [*steps[:-1], replace(steps[-1], right=right)]


def _lessons(number: int, frontier_was: Way, small_was: Way) -> Callable[[History], None]:
    """What is known before task `number`: outcomes of all others."""

    def teach(history: History) -> None:
        kind = Kind("tenant:", TASK, "tool-call")
        tiers: tuple[tuple[Tier, Way], ...] = (("frontier", frontier_was), ("small", small_was))
        for tier, way in tiers:
            for step in way.steps:
                if step.task != number and step.right is not None:
                    history.learn(kind, tier, good=step.right)
                    history.came(kind)

    return teach


async def _ask(
    http: aiohttp.ClientSession, url: str, body: dict[str, Any], session: str
) -> dict[str, Any]:
    """The answer's message; one that is an error is none, and not right."""
    headers = {"x-warmloop-task": TASK, "x-session-id": session}
    async with http.post(url + CHAT, json=body, headers=headers) as answer:
        said: dict[str, Any] = await answer.json()
        if answer.status >= 500 and "invalid_tool_call" not in str(said):
            raise RuntimeError(f"{url} answered {answer.status}: {said}")
    if "choices" not in said:
        return {}
    message: dict[str, Any] = said["choices"][0]["message"]
    return message


async def _speed(url: str, model: str) -> Speed:
    """An idle engine's: a prompt cold and again, and four answers at once."""
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:

        async def ask(text: str, tokens: int) -> tuple[float, Usage]:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": tokens,
                "min_tokens": tokens,
                "ignore_eos": True,
            }
            began = time.monotonic()
            async with http.post(url + CHAT, json=body) as answer:
                found = usage_in(await answer.read())
            if found is None:
                raise RuntimeError(f"{url} answered {answer.status} without usage")
            return time.monotonic() - began, found

        await ask("the first of everything is slow", 2)
        text = "once and again " + " ".join(WORDS * 12)
        (cold_s, cold), (warm_s, warm) = await ask(text, 1), await ask(text, 1)
        began = time.monotonic()
        await asyncio.gather(*(ask(f"{n} at once", SPOKEN) for n in range(AT_ONCE)))
        spoken_s = time.monotonic() - began
    return Speed(
        fresh=(cold.prompt_tokens - cold.cached_tokens) / cold_s,
        cached=warm.cached_tokens / warm_s,
        output=AT_ONCE * SPOKEN / spoken_s,
    )
