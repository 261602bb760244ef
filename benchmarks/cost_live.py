"""The five ways on two real engines, through the real front door, on answers that are checked.

    naive         the frontier, each turn with a cache of its own (`cache_salt`): nothing is found
    the others    a salt for each way: every way begins cold, and its tasks share their head

All ways by turns (`cost_stage`), in two parts: first one model asked always, then `auto`, which is
taught by the first part: each task by the outcomes of the other tasks. Tokens are the engines' own,
as the router logs them for each try, an unseen one too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import Progress

from benchmarks.cost_busy import Busy
from benchmarks.cost_desk import Asked, tasks
from benchmarks.cost_ledger import WAYS, Way
from benchmarks.cost_prices import Speed
from benchmarks.cost_stage import Arm, Engines, play
from benchmarks.engines import PATIENCE, engine
from benchmarks.replicas_load import WORDS
from serving.config import stack_file
from serving.config.model import LoraConfig, ModelConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for
from serving.errors import ConfigError
from serving.protocol import CHAT, Usage, usage_in
from serving.tables.base import Tier

TUNED = "tuned"
"""The adapter's name, in the engine and as a model."""
ALONE, TUNED_ALONE = BOTH = ("small always", "adapter always")
AT_ONCE, SPOKEN = 4, 48
"""Answers and their tokens, when an engine's speed is measured."""
LEAST_S = 0.005
"""Processor seconds are counted in hundredths: a fast engine's may be none."""


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
    """Where it is to hold more than the stack's: all ways of both tasks, in float32 too."""


PROFILES = {
    "cpu": Profile(
        Path("configs/cpu-small.yaml"), 8_192, 130, Path("examples/adapters/smollm2-tools"), 1.2
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


def _models(stack: StackConfig, profile: Profile, adapter: Path) -> dict[Tier, ModelConfig]:
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
    models: Mapping[Tier, ModelConfig],
    whole: Sequence[Sequence[Asked]],
    short: Sequence[Sequence[Asked]],
    console: Console,
) -> Live:
    async with AsyncExitStack() as running:
        urls = {
            tier: await running.enter_async_context(engine(tier, model))
            for tier, model in models.items()
        }
        await _load_adapter(models["small"], urls["small"])
        engines = Engines(models, urls, _busy(models, urls))
        played = await _play(engines, whole, short, console)
        speed = {tier: await _speed(engines, tier) for tier in urls}
    total = sum(_size(model) for model in models.values())
    return Live(
        f"{len(whole)} tasks of {len(whole[0])} turns on real engines",
        tuple(played[way] for way in WAYS),
        {name: way for name, way in played.items() if name not in WAYS},
        {tier: _size(model) / total for tier, model in models.items()},
        speed,
    )


def _busy(models: Mapping[Tier, ModelConfig], urls: Mapping[Tier, str]) -> dict[Tier, Busy]:
    """Of engines on CPUs. A GPU is busy as long as it is asked."""
    on_cpu = not any(model.gpus for model in models.values())
    return {tier: Busy(url) for tier, url in urls.items()} if on_cpu else {}


async def _play(
    engines: Engines,
    whole: Sequence[Sequence[Asked]],
    short: Sequence[Sequence[Asked]],
    console: Console,
) -> dict[str, Way]:
    """All ways by name, and both small models asked always."""
    first = [
        Arm(WAYS[0], "frontier", "small", whole),
        Arm(WAYS[1], "frontier", "small", whole),
        Arm(ALONE, "small", "small", whole),
        Arm(TUNED_ALONE, TUNED, TUNED, short),
    ]
    with Progress(console=console, transient=True) as progress:
        turns = sum(map(len, whole))
        bar = progress.add_task("asking", total=turns * (len(first) + len(WAYS) - 2))

        async def part(arms: Sequence[Arm]) -> dict[str, Way]:
            ways = await play(engines, arms, lambda: progress.advance(bar))
            for way in ways:
                console.print(_said(way), highlight=False)
            return {way.name: way for way in ways}

        found = await part(first)
        by_small: dict[str, Mapping[Tier, Way]] = {
            name: {"frontier": found[WAYS[1]], "small": found[name]} for name in BOTH
        }
        auto = [
            Arm(WAYS[2], "auto", "small", whole, by_small[ALONE]),
            Arm(WAYS[3], "auto", "small", short, by_small[ALONE]),
            Arm(WAYS[4], "auto", TUNED, short, by_small[TUNED_ALONE]),
        ]
        return {**found, **await part(auto)}


def _said(way: Way) -> str:
    """As it comes: all of it takes minutes."""
    return (
        f"{way.name}: {way.right} of {way.checked} right, {way.per_task('seconds'):.1f} s of the "
        f"engines, {way.per_task('clock_s'):.1f} s and {way.per_task('fresh'):,.0f} fresh tokens "
        "a task"
    )


async def _load_adapter(model: ModelConfig, url: str) -> None:
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:
        await adapter_for(model.engine).load_adapter(http, url, TUNED, model.adapters[TUNED])


def _size(model: ModelConfig) -> float:
    return float(model.gpus or model.threads or 1)


async def _speed(engines: Engines, tier: Tier) -> Speed:
    """An idle engine's: a prompt cold and again, and four answers at once."""
    url = engines.urls[tier]
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:

        async def ask(text: str, tokens: int) -> Usage:
            body = {
                "model": tier,
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": tokens,
                "min_tokens": tokens,
                "ignore_eos": True,
            }
            async with http.post(url + CHAT, json=body) as answer:
                found = usage_in(await answer.read())
            if found is None:
                raise RuntimeError(f"{url} answered {answer.status} without usage")
            return found

        async def timed(*asked: Awaitable[Usage]) -> tuple[float, Usage]:
            began, before = time.monotonic(), engines.busy_s()
            said = await asyncio.gather(*asked)
            clock_s = time.monotonic() - began
            busy_s = engines.busy_s()[tier] - before[tier] if before else clock_s
            return max(busy_s, LEAST_S), said[-1]

        await ask("the first of everything is slow", 2)
        text = "once and again " + " ".join(WORDS * 12)
        (cold_s, cold), (warm_s, warm) = await timed(ask(text, 1)), await timed(ask(text, 1))
        spoken_s, _ = await timed(*(ask(f"{n} at once", SPOKEN) for n in range(AT_ONCE)))
    return Speed(
        fresh=(cold.prompt_tokens - cold.cached_tokens) / cold_s,
        cached=warm.cached_tokens / warm_s,
        output=AT_ONCE * SPOKEN / spoken_s,
    )
