"""What does keeping a prompt warm save the turn after a pause? `python -m benchmarks.keep_warm`.

    --engine vllm|simulated   vLLM (default) is the 135M model on CPU, some two minutes a round
    --rounds N  --json FILE

An agent makes a call that takes 24 seconds. Meanwhile others ask the same engine, whose cache
holds less than all of them. Four arms, by turns: the call is a timer, or a tool of which nobody
knows how long it takes; and `keep_warm` is off, or on. Of the turn after the pause: seconds to its
first token as the router sees them, and how much of its prompt was cached. Others' turns are timed
too: a touch must not be in their way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import engines
from benchmarks.harness import show
from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run
from benchmarks.harness.stats import Interval, by_turns, interval, paired
from benchmarks.warmth import WORDS
from orchestrator.agents import Agents, resolve
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import ConversationStarted, ModelResult, ResponseAccepted, Warmed
from orchestrator.loop.machine import fold_all
from orchestrator.model import RouterModel
from orchestrator.tools.base import Later, ToolContext, tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.turn_outcomes import turn_id
from orchestrator.worker.worker import Worker
from router.dispatch import Router
from router.turn import TurnRequest
from serving.config.agent import AgentConfig
from serving.config.model import ModelConfig, Prices
from serving.config.stack import StackConfig
from serving.protocol import CHAT
from serving.tables.static_table import StaticTable

STACK = Path(__file__).parents[1] / "configs" / "cpu-small.yaml"
NAME = "small"
PRICES = Prices(fresh=0.10, cached=0.01, output=0.40)
BLOCK_TOKENS, BLOCKS = 32, 128
SIMULATED = {
    "capacity_tokens": BLOCK_TOKENS * BLOCKS,
    "block_tokens": BLOCK_TOKENS,
    "prefill_tokens_per_s": 1200,
    "decode_tokens_per_s": 50,
}
CONTEXT_TOKENS = 3584
PAUSE_S = 24.0
LIVES_S = 8.0
OTHERS_AT_S = (0.5, 3.0, 8.5, 11.0, 15.0)
"""When somebody else asks. All of them need more than the cache has, those between two touches do
not, and each leaves time for the next touch where it takes three seconds."""
SESSION_TOKENS, OTHERS_TOKENS = 1500, 1000
TOKENS_PER_WORD = {"vllm": 1.05, "simulated": 1.9}
ANSWER_TOKENS = 64
KEEP: dict[str, dict[str, Any]] = {
    # One touch would not bridge it: the prompt is read again before the end.
    "timer": {"touches": 1, "ahead_s": 5.0},
    "tool": {"touches": 3},
}
ARMS = tuple((pause, keeps) for pause in KEEP for keeps in (False, True))
SEED = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One pause, and the turn after it."""

    pause: str
    keeps: bool
    first_token_s: float
    prompt_tokens: int
    cached_tokens: int
    touches: int
    touches_cached_tokens: int
    cost_usd: float
    others_s: float
    """The mean of others' whole turns meanwhile."""


class Records:
    """The router's log, by request."""

    def __init__(self) -> None:
        self.by_id: dict[str, dict[str, Any]] = {}

    def __call__(self, line: bytes) -> None:
        record = json.loads(line)
        self.by_id[record["request_id"]] = record


@tool(kind="pure")
async def timer(context: ToolContext) -> Later:
    """Wait for a while."""
    return Later(context.at + PAUSE_S, "the time has come")


@tool(kind="pure")
async def work() -> str:
    """Do something that takes long."""
    await asyncio.sleep(PAUSE_S)
    return "done"


TOOLS = {"timer": "timer", "tool": "work"}


def agents() -> Agents:
    made = []
    for pause, keeps in ARMS:
        keep = {"keep_warm": {"least_tokens": 256, **KEEP[pause]}} if keeps else {}
        config = AgentConfig.model_validate(
            {
                "model": NAME,
                "reply_tool": False,
                "instructions": "You are patient.",
                "max_output_tokens": ANSWER_TOKENS,
                "context": {"cache_lives_s": LIVES_S, **keep},
            }
        )
        tools = [from_function(timer), from_function(work)]
        made.append(resolve(_name(pause, keeps=keeps), config, tools))
    return Agents(made)


def _name(pause: str, *, keeps: bool) -> str:
    return f"{pause}-{'kept' if keeps else 'cold'}"


@dataclass(frozen=True, slots=True)
class Bench:
    """One engine, our router before it, a worker before that."""

    router: Router
    worker: Worker
    journal: MemoryJournal
    records: Records
    dice: random.Random
    tokens_per_word: float

    def text(self, tokens: int) -> str:
        return " ".join(self.dice.choices(WORDS, k=int(tokens / self.tokens_per_word)))

    async def sample(self, number: int, pause: str, *, keeps: bool) -> Sample:
        """One conversation: a call, a pause, an answer."""
        response = f"r-{number}-{_name(pause, keeps=keeps)}"
        choice = {"type": "function", "name": TOOLS[pause]}
        request = {"tool_choice": choice}
        said = f"{response}: {self.text(SESSION_TOKENS)}"
        items = [{"role": "user", "content": said}]
        accepted = ResponseAccepted(response, time.time(), items, request)
        start = ConversationStarted(f"{_name(pause, keeps=keeps)}@1", accepted.at)
        await self.worker.accept(response, accepted, start=start)
        while not await self._events(response, ModelResult):  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.02)
        now = asyncio.get_running_loop().time
        began, took = now(), []
        for at in OTHERS_AT_S:
            await asyncio.sleep(began + at - now())
            took.append(await self._other(f"{response}-other-{at}"))
        while not await self._is_answered(response):  # noqa: ASYNC110  nor this
            await asyncio.sleep(0.05)
        await self.worker.cancel(response)  # small models would go on calling
        # What comes after is another pause, with nobody beside it.
        results = (await self._events(response, ModelResult))[:2]
        touches = [each for each in await self._events(response, Warmed) if each.step == 1]
        record = self.records.by_id[turn_id(response, 2, 1)]
        return Sample(
            pause,
            keeps,
            record["first_byte_s"],
            record["prompt_tokens"],
            record["cached_tokens"],
            len(touches),
            sum(each.cached_tokens for each in touches),
            sum(each.cost_usd for each in (*results, *touches)),
            statistics.fmean(took),
        )

    async def _is_answered(self, conversation: str) -> bool:
        """Is there a second turn, or will there be none?"""
        state = fold_all(await self.journal.read(conversation))
        return state.run is None or state.total.turns > 1

    async def _events(self, conversation: str, kind: type[Any]) -> list[Any]:
        log = await self.journal.read(conversation)
        return [each.event for each in log if isinstance(each.event, kind)]

    async def _other(self, name: str) -> float:
        """Somebody else's turn; its seconds."""
        messages = [{"role": "user", "content": f"{name} {self.text(OTHERS_TOKENS)}"}]
        body = {"model": NAME, "messages": messages, "max_tokens": 4, "temperature": 0}
        turn = TurnRequest(CHAT, json.dumps(body).encode(), name, session=name)
        async with self.router.open(turn) as answer:
            said = b"".join([chunk async for chunk in answer.chunks()])
            assert answer.status == 200, said
        return float(self.records.by_id[name]["total_s"])


@asynccontextmanager
async def bench(url: str, kind: str, model: ModelConfig) -> AsyncIterator[Bench]:
    """In this process, but for the engine."""
    stack = StackConfig.model_validate({"models": {NAME: engines.external(model, url)}})
    table, records, journal = StaticTable(stack), Records(), MemoryJournal()
    router, known = Router(stack, table, sink=records), agents()
    await table.poll()
    await table.start()
    await router.start()
    try:
        async with Worker(
            journal=journal, agents=known, models=RouterModel(router), prices={NAME: PRICES}
        ) as worker:
            yield Bench(
                router, worker, journal, records, random.Random(SEED), TOKENS_PER_WORD[kind]
            )
    finally:
        known.close()
        await router.stop()
        await table.stop()


def model_of(kind: str) -> ModelConfig:
    if kind == "simulated":
        return ModelConfig.model_validate(
            {"engine": "simulated", "context_tokens": CONTEXT_TOKENS, "simulator": SIMULATED}
        )
    flags = ("--num-gpu-blocks-override", str(BLOCKS))
    known = engines.model_of(STACK, NAME)
    return known.model_copy(update={"context_tokens": CONTEXT_TOKENS, "extra_args": flags})


async def measured(kind: str, rounds: int) -> list[Sample]:
    model = model_of(kind)
    samples = []
    async with engines.engine(NAME, model) as url, bench(url, kind, model) as made:
        for number, (pause, keeps) in by_turns(rounds, ARMS):
            samples.append(await made.sample(number, pause, keeps=keeps))
            print(samples[-1], flush=True)
    return samples


@dataclass(frozen=True, slots=True)
class Figures:
    """One kind of pause, kept warm over not."""

    pause: str
    first_token: Interval
    """Ratio, pair by pair."""
    cost: Interval
    others: Interval
    cold_s: Interval
    kept_s: Interval
    cold_cached: Interval
    """Share of the prompt."""
    kept_cached: Interval
    touches: float


def figures(samples: Sequence[Sample]) -> list[Figures]:
    found = []
    for pause in KEEP:
        cold, kept = (
            [each for each in samples if (each.pause, each.keeps) == (pause, keeps)]
            for keeps in (False, True)
        )

        def over(name: str, kept: Sequence[Sample] = kept, cold: Sequence[Sample] = cold) -> Any:
            return paired([getattr(s, name) for s in kept], [getattr(s, name) for s in cold])

        found.append(
            Figures(
                pause,
                over("first_token_s"),
                over("cost_usd"),
                over("others_s"),
                interval([s.first_token_s for s in cold]),
                interval([s.first_token_s for s in kept]),
                interval([s.cached_tokens / s.prompt_tokens for s in cold]),
                interval([s.cached_tokens / s.prompt_tokens for s in kept]),
                statistics.fmean(s.touches for s in kept),
            )
        )
    return found


def table(found: Sequence[Figures]) -> Table:
    rows = [
        (
            f.pause,
            f"{f.cold_s.value:.2f}",
            f"{f.kept_s.value:.2f}",
            str(f.first_token),
            f"{f.cold_cached.value:.0%}",
            f"{f.kept_cached.value:.0%}",
            f"{f.touches:.1f}",
            str(f.cost),
            str(f.others),
        )
        for f in found
    ]
    columns = (
        "pause", "cold, s", "kept, s", "to the first token, ratio", "cached, cold", "cached, kept",
        "touches", "cost, ratio", "others' turns, ratio",
    )  # fmt: skip
    return show.table("the turn after a pause, kept warm or not", columns, rows)


def bars(found: Sequence[Figures]) -> list[Bar]:
    return [
        Bar(f"first token after a {f.pause}, kept over cold", f.first_token.value, 0.5)
        for f in found
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("vllm", "simulated"), default="vllm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    console, run = show.console(150), Run("keep_warm", options)
    samples = asyncio.run(measured(options.engine, options.rounds))
    found = figures(samples)
    judged = bars(found)
    console.print(table(found))
    for bar in judged:
        console.print(str(bar), highlight=False)
    if options.json:
        run.write(options.json, {"pauses": found, "samples": samples}, judged)
    return 1 if any(bar.missed for bar in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
