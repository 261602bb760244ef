"""Gateway benchmark, a shared head: do conversations that say no id stay with their engine?

Every conversation begins with the same 8 KB system prompt and grows by a message each way a turn,
as from a fleet of clients of one agent; 32 talk at a time, over four engines that think for 20 ms.
Counted: turns that went to the engine of the conversation's turn before, and how much more than the
mean the busiest engine got. A router that follows the shared head alone piles all on one engine,
one that ignores prefixes scatters them.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass

from benchmarks import gateway_client as clients
from benchmarks.gateway_doors import Door

ENGINES = 4
THINK_S = 0.02
HEAD_BYTES = 8192
CONVERSATIONS = 256
AT_ONCE = 32
TURNS = 6


@dataclass(frozen=True)
class Stay:
    """Shares of all turns of one door's run."""

    stayed: float
    """Of the turns that had one before: those that went to the same engine."""
    busiest_over_mean: float
    turns_by_engine: dict[str, int]


async def measure(door: Door, seed: int = 7) -> Stay:
    head = {"role": "system", "content": "The quick brown fox jumps. " * (HEAD_BYTES // 27)}
    pause = random.Random(seed)
    turns: Counter[str] = Counter()
    stayed = 0
    waiting = iter(range(CONVERSATIONS))

    async def talk(client: clients.Client, number: int) -> None:
        nonlocal stayed
        messages: list[object] = [head]
        before = ""
        for turn in range(TURNS):
            messages.append({"role": "user", "content": f"conversation {number}, turn {turn}"})
            answer = await client.request(clients.chat_request(door.model, messages))
            if answer.status != 200:
                raise SystemExit(f"{door.name} answered {answer.status}: {answer.body[:500]!r}")
            said = json.loads(answer.body)
            engine = str(said["system_fingerprint"])
            turns[engine] += 1
            stayed += engine == before
            before = engine
            messages.append(said["choices"][0]["message"])
            await asyncio.sleep(pause.uniform(0, THINK_S))

    async def work() -> None:
        client = await clients.connect(door.port)
        for number in waiting:
            await talk(client, number)
        client.close()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return Stay(
        stayed=stayed / (CONVERSATIONS * (TURNS - 1)),
        busiest_over_mean=max(turns.values()) / (CONVERSATIONS * TURNS / ENGINES),
        turns_by_engine=dict(sorted(turns.items())),
    )
