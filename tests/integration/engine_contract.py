"""What Warmloop relies on in every kind of engine, seen from outside: one suite, run by each.

A test module of a kind subclasses `EngineContract`, says what `KIND` is, and gives the fixtures:

    engine   one that is ready, shared by all tests, so each asks with a prompt of its own
    config   its model configuration, to start more of them
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from serving.config.model import ModelConfig
from serving.engines import adapter_for, guardian
from serving.engines.base import EngineAdapter, EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess
from serving.errors import EngineError
from serving.tables.base import EngineKind
from tests.integration.conftest import RealEngine

PATIENCE_S = 120.0
START_S = 600.0
CHECKOUT = Path(guardian.__file__).parents[2]
OWNER = f"""
import asyncio, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pathlib import Path
import aiohttp
from serving.config.model import ModelConfig
from serving.engines import adapter_for
from serving.engines.base import EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess

async def main(config, weights, log):
    async with aiohttp.ClientSession() as http:
        process = EngineProcess(adapter_for(config.engine), http)
        process.start(EngineSpec("small", config, Path(weights), free_port()), Path(log))
        await process.wait_ready({START_S})
asyncio.run(main(ModelConfig.model_validate_json(sys.argv[1]), *sys.argv[2:]))
"""
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two integers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Kind:
    """What one kind of engine does in its own way."""

    name: EngineKind
    cache_block: int
    """Tokens that its prefix cache keeps or drops together."""
    helper: str
    """In the command line of a child that outlives its server when nobody guards it."""
    last_words: str = "SafetensorError"
    """What it dies of when its weights are cut short."""


def prompt_of_its_own(words: int = 200) -> str:
    """Text that no other test has put into the shared engine's cache."""
    mark = uuid.uuid4().hex
    return " ".join(f"{mark[:6]} line {number} of a long story." for number in range(words // 6))


async def ask(http: aiohttp.ClientSession, engine: Any, text: str, **more: Any) -> dict[str, Any]:
    """One chat completion, whole."""
    body = {
        "model": engine.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 4,
        "temperature": 0,
        **more,
    }
    async with http.post(f"{engine.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def deltas(
    http: aiohttp.ClientSession, engine: Any, text: str, **more: Any
) -> list[dict[str, Any]]:
    """The choices of a streamed chat completion's chunks, in order."""
    body = {
        "model": engine.model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "stream": True,
        **more,
    }
    choices = []
    async with http.post(f"{engine.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"data: {"):
                choices += json.loads(line[6:])["choices"]
    return choices


@asynccontextmanager
async def endless(
    http: aiohttp.ClientSession, engine: Any, **more: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that goes on until its client hangs up, as it does at the end of the block.

    Some servers answer the headers only with the first token.
    """
    body = {
        "model": engine.model,
        "prompt": prompt_of_its_own(24),
        "max_tokens": 4000,
        "ignore_eos": True,
        "stream": True,
        **more,
    }
    async with http.post(f"{engine.url}/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        try:
            yield answer
        finally:
            answer.close()


async def eventually(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Poll until `condition` is truthy; fails with `what` when time is up."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := await condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        await asyncio.sleep(0.1)
    return found


def until(condition: Callable[[], Any], timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class EngineContract:
    """The suite. Subclasses set KIND and define the fixtures `engine` and `config`."""

    KIND: Kind

    @pytest_asyncio.fixture
    async def http(self) -> AsyncIterator[aiohttp.ClientSession]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            yield session

    @pytest.fixture
    def adapter(self) -> EngineAdapter:
        return adapter_for(self.KIND.name)

    async def test_it_is_ready_and_says_its_limits_without_generating_anything(
        self, engine: RealEngine, adapter: EngineAdapter, http: aiohttp.ClientSession
    ) -> None:
        before = await adapter.load(http, engine.url)
        for _ in range(3):
            assert await adapter.ready(http, engine.url)
            facts = await adapter.facts(http, engine.url)
        assert facts.context_tokens == engine.config.context_tokens
        assert facts.capacity_tokens >= facts.context_tokens
        assert facts.capacity_tokens % self.KIND.cache_block == 0
        after = await adapter.load(http, engine.url)
        assert after.queried_tokens == before.queried_tokens
        assert (after.running, after.waiting) == (0, 0)

    async def test_nothing_is_ready_where_nobody_listens(
        self, adapter: EngineAdapter, http: aiohttp.ClientSession
    ) -> None:
        assert not await adapter.ready(http, f"http://127.0.0.1:{free_port()}")

    async def test_a_prompt_asked_again_comes_from_the_cache_in_whole_blocks(
        self, engine: RealEngine, adapter: EngineAdapter, http: aiohttp.ClientSession
    ) -> None:
        before = await adapter.load(http, engine.url)
        prompt = prompt_of_its_own()
        first = (await ask(http, engine, prompt))["usage"]
        again = (await ask(http, engine, prompt))["usage"]

        block, tokens = self.KIND.cache_block, again["prompt_tokens"]
        cached = again["prompt_tokens_details"]["cached_tokens"]
        assert tokens > 4 * block
        assert first["prompt_tokens_details"]["cached_tokens"] < cached
        # The last token is always computed, so a prompt of exactly whole blocks keeps one fewer.
        assert cached == (tokens - 1) // block * block

        async def counted() -> bool:
            after = await adapter.load(http, engine.url)
            queried = after.queried_tokens - before.queried_tokens
            return queried >= 2 * tokens and after.hit_tokens - before.hit_tokens >= cached

        await eventually(counted, "the counters hold both prompts and the hit")

    async def test_a_running_request_shows_in_the_load_and_leaves_it_when_the_client_hangs_up(
        self, engine: RealEngine, adapter: EngineAdapter, http: aiohttp.ClientSession
    ) -> None:
        async def runs() -> bool:
            load = await adapter.load(http, engine.url)
            return load.running == 1 and load.kv_usage > 0

        async def idle() -> bool:
            load = await adapter.load(http, engine.url)
            return load.running + load.waiting == 0

        async with endless(http, engine) as answer:
            await answer.content.readline()
            await eventually(runs, "the request shows in the load")
        await eventually(idle, "the slot of a client that is gone is free")

    async def test_a_lower_priority_value_goes_first_when_all_slots_are_taken(
        self, engine: RealEngine, adapter: EngineAdapter, http: aiohttp.ClientSession
    ) -> None:
        async def queued(count: int) -> bool:
            load = await adapter.load(http, engine.url)
            return load.running == engine.config.max_running and load.waiting == count

        early, late = 17_000_000_010, 17_000_000_020
        order: list[int] = []

        async def wait_for_a_slot(priority: int) -> None:
            async with endless(http, engine, priority=priority, max_tokens=1) as answer:
                await answer.content.readline()
                order.append(priority)

        async with AsyncExitStack() as running, asyncio.TaskGroup() as waiting:
            for _ in range(engine.config.max_running):
                stream = await running.enter_async_context(endless(http, engine))
                await stream.content.readline()
            # The router's are moments, in tenths of a Unix second.
            for count, priority in enumerate((late, early), start=1):
                waiting.create_task(wait_for_a_slot(priority))
                await eventually(lambda count=count: queued(count), f"{count} are queued")
            stream.close()  # one slot, and two who want it
        assert order == [early, late]

    async def test_a_required_call_is_a_call_with_arguments_of_the_schema(
        self, engine: RealEngine, http: aiohttp.ClientSession
    ) -> None:
        answer = await ask(
            http,
            engine,
            "Add 2 and 3.",
            tools=[ADD],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=96,
        )
        [choice] = answer["choices"]
        call = choice["message"]["tool_calls"][0]
        assert call["function"]["name"] == "add"
        arguments = json.loads(call["function"]["arguments"])
        assert {name: type(value) for name, value in arguments.items()} == {"a": int, "b": int}

    async def test_a_streamed_call_says_its_name_first_and_then_its_arguments(
        self, engine: RealEngine, http: aiohttp.ClientSession
    ) -> None:
        named = {"type": "function", "function": {"name": "add"}}
        choices = await deltas(
            http, engine, "Add 2 and 3.", tools=[ADD], tool_choice=named, max_tokens=96
        )
        parts = [
            part["function"]
            for choice in choices
            for part in choice["delta"].get("tool_calls") or ()
            if part["index"] == 0
        ]
        assert parts[0]["name"] == "add"
        assert not any(part.get("name") for part in parts[1:])
        arguments = json.loads("".join(part.get("arguments") or "" for part in parts))
        assert {name: type(value) for name, value in arguments.items()} == {"a": int, "b": int}
        assert choices[-1]["finish_reason"]

    async def test_an_adapter_is_refused_with_the_engines_reason_where_lora_is_off(
        self,
        engine: RealEngine,
        adapter: EngineAdapter,
        http: aiohttp.ClientSession,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(EngineError, match=r"--enable-lora|lora: \{enabled: true\}"):
            await adapter.load_adapter(http, engine.url, "mine", tmp_path)

    def test_the_whole_tree_dies_with_its_owner_by_sigkill(
        self, config: ModelConfig, small_weights: Path, tmp_path: Path
    ) -> None:
        arguments = [config.model_dump_json(), str(small_weights), str(tmp_path / "log")]
        with subprocess.Popen([sys.executable, "-c", OWNER, *arguments]) as owner:

            def helper() -> bool:
                names = []
                for pid in guardian.descendants(owner.pid):
                    try:
                        names.append(" ".join(psutil.Process(pid).cmdline()))
                    except psutil.Error:
                        continue
                return any(self.KIND.helper in name for name in names)

            # The engine's own child, which survives its parent when nobody guards it.
            until(helper, START_S)
            tree = guardian.descendants(owner.pid)
            owner.kill()
        until(lambda: not any(map(psutil.pid_exists, tree)), 10)

    async def test_an_engine_that_dies_at_start_says_why(
        self,
        config: ModelConfig,
        small_weights: Path,
        tmp_path: Path,
        http: aiohttp.ClientSession,
        adapter: EngineAdapter,
    ) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(small_weights, broken, ignore=shutil.ignore_patterns("*.safetensors"))
        with (small_weights / "model.safetensors").open("rb") as whole:
            (broken / "model.safetensors").write_bytes(whole.read(10**6))  # a download cut short

        process = EngineProcess(adapter, http)
        process.start(EngineSpec("small", config, broken, free_port()), tmp_path / "log")
        with pytest.raises(EngineError) as caught:
            await process.wait_ready(START_S)
        said = str(caught.value)
        assert said.startswith("the engine of small ended with status "), said
        assert self.KIND.last_words in said, said
        assert str(tmp_path / "log") in said
        assert not process.alive()
