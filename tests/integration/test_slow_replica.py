"""A replica that computes much slower than its peer is found by its rate, over real HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import Any

from serving.config.model import SimulatorConfig
from tests.integration.engines_behaving_badly import Front, front_door
from tests.integration.simulated_engines import simulated

FAST = SimulatorConfig(prefill_tokens_per_s=8000, decode_tokens_per_s=5000)
SLOW = SimulatorConfig(prefill_tokens_per_s=1600, decode_tokens_per_s=5000)
PATIENCE_S = 120.0


async def turn(front: Front) -> str:
    """A new session's prompt of a thousand tokens; the replica that answered."""
    content = secrets.token_hex(2000)
    body = {
        "model": "big",
        "stream": True,
        "max_tokens": 2,
        "messages": [{"role": "user", "content": content}],
    }
    async with front.post(body) as answer:
        assert answer.status == 200
        assert b"[DONE]" in await answer.read()
        return str(answer.headers["x-warmloop-replica"])


async def conditions(front: Front) -> dict[str, Any]:
    """What `/health` says of each replica's breaker."""
    async with front.get("/health") as answer:
        engines = (await answer.json())["engines"]
    return {each["replica"]: each["breaker"] for each in engines}


async def test_a_replica_five_times_slower_is_found_and_gets_one_turn_at_a_time() -> None:
    knobs = {"failure": {"slow_factor": 3.0, "slow_samples": 4}}
    async with (
        simulated("big-fast", FAST) as (fast, _),
        simulated("big-slow", SLOW) as (slow, simulator),
        front_door(fast, slow, router=knobs) as front,
    ):
        async with asyncio.timeout(PATIENCE_S):
            while (await conditions(front))["big-slow"] != "slow":
                await asyncio.gather(*(turn(front) for _ in range(8)))
        assert (await conditions(front))["big-fast"] == "closed"

        most = 0
        ended = asyncio.Event()

        async def watch() -> None:
            nonlocal most
            while not ended.is_set():
                most = max(most, simulator.engine.load().running + simulator.engine.load().waiting)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        went = Counter(await asyncio.gather(*(turn(front) for _ in range(40))))
        ended.set()
        await watching
        assert most <= 1
        assert went["big-fast"] > 2 * went["big-slow"]
