"""Tool calls of a real vLLM engine through the whole front door, judged from outside.

The 135M model's choices mean nothing here; that every call fits its schema, in every way of asking,
does. `benchmarks/tool_validity.py` asks the same a thousand times, of two models.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import openai
import pytest
from rich.console import Console

from benchmarks import token_stability, tool_validity
from benchmarks.schema_shapes import SHAPES
from tests.integration.conftest import RealEngine
from tests.integration.openai_calls import client_of
from tests.integration.stacks import stack

pytestmark = pytest.mark.engine

GENERATIONS = 48
WEATHER = token_stability.WEATHER


@pytest.fixture(scope="module")
def door(vllm_engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`warmloop up` over an engine that runs our grammar; no Ray."""
    small = {
        "engine": "external",
        "tier": "small",
        "urls": [vllm_engine.url],
        "tool_parser": "warmloop_hermes",
        "auto_text": "reply",
        "max_parallel_calls": 3,
    }
    with stack(tmp_path_factory.mktemp("door"), models={"small": small}) as made:
        yield made.up()
        assert made.run("down", "-c", str(made.config)).returncode == 0


@pytest.fixture
def client(door: str) -> Iterator[openai.OpenAI]:
    with client_of(door) as made:
        yield made


async def test_every_call_of_every_shape_is_valid_at_temperature_1(door: str) -> None:
    slots = asyncio.Semaphore(4)
    cases = list(tool_validity.cases(["small"], GENERATIONS))
    assert len({case.shape.name for case in cases}) >= 40

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as http:

        async def one(case: tool_validity.Case) -> str:
            async with slots:
                return await tool_validity.ask(http, door, case)

        outcomes = await asyncio.gather(*map(one, cases))
    counts = Counter(outcome.partition(":")[0] for outcome in outcomes)
    print(dict(counts))
    wrong = [
        (case.shape.name, case.choice, case.form, outcome)
        for case, outcome in zip(cases, outcomes, strict=True)
        if outcome.partition(":")[0] in ("pseudo", "invalid", "broken")
    ]
    assert not wrong
    assert counts["valid"] >= GENERATIONS / 3, counts
    refused = {c.shape.name for c, o in zip(cases, outcomes, strict=True) if o == "refused"}
    assert len(refused) <= 0.05 * len(SHAPES), refused


async def test_of_a_turns_own_tokens_all_stable_whole_blocks_are_cached(
    door: str, vllm_engine: RealEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    results = await token_stability.measure(vllm_engine.url, door, "small")
    with capsys.disabled():
        token_stability.show(Console(width=140), "SmolLM2-135M", results)
    for found, _ in results:
        assert found.cached >= found.possible, found
    plain = next(found for found, _ in results if found.kind == "text")
    assert plain.lost == 0


def test_words_beside_tools_stream_as_text(client: openai.OpenAI) -> None:
    pieces, reasons = [], []
    for chunk in client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "Please just say hello to me. No weather."}],
        tools=[WEATHER],  # type: ignore[list-item]
        max_tokens=60,
        seed=4,
        stream=True,
    ):
        for choice in chunk.choices:
            if choice.delta.content:
                pieces.append(choice.delta.content)
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                assert call.function.name in (None, "get_weather")
            reasons += [choice.finish_reason] * (choice.finish_reason is not None)
    assert len(reasons) == 1
    text = "".join(pieces)
    assert "tool_call" not in text
    assert '"name"' not in text
    if reasons == ["stop"]:
        assert len(pieces) > 1


def test_parallel_calls_stop_at_the_bound_that_the_engine_was_given(client: openai.OpenAI) -> None:
    cities = "Rome, Paris, Oslo, Lima, Cairo, Tokyo, Delhi, Perth, Quito, Accra"
    answer = client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": f"Weather in each of: {cities}"}],
        tools=[WEATHER],  # type: ignore[list-item]
        tool_choice="required",
        temperature=1,
        seed=5,
        max_tokens=600,
    )
    calls = answer.choices[0].message.tool_calls or []
    assert 1 <= len(calls) <= 3
    for call in calls:
        arguments = json.loads(call.function.arguments)  # type: ignore[union-attr]
        jsonschema.validate(arguments, WEATHER["function"]["parameters"])


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_cut_by_the_token_limit_is_no_call_and_no_text(
    client: openai.OpenAI, stream: bool, choice: str
) -> None:
    asked: dict[str, Any] = {
        "model": "small",
        "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
        "tools": [WEATHER],
        "tool_choice": choice,
        "max_tokens": 16,
        "temperature": 0,
    }
    if not stream:
        answer = client.chat.completions.create(**asked).choices[0]
        assert answer.finish_reason == "length"
        assert not answer.message.tool_calls
        assert "<" not in (answer.message.content or "")
        return
    chunks = list(client.chat.completions.create(**asked, stream=True))
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert reasons == ["length"]
    text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    assert "<" not in text


def test_a_function_call_of_the_responses_api_is_valid(client: openai.OpenAI) -> None:
    function = WEATHER["function"]
    answer = client.responses.create(
        model="small",
        input="What is the weather in Rome?",
        tools=[{"type": "function", "strict": True, **function}],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1,
        max_output_tokens=300,
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    assert calls, answer.model_dump()
    for call in calls:
        assert call.name == "get_weather"
        jsonschema.validate(json.loads(call.arguments), function["parameters"])


def test_a_schema_that_no_grammar_can_promise_is_refused_with_its_path(
    client: openai.OpenAI,
) -> None:
    refused = next(shape for shape in SHAPES if shape.verdict == "refused")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": "Hello"}],
            tools=[refused.tool()],  # type: ignore[list-item]
        )
    assert caught.value.code == "invalid_tool_schema"
    assert "tools[0].function.parameters/" in str(caught.value)


def test_schemas_as_they_are_used_are_shown(client: openai.OpenAI, tmp_path: Path) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="small",
        messages=[{"role": "user", "content": "Hello"}],
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "tag",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "tags": {
                                "type": "array",
                                "items": {"type": "string"},
                                "uniqueItems": True,
                            }
                        },
                    },
                },
            }
        ],
        max_tokens=40,
    )
    assert "tag: " in raw.headers["x-warmloop-tools"]
    assert "checked after" in raw.headers["x-warmloop-tools"]
