"""A real vLLM engine on CPU: what Warmloop relies on, seen from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from serving.config import ModelConfig
from serving.engines import adapter_for, guardian
from serving.engines.base import EngineSpec
from serving.engines.process import EngineProcess, free_port
from serving.errors import EngineError

pytestmark = pytest.mark.engine

BLOCK = 32
CHECKOUT = Path(guardian.__file__).parents[2]
OWNER = f"""
import asyncio, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pathlib import Path
import aiohttp
from serving.config import ModelConfig
from serving.engines import adapter_for
from serving.engines.base import EngineSpec
from serving.engines.process import EngineProcess, free_port

async def main(config, weights, log):
    async with aiohttp.ClientSession() as http:
        process = EngineProcess(adapter_for("vllm"), http)
        process.start(EngineSpec("small", config, Path(weights), free_port()), Path(log))
        await process.wait_ready(600)
asyncio.run(main(ModelConfig.model_validate_json(sys.argv[1]), *sys.argv[2:]))
"""


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(http: aiohttp.ClientSession, engine: Any, text: str, **more: Any) -> dict[str, Any]:
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


def prompt_of_its_own(words: int = 200) -> str:
    """Text that no other test has put into the shared engine's cache."""
    mark = uuid.uuid4().hex
    return " ".join(f"{mark[:6]} line {number} of a long story." for number in range(words // 6))


def until(condition: Callable[[], Any], timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


async def test_it_is_ready_and_says_its_limits(
    vllm_engine: Any, http: aiohttp.ClientSession
) -> None:
    adapter = adapter_for("vllm")
    assert await adapter.ready(http, vllm_engine.url)
    facts = await adapter.facts(http, vllm_engine.url)
    assert facts.context_tokens == vllm_engine.config.context_tokens
    assert facts.capacity_tokens >= facts.context_tokens
    assert facts.capacity_tokens % BLOCK == 0


async def test_nothing_is_ready_where_nobody_listens(http: aiohttp.ClientSession) -> None:
    assert not await adapter_for("vllm").ready(http, f"http://127.0.0.1:{free_port()}")


async def test_a_prompt_asked_again_comes_from_the_cache_in_whole_blocks(
    vllm_engine: Any, http: aiohttp.ClientSession
) -> None:
    adapter = adapter_for("vllm")
    before = await adapter.load(http, vllm_engine.url)
    prompt = prompt_of_its_own()
    first = (await ask(http, vllm_engine, prompt))["usage"]
    again = (await ask(http, vllm_engine, prompt))["usage"]
    after = await adapter.load(http, vllm_engine.url)

    tokens = again["prompt_tokens"]
    cached = again["prompt_tokens_details"]["cached_tokens"]
    assert tokens > 4 * BLOCK
    assert first["prompt_tokens_details"]["cached_tokens"] < cached
    # The last token is always computed, so a prompt of exactly whole blocks keeps one fewer.
    assert cached == (tokens - 1) // BLOCK * BLOCK
    assert after.queried_tokens - before.queried_tokens >= 2 * tokens
    assert after.hit_tokens - before.hit_tokens >= cached


async def test_a_running_request_shows_in_the_load_and_leaves_it_when_the_client_hangs_up(
    vllm_engine: Any, http: aiohttp.ClientSession
) -> None:
    adapter = adapter_for("vllm")
    body = {
        "model": vllm_engine.model,
        "prompt": prompt_of_its_own(),
        "max_tokens": 4000,
        "ignore_eos": True,
        "stream": True,
    }
    async with http.post(f"{vllm_engine.url}/v1/completions", json=body) as answer:
        await answer.content.readline()
        load = await adapter.load(http, vllm_engine.url)
        assert load.running >= 1
        assert load.kv_usage > 0
        answer.close()
    deadline = time.monotonic() + 30
    while (await adapter.load(http, vllm_engine.url)).running >= load.running:
        assert time.monotonic() < deadline, "the slot of a client that is gone stays taken"


async def test_requests_may_carry_a_priority(vllm_engine: Any, http: aiohttp.ClientSession) -> None:
    answer = await ask(http, vllm_engine, prompt_of_its_own(12), priority=-5)
    assert answer["usage"]["completion_tokens"] >= 1


async def test_a_required_call_is_a_call_with_arguments_of_the_schema(
    vllm_engine: Any, http: aiohttp.ClientSession
) -> None:
    tool = {
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
    answer = await ask(
        http,
        vllm_engine,
        "Add 2 and 3.",
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=96,
    )
    [choice] = answer["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "add"
    arguments = json.loads(call["function"]["arguments"])
    assert {name: type(value) for name, value in arguments.items()} == {"a": int, "b": int}


async def test_an_adapter_is_refused_with_the_fix_where_lora_is_off(
    vllm_engine: Any, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="need --enable-lora in extra_args"):
        await adapter_for("vllm").load_adapter(http, vllm_engine.url, "mine", tmp_path)


def test_the_whole_tree_dies_with_its_owner_by_sigkill(
    small_model: ModelConfig, small_weights: Path, tmp_path: Path
) -> None:
    arguments = [small_model.model_dump_json(), str(small_weights), str(tmp_path / "log")]
    with subprocess.Popen([sys.executable, "-c", OWNER, *arguments]) as owner:

        def engine_core() -> bool:
            names = []
            for pid in guardian.descendants(owner.pid):
                try:
                    names.append(" ".join(psutil.Process(pid).cmdline()))
                except psutil.Error:
                    continue
            return any("EngineCore" in name for name in names)

        # vLLM's own child, which survives its parent when nobody guards it.
        until(engine_core, 120)
        tree = guardian.descendants(owner.pid)
        owner.kill()
    until(lambda: not any(map(psutil.pid_exists, tree)), 10)


async def test_an_engine_that_dies_at_start_says_why(
    small_model: ModelConfig, small_weights: Path, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_weights, broken, ignore=shutil.ignore_patterns("*.safetensors"))
    with (small_weights / "model.safetensors").open("rb") as whole:
        (broken / "model.safetensors").write_bytes(whole.read(10**6))  # a download cut short

    process = EngineProcess(adapter_for("vllm"), http)
    process.start(EngineSpec("small", small_model, broken, free_port()), tmp_path / "log")
    with pytest.raises(EngineError) as caught:
        await process.wait_ready(180)
    said = str(caught.value)
    assert said.startswith("the engine of small ended with status 1 after ")
    assert "SafetensorError" in said, said
    assert str(tmp_path / "log") in said
    assert not process.alive()
