"""The official openai package against the simulated engine, unchanged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from openai.types.chat import ChatCompletionToolParam

from serving.config.model import SimulatorConfig
from serving.engines import adapter_for
from serving.errors import EngineError
from serving.models.model_cards import adapters_in, cards
from serving.simulator.server import Simulator

ADD: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
        },
    },
}
REPLY: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "reply", "parameters": {"type": "object", "properties": {}}},
}
CALL_ADD = 'Please.\nSIMULATE: [{"calls": [{"name": "add", "arguments": {"a": 2}}]}, {"text": "4"}]'


async def until(condition: Callable[[], bool]) -> None:
    """Let the server go on until `condition` holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 the server under test has no event for it
            await asyncio.sleep(0)


@pytest.fixture
async def simulator() -> Simulator:
    speed = SimulatorConfig(prefill_tokens_per_s=1e6, decode_tokens_per_s=1e4)
    return Simulator("small", 4096, speed)


@pytest.fixture
async def url(simulator: Simulator) -> AsyncIterator[str]:
    runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_a_chat_says_that_it_is_simulated_and_what_was_cached(
    client: openai.AsyncOpenAI,
) -> None:
    long = "word " * 200
    for expected in (0, 256):
        raw = await client.chat.completions.with_raw_response.create(
            model="small", messages=[{"role": "user", "content": long}]
        )
        assert raw.headers["x-warmloop-simulated"] == "1"
        answer = raw.parse()
        assert answer.system_fingerprint == "warmloop-simulated"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == expected
    assert answer.choices[0].message.content == "This is a simulated answer; no model has run."
    assert answer.choices[0].finish_reason == "stop"


async def test_a_stream_has_the_same_text_and_ends_with_the_usage(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": 'SIMULATE: {"text": "Grüße an die Welt"}'}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Grüße an die Welt"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 4


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_told_to_says_how_long_each_part_took(*, stream: bool) -> None:
    speed = SimulatorConfig(prefill_tokens_per_s=1e4, decode_tokens_per_s=1e3)
    simulator = Simulator("small", 4096, speed, says_times=True)
    runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
        body: dict[str, Any] = {
            "model": "small",
            "messages": [{"role": "user", "content": "x" * 800}],
            "stream": stream,
            "stream_options": {"include_usage": True},
        }
        async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
            text = await answer.text()
    finally:
        await runner.cleanup()
    last = json.loads(text.split("data: ")[-2] if stream else text)
    times = last["metrics"]
    assert set(times) == {"queue_time_ms", "time_to_first_token_ms", "generation_time_ms"}
    assert times["queue_time_ms"] >= 0
    prompt, output = last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]
    assert times["time_to_first_token_ms"] >= prompt / 1e4 * 1000
    assert times["generation_time_ms"] >= output / 1e3 * 1000 - 1


async def test_scripted_calls_advance_with_their_results(client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": CALL_ADD}]
    first = await client.chat.completions.create(model="small", messages=messages, tools=[ADD])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 2})
    messages += [
        message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "4"},
    ]
    second = await client.chat.completions.create(model="small", messages=messages, tools=[ADD])
    assert second.choices[0].message.content == "4"
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert first.usage is not None
    # The first turn's own output is warm too, whole blocks allowed for.
    kept = second.usage.prompt_tokens_details.cached_tokens or 0
    assert kept >= first.usage.total_tokens - 16


async def test_a_streamed_call_comes_in_pieces_that_join_to_valid_arguments(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": CALL_ADD}],
        tools=[ADD],
        stream=True,
    )
    name, arguments = "", ""
    async for chunk in stream:
        for part in chunk.choices[0].delta.tool_calls or ():
            assert part.function is not None
            name += part.function.name or ""
            arguments += part.function.arguments or ""
    assert (name, json.loads(arguments)) == ("add", {"a": 2})


async def test_where_a_call_is_required_the_reply_tool_speaks(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": 'SIMULATE: {"text": "done"}'}],
        tools=[ADD, REPLY],
        tool_choice="required",
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "reply"
    assert json.loads(calls[0].function.arguments) == {"text": "done"}


async def test_without_a_reply_tool_the_first_one_gets_its_smallest_arguments(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "go"}],
        tools=[ADD],
        tool_choice="required",
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.arguments == '{"a": 0}'


async def test_a_call_that_max_tokens_cuts_short_is_text_and_no_call(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": CALL_ADD}],
        tools=[ADD],
        max_tokens=8,
    )
    assert answer.choices[0].finish_reason == "length"
    assert not answer.choices[0].message.tool_calls
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


async def test_benchmarks_get_exactly_the_tokens_that_they_ask_for(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.completions.create(
        model="small", prompt=[1, 2, 3], max_tokens=100, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 100)


async def test_a_prompt_over_the_context_is_refused_as_vllm_refuses_it(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096") as caught:
        await client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "x" * 20_000}]
        )
    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["type"], body["code"]) == ("BadRequestError", 400)


@pytest.mark.parametrize("salt", ["", 7, "a/b", "a@b", "a\\b", "a\0b", "x" * 129])
async def test_a_salt_that_vllm_does_not_take_is_refused(
    client: openai.AsyncOpenAI, salt: object
) -> None:
    ask = client.chat.completions.create
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    await ask(model="small", messages=messages, extra_body={"cache_salt": "way 1, turn 2"})
    with pytest.raises(openai.BadRequestError, match="Parameter 'cache_salt' must be"):
        await ask(model="small", messages=messages, extra_body={"cache_salt": salt})


async def test_bad_requests_get_an_answer_that_names_the_mistake(url: str) -> None:
    bad = [
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "small"}', 400),
        (b'{"model": "other", "messages": []}', 404),
        (b'{"model": "small", "messages": [{"role": "user"}], "tools": [1]}', 400),
        (b'{"model": "small", "messages": [{"role": "user", "content": "SIMULATE: {"}]}', 400),
    ]
    async with aiohttp.ClientSession() as http:
        for body, status in bad:
            async with http.post(f"{url}/v1/chat/completions", data=body) as answer:
                assert answer.status == status, body
                assert (await answer.json())["error"]["message"]


async def test_the_messages_route_streams_anthropics_events(url: str) -> None:
    body = {
        "model": "small",
        "max_tokens": 100,
        "stream": True,
        "tools": [{"name": "add", "input_schema": {"type": "object"}}],
        "messages": [{"role": "user", "content": CALL_ADD}],
    }
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/messages", json=body) as answer:
            events = [
                json.loads(line[6:]) async for line in answer.content if line.startswith(b"data: ")
            ]
        assert [e["type"] for e in events if "delta" not in e["type"]] == [
            "message_start",
            "content_block_start",
            "content_block_stop",
            "message_stop",
        ]
        assert events[-2]["delta"]["stop_reason"] == "tool_use"
        async with http.post(f"{url}/v1/messages", json=body | {"stream": False}) as answer:
            whole = await answer.json()
        assert whole["content"][0]["input"] == {"a": 2}
        assert whole["usage"]["cache_read_input_tokens"] > 0


async def test_vllms_adapter_reads_it_as_it_reads_a_vllm(url: str) -> None:
    adapter = adapter_for("simulated")
    async with aiohttp.ClientSession() as http:
        assert await adapter.ready(http, url)
        facts = await adapter.facts(http, url)
        assert (facts.capacity_tokens, facts.context_tokens) == (300_000, 4096)
        body = {"model": "small", "prompt": "x" * 400}
        await (await http.post(f"{url}/v1/completions", json=body)).read()
        load = await adapter.load(http, url)
        assert (load.running, load.queried_tokens, load.hit_tokens) == (0, 100, 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_frees_its_slot(
    simulator: Simulator, url: str, stream: bool
) -> None:
    simulator.engine.config = SimulatorConfig(decode_tokens_per_s=1)
    body = {"model": "small", "prompt": "hello there", "stream": stream}
    async with aiohttp.ClientSession() as http:
        request = asyncio.create_task(http.post(f"{url}/v1/completions", json=body))
        await until(lambda: simulator.engine.load().running == 1)
        request.cancel()
        if not stream:
            with pytest.raises(asyncio.CancelledError):
                await request
    await until(lambda: simulator.engine.load().running == 0)
    assert simulator.engine.load().kv_usage == 0


async def test_a_script_may_fail_or_cut_the_stream(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        await client.completions.create(model="small", prompt='SIMULATE: {"error": 503}')
    stream = await client.completions.create(
        model="small", prompt='SIMULATE: {"text": "one two three", "cut_after": 2}', stream=True
    )
    assert (await anext(stream)).choices[0].text == "one "
    assert (await anext(stream)).choices[0].text == "two "
    with pytest.raises(Exception, match=r"(?i)peer closed|incomplete|disconnect|connection"):
        await anext(stream)


def test_a_context_that_does_not_fit_the_cache_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="larger than what the KV cache holds"):
        Simulator("small", 8192, SimulatorConfig(capacity_tokens=4096))


# LoRA


@pytest.fixture
async def lora_url() -> AsyncIterator[str]:
    speed = SimulatorConfig(prefill_tokens_per_s=1e6, decode_tokens_per_s=1e4)
    simulator = Simulator("small", 4096, speed, max_lora_rank=8)
    runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_adapters_come_and_go_as_on_a_vllm(lora_url: str, tmp_path: Path) -> None:
    adapter, low, high = adapter_for("simulated"), tmp_path / "low", tmp_path / "high"
    for folder, rank in ((low, 8), (high, 16)):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    async with aiohttp.ClientSession() as http:
        await adapter.load_adapter(http, lora_url, "polite", low)
        for name, folder, said in (
            ("polite", low, "has already been loaded"),
            ("small", low, "conflicts with a served base model"),
            ("high", high, "LoRA rank 16 is greater than max_lora_rank 8"),
            ("none", tmp_path / "none", "No adapter found for"),
        ):
            with pytest.raises(EngineError, match=said):
                await adapter.load_adapter(http, lora_url, name, folder)
        found = adapters_in(await cards(http, lora_url), "small")
        assert found == {"polite": str(low)}
        client = openai.AsyncOpenAI(base_url=f"{lora_url}/v1", api_key="none", max_retries=0)
        cached = []
        for model in ("small", "small", "polite", "polite"):
            answer = await client.completions.create(model=model, prompt="x" * 400, max_tokens=1)
            assert answer.model == model
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached.append(answer.usage.prompt_tokens_details.cached_tokens)
        assert cached == [0, 96, 0, 96]
        await adapter.unload_adapter(http, lora_url, "polite")
        with pytest.raises(EngineError, match=r"answered 404: .*'polite' cannot be found"):
            await adapter.unload_adapter(http, lora_url, "polite")
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="polite", prompt="x", max_tokens=1)
        await client.close()


async def test_without_lora_the_engines_answer_says_how_to_get_it(url: str, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(EngineError, match=r"set lora: \{enabled: true\} for the model"):
            await adapter_for("simulated").load_adapter(http, url, "polite", tmp_path)
