"""One tenant floods: what do the others notice? In virtual time, with the real scheduler.

    python -m benchmarks.fairness [--quick] [--out FOLDER]

    calm      every tenant sends its usual turns
    flood     one of them sends 50 times as many, far more than the replicas can compute
    unnamed   the same flood, but all are one tenant to the router: what it is worth to tell apart
    weights   two tenants flood, one with twice the weight: who gets which share of the tokens

The bar is for replicas that are half busy on a calm day. The light day (a quarter busy) is shown
beside it: there hardly anybody waits without the flood, so that the one prefill of somebody else
which an engine is always busy with, and which nothing can interrupt, is much by comparison.

The engines are simulated; parser, identity and scheduler are those of a front door. Several seeds,
pooled. Prints a table, and writes fairness.json and fairness.png.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude, out_folder
from benchmarks.harness.show import console as console_of
from benchmarks.harness.show import picture, table
from benchmarks.harness.stats import percentile
from benchmarks.routing_world import MODEL, World
from benchmarks.virtual_time import in_virtual_time
from router.placing.health import Health
from router.placing.scheduler import Claim, Scheduler
from router.tenancy.tenants import OPEN, Tenant
from router.turn import TurnRequest
from serving.config.front import FrontConfig
from serving.config.model import SimulatorConfig
from serving.config.router import RouterConfig
from serving.errors import RequestError
from serving.protocol import CHAT, Usage, parse
from serving.simulator.cache import BYTES_PER_TOKEN
from serving.simulator.engine import Job

BAR = 1.5
FLOOD = 50
REPLICAS = 2
QUIET = ("ann", "ben", "cleo", "dan")
FLOODER = "flooder"
BLOCK_TOKENS = 16
ENGINE = SimulatorConfig(
    prefill_tokens_per_s=8000,
    decode_tokens_per_s=60,
    capacity_tokens=300_000,
    block_tokens=BLOCK_TOKENS,
)
TURNS, FIRST_TOKENS, MORE_TOKENS, OUTPUT_TOKENS = 4, (2000, 6000), (200, 2000), (50, 300)
"""A session: its turns, the first one's prompt, what each later one adds, each answer."""
THINK_S = 5.0
LIGHT_PER_S = 0.1
USUAL_PER_S = 0.2
"""Sessions of one tenant: all together half of what the replicas can compute."""


@dataclass
class Tally:
    """What came of the turns of each tenant."""

    ttfts_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Computed and generated."""
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, other: Tally) -> None:
        for name, values in other.ttfts_s.items():
            self.ttfts_s[name] += values
        for name, count in other.tokens.items():
            self.tokens[name] += count
        for name, count in other.refused.items():
            self.refused[name] += count


class Fleet:
    """Replicas, the scheduler of one front door, and tenants that send turns for a while."""

    def __init__(self, tenants: dict[str, Tenant], seconds: float) -> None:
        self.world = World(REPLICAS, ENGINE)
        self.tenants = tenants
        self.tally = Tally()
        self.until_s = seconds
        knobs = RouterConfig()
        health = Health(knobs.eject_s, self.world.now)
        self.scheduler = Scheduler(
            knobs,
            FrontConfig().max_inflight,
            lambda _: self.world.table(),
            health,
            self.world.now,
            replicas=lambda: [engine.replica for engine in self.world.table()],
        )

    async def play(self, sessions_per_s: dict[str, float], seed: int) -> Tally:
        """All tenants' sessions for the whole time; what runs then is dropped."""
        tasks: list[asyncio.Task[None]] = []
        for name, rate in sessions_per_s.items():
            # Each tenant's own, so that the others' turns are the same with a flood and without.
            chance = random.Random(f"{seed} {name}")
            at, number = chance.expovariate(rate), 0
            while at < self.until_s:
                own = random.Random(f"{seed} {name} {number}")
                tasks.append(asyncio.create_task(self._session(name, f"{name}-{number}", at, own)))
                at, number = at + chance.expovariate(rate), number + 1
        await asyncio.sleep(self.until_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self.tally

    async def _session(self, name: str, key: str, at: float, chance: random.Random) -> None:
        await asyncio.sleep(at)
        messages = [(f"{key} begins", chance.randint(*FIRST_TOKENS))]
        for turn in range(TURNS):
            output = chance.randint(*OUTPUT_TOKENS)
            try:
                await self._turn(name, key, messages, output)
            except RequestError:
                self.tally.refused[name] += 1
                return
            more = chance.randint(*MORE_TOKENS)
            messages += [(f"{key} says {turn}", output), (f"{key} goes on {turn}", more)]
            await asyncio.sleep(chance.expovariate(1 / THINK_S))

    async def _turn(
        self, name: str, key: str, messages: list[tuple[str, int]], output: int
    ) -> None:
        arrived_s = self.world.now()
        body = json.dumps(
            {
                "model": MODEL,
                "messages": [
                    {"role": "user", "content": text.ljust(tokens * BYTES_PER_TOKEN - 30, ".")}
                    for text, tokens in messages
                ],
            }
        ).encode()
        prompt = sum(tokens for _, tokens in messages)
        tenant = self.tenants[name]
        turn = TurnRequest(CHAT, body, "bench", {}, tenant=tenant)
        scheduler = self.scheduler
        identity = scheduler.sessions.identify(turn, parse(CHAT, body))
        claim = Claim(MODEL, identity.on(MODEL), len(body), tenant, streams=True)
        blocks = [b"%b %d" % (key.encode(), i) for i in range(prompt // BLOCK_TOKENS)]
        with scheduler.enter(claim) as slot:
            placed = await slot.place()
            assert placed is not None
            engine = self.world.engines[int(placed.engine.replica.rpartition("-")[2])]
            async with engine.run(Job(blocks, prompt, output)) as running:
                slot.began()
                self.tally.ttfts_s[name].append(self.world.now() - arrived_s)
                cached = running.cached_tokens
                self.tally.tokens[name] += prompt - cached
                await running.decode(output)
            self.tally.tokens[name] += output
            slot.ended(Usage(prompt, cached, output))


def played(
    tenants: dict[str, Tenant], rates: dict[str, float], seconds: float, seeds: int
) -> Tally:
    """All seeds together."""
    total = Tally()
    for seed in range(seeds):

        async def one(seed: int = seed) -> Tally:
            return await Fleet(tenants, seconds).play(rates, seed)

        total.add(in_virtual_time(one()))
    return total


def measure(seconds: float, seeds: int) -> dict[str, Any]:
    """All four plays, as they go into the JSON file."""
    named = {name: Tenant(name, salt=f"salt of {name}") for name in (*QUIET, FLOODER)}
    unnamed = dict.fromkeys(named, OPEN)
    plays = {}
    for day, rate in (("", USUAL_PER_S), ("light ", LIGHT_PER_S)):
        usual = dict.fromkeys(named, rate)
        flood = {**usual, FLOODER: rate * FLOOD}
        plays[f"{day}calm"] = played(named, usual, seconds, seeds)
        plays[f"{day}flood"] = played(named, flood, seconds, seeds)
        if not day:
            plays["unnamed"] = played(unnamed, flood, seconds, seeds)
    rows = {name: _row(tally) for name, tally in plays.items()}
    heavy = {"two": Tenant("two", 2.0, "salt of two"), "one": Tenant("one", 1.0, "salt of one")}
    both = played(heavy, dict.fromkeys(heavy, LIGHT_PER_S * FLOOD), seconds, seeds)
    return {
        "plays": rows,
        "p99_ratio": rows["flood"]["p99_s"] / rows["calm"]["p99_s"],
        "p99_ratio_light": rows["light flood"]["p99_s"] / rows["light calm"]["p99_s"],
        "weights": {"2:1 of tokens": both.tokens["two"] / both.tokens["one"]},
        "seconds": seconds,
        "seeds": seeds,
    }


def _row(tally: Tally) -> dict[str, Any]:
    quiet = [value for name in QUIET for value in tally.ttfts_s[name]]
    return {
        "turns": len(quiet),
        "mean_s": sum(quiet) / len(quiet),
        "p50_s": percentile(quiet, 0.5),
        "p99_s": percentile(quiet, 0.99),
        "refused": sum(tally.refused[name] for name in QUIET),
        "flooder_turns": len(tally.ttfts_s[FLOODER]),
        "flooder_p99_s": percentile(tally.ttfts_s[FLOODER], 0.99),
        "flooder_refused": tally.refused[FLOODER],
        "by_tenant_p99_s": {name: percentile(tally.ttfts_s[name], 0.99) for name in QUIET},
    }


def show(console: Console, found: dict[str, Any]) -> None:
    rows = [
        (
            name,
            f"{row['turns']:,}",
            *(f"{row[field]:.2f} s" for field in ("mean_s", "p50_s", "p99_s")),
            f"{row['refused']:,}",
            f"{row['flooder_turns']:,}",
            f"{row['flooder_p99_s']:.2f} s",
            f"{row['flooder_refused']:,}",
        )
        for name, row in found["plays"].items()
    ]
    columns = ("", "turns", "mean", "p50", "p99", "refused", "flooder: turns", "p99", "refused")
    console.print(table("Time to first token of the quiet tenants", columns, rows))
    console.print(f"p99 on a light day, with the flood ÷ without: {found['p99_ratio_light']:.2f}")
    console.print(f"weights 2:1 get tokens {found['weights']['2:1 of tokens']:.2f}:1")


def plot(found: dict[str, Any], path: Path) -> None:
    """p99 of the quiet tenants in each play."""
    plays = found["plays"]
    title = f"One tenant sends {FLOOD} times its turns"
    with picture(path, 1, 1, size=(6, 3.5), title=title) as (panel,):
        panel.bar([*plays], [row["p99_s"] for row in plays.values()])
        panel.set_yscale("log")
        panel.set_ylabel("p99 TTFT of the quiet tenants, s")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one seed, two minutes of time")
    parser.add_argument("--out", type=out_folder, default=Path("out"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console, run = console_of(110), Run("fairness", options)
    found = measure(120.0, 1) if options.quick else measure(600.0, 5)
    show(console, found)
    bars = [Bar("quiet tenants' p99, with the flood ÷ without", found["p99_ratio"], BAR)]
    run.write(options.out / "fairness.json", found, bars)
    plot(found, options.out / "fairness.png")
    return conclude(console, bars, options.out)


if __name__ == "__main__":
    sys.exit(main())
