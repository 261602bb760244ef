"""How well does the router know what an engine holds? `python -m benchmarks.warmth`.

    --engine vllm|simulated   vLLM (default) is the 135M model on CPU, some three minutes
    --sessions N  --turns N   --json FILE  --png FILE

Sessions take turns on one engine whose cache holds only some of them, so that each comes back to a
prefix of which an unknown part is gone. For every turn: tokens that the router predicted to be
cached, beside those that the engine reports. The same turns are played four times, from an empty
cache: with the engine's KV events and without, each alone on the engine, and beside a client that
uses the engine directly, of which the router sees nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.harness import show
from benchmarks.harness.run import Run
from benchmarks.harness.stats import percentile
from router.dispatch import Router
from router.turn import TurnRequest
from serving.config import stack_file
from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for, kv_endpoints
from serving.engines.base import EngineSpec
from serving.engines.kv_endpoints import KvEndpoints
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess
from serving.models import weights
from serving.protocol import CHAT
from serving.tables import discovery

STACK = Path(__file__).parents[1] / "configs" / "cpu-small.yaml"
NAME = "small"
BLOCK_TOKENS = 32
BLOCKS = 84
"""2,700 tokens: half of what the sessions together have."""
SIMULATED = {
    "capacity_tokens": BLOCKS * BLOCK_TOKENS,
    "block_tokens": BLOCK_TOKENS,
    "prefill_tokens_per_s": 1e5,
}
DEVELOPER = {"VLLM_SERVER_DEV_MODE": "1"}  # for /reset_prefix_cache
WORDS = [
    "river",
    "mountain",
    "paper",
    "engine",
    "window",
    "garden",
    "letter",
    "number",
    "market",
    "winter",
    "summer",
    "travel",
    "answer",
    "question",
    "morning",
    "evening",
    "station",
    "bridge",
    "harbour",
    "forest",
    "island",
    "village",
    "kitchen",
    "library",
]
SEED = 11
HEARD_S = 0.05
"""Events travel for a moment after an answer; sessions' tools take longer than that."""


@dataclass(frozen=True, slots=True)
class Turn:
    predicted: int
    reported: int
    prompt: int
    before: int
    """Prompt tokens of its session's last turn; 0 for a first one."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to play the workload, and what came of it."""

    events: bool
    beside_others: bool
    turns: tuple[Turn, ...]

    @property
    def name(self) -> str:
        return ("with events" if self.events else "without events") + (
            ", beside others" if self.beside_others else ""
        )

    @property
    def errors(self) -> list[int]:
        return [abs(turn.predicted - turn.reported) for turn in self.turns]

    def figures(self) -> dict[str, float]:
        errors = sorted(self.errors)
        return {
            "turns": len(errors),
            "mean_error_tokens": statistics.fmean(errors),
            "p90_error_tokens": percentile(errors, 0.9),
            "max_error_tokens": float(errors[-1]),
            "within_a_block": sum(e <= BLOCK_TOKENS for e in errors) / len(errors),
            "turns_with_a_part_gone": sum(
                t.reported < t.before - t.before % BLOCK_TOKENS for t in self.turns
            ),
            "mean_reported_tokens": statistics.fmean(t.reported for t in self.turns),
            "mean_prompt_tokens": statistics.fmean(t.prompt for t in self.turns),
        }


@asynccontextmanager
async def engine(kind: str) -> AsyncIterator[tuple[str, KvEndpoints]]:
    """One that publishes what it holds: its URL, and where."""
    if kind == "vllm":
        known = stack_file.load(STACK).models[NAME]
        model = known.model_copy(
            update={
                "context_tokens": 2048,
                "env": DEVELOPER,
                "extra_args": ("--num-gpu-blocks-override", str(BLOCKS)),
            }
        )
        folder = await asyncio.to_thread(
            weights.fetch, NAME, model, progress=weights.PlainProgress()
        )
    else:
        model = ModelConfig.model_validate(
            {"engine": "simulated", "context_tokens": 2048, "simulator": SIMULATED}
        )
        folder = Path()
    spec = EngineSpec(NAME, model, folder, free_port(), kv=kv_endpoints.on("127.0.0.1"))
    with TemporaryDirectory(prefix="warmloop-bench-") as logs:
        async with aiohttp.ClientSession() as http:
            process = EngineProcess(adapter_for(model.engine), http)
            process.start(spec, Path(logs) / "engine.log")
            await process.wait_ready(model.ready_timeout_s)
            assert process.spec.kv is not None
            try:
                yield process.spec.url, process.spec.kv
            finally:
                await process.stop(0)


@asynccontextmanager
async def router(url: str, kv: KvEndpoints, *, listen: bool) -> AsyncIterator[Router]:
    """A front door's router, without the HTTP before it."""
    model = {
        "engine": "external",
        "urls": [url],
        "kv_endpoints": [{"events": kv.events, "replay": kv.replay}],
    }
    stack = StackConfig.model_validate(
        {"models": {NAME: model}, "router": {"kv_events": {"listen": listen}}}
    )
    table = discovery.StaticTable(stack)
    await table.poll()
    made = Router(stack, table, sink=lambda _: None)
    await made.start()
    try:
        while listen and not made.kv.replicas:  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.01)
        yield made
    finally:
        await made.stop()


async def turn(made: Router, session: str, messages: list[dict[str, str]], before: int) -> Turn:
    """One turn; the answer is added to the messages."""
    body = {"model": NAME, "messages": messages, "max_tokens": 24, "temperature": 0}
    asked = TurnRequest(CHAT, json.dumps(body).encode(), "bench", {"x-session-id": session})
    async with made.open(asked) as answer:
        said: dict[str, Any] = json.loads(b"".join([c async for c in answer.chunks()]))
        assert answer.status == 200, said
        messages.append({"role": "assistant", "content": said["choices"][0]["message"]["content"]})
        usage = said["usage"]
        return Turn(
            answer.decision.predicted_cached_tokens,
            usage["prompt_tokens_details"]["cached_tokens"],
            usage["prompt_tokens"],
            before,
        )


async def play(
    http: aiohttp.ClientSession, url: str, kv: KvEndpoints, arm: tuple[bool, bool], size: Size
) -> Arm:
    """The workload once, from an empty cache. Both arms of a pair see the same turns."""
    events, others = arm
    async with http.post(f"{url}/reset_prefix_cache") as answer:
        answer.raise_for_status()
    dice = random.Random(SEED)
    talks: list[list[dict[str, str]]] = [[] for _ in range(size.sessions)]
    turns: list[Turn] = []
    before: dict[str, int] = {}
    async with router(url, kv, listen=events) as made:
        for number in range(size.turns):
            # Recent sessions come back soonest, as agents do; any may come back.
            at = min(int(dice.expovariate(2 / size.sessions)), size.sessions - 1)
            talks.insert(0, talks.pop(at))
            messages = talks[0]
            name = messages[0]["content"] if messages else f"You are agent {number}."
            if not messages:
                messages.append({"role": "system", "content": name})
            words = dice.randint(20, 90)
            messages.append({"role": "user", "content": " ".join(dice.choices(WORDS, k=words))})
            turns.append(await turn(made, name, messages, before.get(name, 0)))
            before[name] = turns[-1].prompt
            if turns[-1].prompt > 1600:
                messages.clear()
            if others and number % 3 == 0:
                text = " ".join(dice.choices(WORDS, k=250))
                body = {"model": NAME, "prompt": text, "max_tokens": 1}
                async with http.post(f"{url}/v1/completions", json=body) as answer:
                    answer.raise_for_status()
                    await answer.read()
            await asyncio.sleep(HEARD_S)
    return Arm(events, others, tuple(turns))


@dataclass(frozen=True, slots=True)
class Size:
    sessions: int
    turns: int


def table(arms: Sequence[Arm]) -> Table:
    rows = []
    for arm in arms:
        f = arm.figures()
        row = (
            arm.name,
            f"{f['mean_error_tokens']:.1f}",
            f"{f['p90_error_tokens']:.0f}",
            f"{f['max_error_tokens']:.0f}",
            f"{f['within_a_block']:.0%}",
            f"{f['turns_with_a_part_gone']:.0f} turns",
            f"{f['mean_reported_tokens']:.0f}",
            f"{f['mean_prompt_tokens']:.0f}",
        )
        rows.append(row)
    columns = ("", "mean", "p90", "max", "within a block", "part gone", "reported", "of prompt")
    return show.table("|predicted - reported| cached tokens", columns, rows)


def picture(arms: Sequence[Arm], path: Path) -> None:
    """Predicted over reported, one panel an arm: what is known exactly lies on the line."""
    most = max(max(t.predicted, t.reported) for arm in arms for t in arm.turns) + 50
    size = (3.4 * len(arms), 3.6)
    with show.picture(path, 1, len(arms), size=size, share_y=True, dpi=110) as panels:
        for panel, arm in zip(panels, arms, strict=True):
            panel.plot([0, most], [0, most], color="tab:gray", linewidth=0.8)
            colour = "tab:green" if arm.events else "tab:orange"
            reported = [turn.reported for turn in arm.turns]
            panel.scatter(reported, [turn.predicted for turn in arm.turns], s=9, color=colour)
            mean = arm.figures()["mean_error_tokens"]
            panel.set_title(f"{arm.name}\nmean error {mean:.1f} tokens", fontsize=9)
            panel.set_xlabel("reported")
        panels[0].set_ylabel("predicted cached tokens")


async def measured(kind: str, size: Size, console: Console) -> list[Arm]:
    arms = []
    async with engine(kind) as (url, kv), aiohttp.ClientSession() as http:
        for others in (False, True):
            for events in (True, False):
                arms.append(await play(http, url, kv, (events, others), size))
                console.print(f"{arms[-1].name}: {len(arms[-1].turns)} turns", highlight=False)
    return arms


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("vllm", "simulated"), default="vllm")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--png", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    console, run = Console(width=110), Run("warmth", options)
    size = Size(options.sessions, options.turns)
    arms = asyncio.run(measured(options.engine, size, console))
    console.print(table(arms))
    if options.json:
        run.write(options.json, {arm.name: arm.figures() for arm in arms})
    if options.png:
        picture(arms, options.png)
    # With events the error is what rounding to blocks, and an answer's own tokens, leave.
    worse = [a for a, b in zip(arms[::2], arms[1::2], strict=True) if _mean(a) > _mean(b)]
    return 1 if worse else 0


def _mean(arm: Arm) -> float:
    return arm.figures()["mean_error_tokens"]


if __name__ == "__main__":
    sys.exit(main())
