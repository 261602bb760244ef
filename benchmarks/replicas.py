"""Two real replicas on one small machine: `python -m benchmarks.replicas [--json F] [--png F]`.

Two vLLM engines of the 135M model, a thread each, behind the real front door. Agents with tool
pauses and prompts that grow (`replicas_load`) are played through four policies, in rounds that
alternate, and told by the engines' own prefix-cache counters and the clients' first tokens.

Then the same sessions, with the token counts that the engines reported, through the simulation
(`routing_world`), with prefill and decode rates measured on the spot. The two rankings must agree
wherever the real difference is larger than noise; a pair that does not is printed, and the command
ends with 1. The KV cache is small enough that a session on both replicas pushes others out.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from benchmarks import replicas_load as load
from benchmarks.engines import PATIENCE, engine, model_of
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, conclude
from benchmarks.harness.stats import by_turns
from benchmarks.replicas_load import FLEET, Client, Played, Rates, Shape
from benchmarks.replicas_report import (
    NOISE,
    Figures,
    disagreements,
    figures_of,
    picture,
    ranking,
    table,
)
from benchmarks.routing_ours import Bodies
from benchmarks.routing_scenarios import POLICIES
from benchmarks.routing_synthetic import Numbers
from benchmarks.routing_workload import Message, Recorder, Workload
from benchmarks.routing_world import Outcome, Plan, Stage, World
from benchmarks.virtual_time import in_virtual_time
from router.dispatch import Router
from router.http import api, server
from router.peers.memory import Room
from serving.config.model import ModelConfig, SimulatorConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for
from serving.engines.ports import free_port
from serving.tables import discovery

STACK = Path("configs/cpu-small.yaml")
MODEL = "small"
BLOCK_TOKENS = 32
PLAYED = ("round-robin", "least-loaded", "sticky", "ours")
USUAL = Shape()


class Chooser:
    """The policies that are played from the client's side."""

    def __init__(self, policy: str, replicas: Sequence[str]) -> None:
        self._policy = policy
        self._replicas = replicas
        self._next = 0
        self._home: dict[str, str] = {}
        self._inflight = dict.fromkeys([*replicas, FLEET], 0)

    def choose(self, session: str) -> str:
        chosen = self._chosen(session)
        self._inflight[chosen] += 1
        return chosen

    def left(self, session: str, name: str) -> None:
        self._inflight[name] -= 1

    def _chosen(self, session: str) -> str:
        if self._policy == "ours":
            return FLEET
        if self._policy == "round-robin":
            self._next += 1
            return self._replicas[self._next % len(self._replicas)]
        least = min(self._replicas, key=lambda name: self._inflight[name])
        return self._home.setdefault(session, least) if self._policy == "sticky" else least


@asynccontextmanager
async def front_door(model: ModelConfig, urls: Sequence[str]) -> AsyncIterator[str]:
    """The real front door over both engines: as one model, and each by itself."""
    sections = {FLEET: tuple(urls)} | {f"replica-{i}": (url,) for i, url in enumerate(urls)}
    port = free_port()
    stack = StackConfig.model_validate(
        {
            "models": {
                name: {"engine": "external", "tier": model.tier, "urls": u, "served_name": MODEL}
                for name, u in sections.items()
            },
            "front": {"port": port},
        }
    )
    table = discovery.StaticTable(stack)
    await table.poll()
    await table.start()
    router = Router(stack, table, sink=lambda _: None)
    await router.start()
    serving = server.server(api.build(router), stack.front, timeout_keep_alive=900)
    task = asyncio.create_task(serving.serve())
    try:
        while not serving.started:  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        serving.should_exit = True
        await task
        await router.stop()
        await table.stop()


class Bench:
    """Real runs, and what is needed to simulate them."""

    def __init__(self, http: aiohttp.ClientSession, door: str, urls: Sequence[str]) -> None:
        self.http = http
        self.door = door
        self.urls = urls
        self.played: dict[str, list[Played]] = {}
        self.counted: dict[str, list[float]] = {}

    async def run(self, policy: str, number: int, shape: Shape) -> None:
        chooser = Chooser(policy, [f"replica-{i}" for i in range(len(self.urls))])
        before = await self._counters()
        client = Client(self.http, self.door, shape, f"run{number}")
        self.played.setdefault(policy, []).append(await client.play(chooser.choose, chooser.left))
        queried, hit = (a - b for a, b in zip(await self._counters(), before, strict=True))
        self.counted.setdefault(policy, []).append(hit / queried)

    async def _counters(self) -> tuple[int, int]:
        """Tokens looked for and found in both engines' prefix caches."""
        adapter = adapter_for("vllm")
        loads = [await adapter.load(self.http, url) for url in self.urls]
        return sum(at.queried_tokens for at in loads), sum(at.hit_tokens for at in loads)

    def figures(self, policy: str) -> Figures:
        runs = self.played[policy]
        return figures_of(
            policy,
            statistics.mean(self.counted[policy]),
            [seen.ttft_s for run in runs for seen in run.turns],
            [s for run in runs for s in run.session_s],
            statistics.mean(run.makespan_s for run in runs),
        )


def as_workload(played: Played) -> Workload:
    """The sessions of a real run, by the token counts that the engines reported."""
    by_session: dict[int, list[load.Seen]] = {}
    for seen in sorted(played.turns, key=lambda s: (s.session, s.turn)):
        by_session.setdefault(seen.session, []).append(seen)
    numbers = Numbers(BLOCK_TOKENS)
    # What all sessions have in common is found in the first turns after the first.
    head = max((s.cached_tokens for s in played.turns if s.turn == 0), default=0)
    shared = [numbers.take() for _ in range(head // BLOCK_TOKENS)]
    sessions = []
    for index, turns in by_session.items():
        recorder = Recorder(f"session-{index}", BLOCK_TOKENS)
        turn = recorder.program(Message("head", head) if head else None)
        blocks = list(shared)
        for seen in turns:
            while (len(blocks) + 1) * BLOCK_TOKENS <= seen.prompt_tokens:
                blocks.append(numbers.take())
            turn(seen.pause_s, seen.prompt_tokens, seen.output_tokens, list(blocks))
        sessions.append(recorder.session())
    return Workload("as it was played", tuple(sessions), BLOCK_TOKENS)


def simulate(
    policy: str, workload: Workload, rates: Rates, capacity_tokens: int, shape: Shape
) -> Figures:
    """The same sessions in virtual time."""
    config = SimulatorConfig(
        prefill_tokens_per_s=rates.prefill_tokens_per_s,
        decode_tokens_per_s=rates.decode_tokens_per_s,
        capacity_tokens=capacity_tokens,
        block_tokens=workload.block_tokens,
    )

    async def play() -> Outcome:
        world = World(2, config, max_running=shape.sessions)
        door = POLICIES[policy](world, Bodies(workload.block_tokens), Room())
        plan = Plan(live=shape.sessions, spread_s=shape.spread_s)
        return await Stage(workload, world, [door], plan).play()

    outcome = in_virtual_time(play())
    prompts = sum(t.prompt_tokens for s in workload.sessions for t in s.turns)
    hits = outcome.hit_tokens / prompts
    return figures_of(policy, hits, outcome.ttfts_s, outcome.session_s, outcome.makespan_s)


async def measure(options: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    """All real runs."""
    model = replace_model(model_of(STACK, MODEL), options.kv_gib)
    shape = Shape(sessions=options.sessions, turns=options.turns)
    async with (
        engine(MODEL, model) as first,
        engine(MODEL, model) as second,
        aiohttp.ClientSession(timeout=PATIENCE) as http,
        front_door(model, (first, second)) as door,
    ):
        urls = (first, second)
        facts = await adapter_for("vllm").facts(http, first)
        rates = await load.rates(http, first, MODEL, max(1, shape.sessions // 2))
        await load.rates(http, second, MODEL, 1)  # warm: the first of everything is slow
        console.print(
            f"a replica: {rates.prefill_tokens_per_s:,.0f} prompt tokens/s, "
            f"{rates.decode_tokens_per_s:,.0f} tokens/s a sequence, "
            f"KV for {facts.capacity_tokens:,} tokens",
            highlight=False,
        )
        bench = Bench(http, door, urls)
        for number, (i, policy) in enumerate(by_turns(options.rounds, PLAYED), 1):
            await bench.run(policy, number, shape)
            played = bench.played[policy][-1]
            console.print(f"round {i + 1} {policy}: {played.makespan_s:.0f} s")
    real = [bench.figures(policy) for policy in PLAYED]
    return {
        "shape": shape,
        "rates": rates,
        "capacity_tokens": facts.capacity_tokens,
        "real": real,
        "workload": as_workload(bench.played["sticky"][0]),
    }


def replace_model(model: ModelConfig, kv_gib: float) -> ModelConfig:
    """The model with the KV cache of the benchmark."""
    return model.model_copy(update={"kv_cache_gib": kv_gib})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=USUAL.sessions)
    parser.add_argument("--turns", type=int, default=USUAL.turns)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kv-gib", type=float, default=0.2, help="KV cache of each replica")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--png", type=Path, metavar="FILE")
    options = parser.parse_args()
    console, run = Console(width=120), Run("replicas", options)
    found = asyncio.run(measure(options, console))
    real, rates, shape = found["real"], found["rates"], found["shape"]
    simulated = [
        simulate(policy, found["workload"], rates, found["capacity_tokens"], shape)
        for policy in PLAYED
    ]
    console.print(table(f"real: {shape.sessions} sessions of {shape.turns} turns", real))
    console.print(table("the same sessions, simulated", simulated))
    console.print(f"by mean TTFT, real:      {ranking(real)}", highlight=False)
    console.print(f"by mean TTFT, simulated: {ranking(simulated)}", highlight=False)
    wrong = disagreements(real, simulated)
    for line in wrong:
        console.print(f"DIFFERS  {line}", style="bold red", highlight=False)
    told = f"pairs of policies that rank the other way round (beyond {NOISE:.0%})"
    bars = [Bar(told, len(wrong), 0)]
    if options.json:
        figures = {
            "rates": rates,
            "shape": shape,
            "capacity_tokens": found["capacity_tokens"],
            "real": real,
            "simulated": simulated,
            "disagreements": wrong,
        }
        run.write(options.json, figures, bars)
    if options.png:
        picture(real, simulated, options.png)
    return conclude(console, bars)


if __name__ == "__main__":
    sys.exit(main())
