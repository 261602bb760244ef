"""Pauses during which others fill the cache: simulated engines hold blocks as a vLLM does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.loop.events import ModelIntent, ModelResult, ModelRouted, Warmed
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from tests.integration.simulated_agents import World, world

SLEEPS = [{"calls": [{"name": "sleep", "arguments": {"seconds": 3600}}]}, {"text": "awake"}]
DIGS = [{"calls": [{"name": "dig", "arguments": {"depth": 1}}]}, {"text": "deep"}]
LONG = "tell me a long story about bells. " * 280
"""More than 2,000 tokens, of 6,400 that the cache takes."""
LIVES_S = 100.0


class Pit:
    """A tool that takes as long as a test wants."""

    def __init__(self) -> None:
        self.digging = asyncio.Event()
        self.ends = asyncio.Event()

        async def dig(depth: int) -> str:
            """Dig."""
            self.digging.set()
            await self.ends.wait()
            return f"dug {depth}"

        self.tool = from_function(dig)


@asynccontextmanager
async def desk(
    *, keep: bool, engines: int = 1, **keep_warm: Any
) -> AsyncIterator[tuple[World, Worker, Pit]]:
    context: dict[str, Any] = {"cache_lives_s": LIVES_S}
    if keep:
        context["keep_warm"] = keep_warm
    config = AgentConfig.model_validate(
        {
            "model": "big",
            "reply_tool": False,
            "tools": ["builtin:sleep"],
            "context": context,
            "limits": {"max_seconds": 1e6, "tool_timeout_s": 1e6},
        }
    )
    pit = Pit()
    made_of = world({"desk": config}, {"desk": [pit.tool]}, engines)
    async with made_of as made, made.running() as worker:
        yield made, worker, pit


async def is_parked(made: World, worker: Worker) -> bool:
    return worker.active == 0 and len(await made.found(ModelResult)) == 1


async def after_a_timer(*, keep: bool) -> tuple[World, list[ModelResult], list[Warmed]]:
    async with desk(keep=keep) as (made, worker, _):
        await made.ask(worker, LONG, SLEEPS)
        await made.until(lambda: is_parked(made, worker), "it waits for its timer")
        for name in ("one", "two", "three"):
            await made.others(2400, name)
        made.clock.advance(3595)
        if keep:
            await made.until(lambda: made.found(Warmed), "the prompt is read again")
        made.clock.advance(5)
        await worker.run("c")
        return made, await made.found(ModelResult), await made.found(Warmed)


async def test_after_a_long_timer_the_turn_finds_its_prompt_which_had_been_driven_out() -> None:
    _, (_, cold), none = await after_a_timer(keep=False)
    made, (_, warm), (touch,) = await after_a_timer(keep=True)
    assert none == []
    assert cold.cached_tokens < 0.1 * cold.prompt_tokens
    assert touch.cached_tokens < 0.1 * touch.prompt_tokens
    assert warm.cached_tokens > 0.97 * warm.prompt_tokens
    assert warm.prompt_tokens == cold.prompt_tokens
    # The engine was asked for nothing but the two turns, three of others, and the touch.
    assert made.simulators[0]._count == 6
    value = made.router.metrics.registry.get_sample_value
    assert value("warmloop_first_token_seconds_count", {"model": "big"}) == 2
    assert value("warmloop_requests_total", {"model": "big", "status": "200"}) == 6


async def test_during_a_long_call_touches_keep_the_prompt_while_others_come_and_go() -> None:
    cached = {}
    for keep in (False, True):
        async with desk(keep=keep, touches=3) as (made, worker, pit):
            await made.ask(worker, LONG, DIGS)
            await pit.digging.wait()
            for number in (1, 2, 3):
                await made.others(2400, f"other {number}")
                made.clock.advance(80)
                if keep:

                    async def touched(count: int = number) -> bool:
                        return len(await made.found(Warmed)) == count

                    await made.until(touched, "it is touched")
            pit.ends.set()
            await worker.run("c")
            _, after = await made.found(ModelResult)
            cached[keep] = after.cached_tokens / after.prompt_tokens
            for touch in await made.found(Warmed):
                assert touch.cached_tokens > 0.9 * touch.prompt_tokens
    assert cached[False] < 0.1
    assert cached[True] > 0.97


async def test_a_touch_goes_to_the_engine_that_has_the_session() -> None:
    for _ in range(3):
        async with desk(keep=True, engines=4) as (made, worker, pit):
            await made.ask(worker, LONG, DIGS)
            await pit.digging.wait()
            made.clock.advance(80)
            await made.until(lambda: made.found(Warmed), "it is touched")
            pit.ends.set()
            await worker.run("c")
            before, after = await made.found(ModelRouted)
            (touch,) = await made.found(Warmed)
            assert before.replica == touch.replica == after.replica
            assert touch.model == "big"
            assert after.predicted_cached_tokens > 2000


async def test_the_prompt_of_the_next_turn_is_what_it_would_be_without() -> None:
    hashes = []
    for keep in (False, True):
        made, _, _ = await after_a_timer(keep=keep)
        hashes.append([intent.prompt_sha256 for intent in await made.found(ModelIntent)])
    assert hashes[0] == hashes[1]


async def test_a_prompt_that_is_being_read_again_gives_way_to_whoever_comes() -> None:
    async with desk(keep=True) as (made, worker, _):
        (engine,) = [each.engine for each in made.simulators]
        await made.ask(worker, LONG, SLEEPS)
        await made.until(lambda: is_parked(made, worker), "it waits for its timer")
        engine.cache.clear()
        fast, slow = engine.config, engine.config.model_copy(update={"prefill_tokens_per_s": 50})
        engine.config = slow  # it would take most of a minute
        made.clock.advance(3595)
        await made.until(lambda: engine.load().running == 1, "the prompt is being read")
        engine.config = fast
        await made.others(20)
        await made.until(lambda: engine.load().running == 0, "the engine is free")
        assert await made.found(Warmed) == []
        made.clock.advance(5)
        await worker.run("c")
        assert len(await made.found(ModelResult)) == 2
        # It is no failure that an alert should ring for.
        value = made.router.metrics.registry.get_sample_value
        assert value("warmloop_requests_total", {"model": "big", "status": "503"}) is None
        assert value("warmloop_requests_total", {"model": "big", "status": "200"}) == 3
