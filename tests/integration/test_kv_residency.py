"""A front door that listens to its engines knows what they hold, where it could only guess."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router.dispatch import Router
from serving.simulator.server import Simulator
from tests.integration.engines_behaving_badly import Front, front_door, until
from tests.integration.simulated_engines import simulated


@asynccontextmanager
async def door(*, listen: bool = True) -> AsyncIterator[tuple[Front, Simulator]]:
    """A front door over one engine whose cache holds some conversations, not all."""
    knobs = {"kv_events": {"listen": listen}}
    async with simulated("big-0") as (engine, simulator), front_door(engine, router=knobs) as front:
        if listen:
            await until(lambda: front.router.kv.replicas == ["big-0"])
        yield front, simulator


class Talk:
    """One conversation."""

    def __init__(self, name: str) -> None:
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": f"You are {name}."}]

    async def turn(self, front: Front, words: int) -> tuple[int, int]:
        """Tokens that were predicted to be cached, and those that the engine reports."""
        self.messages.append({"role": "user", "content": "word " * words})
        body = {"model": "big", "messages": self.messages, "max_tokens": 20}
        async with front.post(body) as response:
            assert response.status == 200
            answer = await response.json()
            self.messages.append(answer["choices"][0]["message"])
            predicted = int(response.headers["x-warmloop-predicted-cached-tokens"])
            return predicted, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


async def all_heard(router: Router, simulator: Simulator) -> None:
    """What the engine has published has been heard: both know of as many blocks."""
    await until(lambda: router.outside.residency.blocks == simulator.engine.cache.resident_blocks)


async def errors(front: Front, simulator: Simulator, *, listen: bool) -> list[int]:
    """|predicted - reported| for each turn of conversations that drive each other out."""
    dice = random.Random(7)
    talks = [Talk(f"number {i}") for i in range(12)]
    found = []
    for _ in range(120):
        predicted, reported = await dice.choice(talks).turn(front, dice.choice([5, 40, 120]))
        found.append(abs(predicted - reported))
        if listen:
            await all_heard(front.router, simulator)
        if any(sum(len(m["content"]) for m in t.messages) > 6000 for t in talks):
            talks = [Talk(f"again {i} {dice.random()}") for i in range(12)]
    return found


async def test_with_events_predictions_are_exact_to_a_block_and_without_them_they_are_not() -> None:
    async with door() as (front, simulator):
        exact = await errors(front, simulator, listen=True)
    async with door(listen=False) as (front, simulator):
        guessed = await errors(front, simulator, listen=False)
    mean = sum(exact) / len(exact), sum(guessed) / len(guessed)
    print(f"\nmean |predicted - reported|: {mean[0]:.1f} with events, {mean[1]:.1f} without")
    assert mean[0] <= 16
    assert mean[0] < mean[1]


async def test_a_cache_that_was_reset_is_known_to_be_empty() -> None:
    async with door() as (front, simulator):
        talk = Talk("one")
        await talk.turn(front, 100)
        predicted, reported = await talk.turn(front, 5)
        assert predicted > 0
        assert reported > 0
        simulator.engine.cache.clear()
        await all_heard(front.router, simulator)
        assert await talk.turn(front, 5) == (0, 0)


@pytest.mark.parametrize("client", ["mine", "x" * 500])
async def test_a_clients_own_session_header_does_not_disturb(client: str) -> None:
    async with door() as (front, simulator):
        talk = Talk("one")
        body = {"model": "big", "messages": [{"role": "user", "content": "word " * 99}]}
        async with front.post(body, headers={"x-session-id": client}) as response:
            assert response.status == 200
        await all_heard(front.router, simulator)
        await talk.turn(front, 100)
        predicted, reported = await talk.turn(front, 5)
        assert predicted == reported > 0


async def test_an_engine_that_left_is_listened_to_no_more() -> None:
    async with door() as (front, _):
        await Talk("one").turn(front, 100)
        front.table.set()
        await until(lambda: front.router.kv.replicas == [])
        await until(lambda: front.router.outside.residency.blocks == 0)
