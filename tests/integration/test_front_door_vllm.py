"""The whole front door over a real vLLM engine, used as the official clients use it.

A 135M model's words mean nothing here; that calls are valid, streams whole and prefixes warm does.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests import clients
from tests.integration.conftest import RealEngine
from tests.integration.openai_calls import client_of, completed, two_turns
from tests.integration.stacks import Stack, eventually, stack
from tests.integration.test_clients import FOLDER, PROGRAMS

pytestmark = pytest.mark.engine

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
ADD = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
LONG = "The desk opens at nine and closes at six. " * 40


@pytest.fixture(scope="module")
def door(
    vllm_engine: RealEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stack, str]]:
    """`warmloop up` over an engine that already runs; no Ray."""
    models = {"small": {"engine": "external", "tier": "small", "urls": [vllm_engine.url]}}
    agents = {
        "clerk": {
            "model": "small",
            "instructions": LONG,
            "tools": ["ledger_tools:charge"],
            "tool_path": str(Path(__file__).parent / "tools"),
            "max_output_tokens": 64,
            "limits": {"max_turns": 3},
        }
    }
    folder = tmp_path_factory.mktemp("door")
    with stack(folder, models=models, agents=agents) as made:
        made.extra_env["WARMLOOP_TEST_LEDGER"] = str(folder / "ledger")
        url = made.up()
        yield made, url
        assert made.run("down", "-c", str(made.config)).returncode == 0


@pytest.fixture
def client(door: tuple[Stack, str]) -> Iterator[openai.OpenAI]:
    with client_of(door[1]) as made:
        yield made


def test_chat_is_answered_and_says_where_it_went(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    assert raw.headers["x-warmloop-model"] == "small"
    assert "small" in raw.headers["x-warmloop-decision"]
    assert raw.parse().choices[0].message.content


def test_the_second_turn_of_a_streamed_chat_finds_its_prefix_warm(client: openai.OpenAI) -> None:
    cached = two_turns(client, "small", LONG + "Say yes.", max_tokens=8)
    first_prompt = cached[0][0]
    assert cached[1][1] >= first_prompt // 32 * 32 - 32, cached


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_is_valid_under_its_schema(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {
        "model": "small",
        "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
        "tools": [WEATHER],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 128,
        "temperature": 1.0,
    }
    completion = completed(client, asked, stream=stream)
    [call] = completion.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "weather"
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in ("celsius", "fahrenheit")


def test_an_agents_run_streams_its_events_and_its_later_turns_are_warm(
    client: openai.OpenAI,
) -> None:
    numbers, final = [], None
    for event in client.responses.create(model="clerk", input="Charge 5 euros.", stream=True):
        numbers.append(event.sequence_number)
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    assert numbers == list(range(len(numbers)))
    assert final is not None
    turns = final.model_dump()["warmloop"]["turns"]
    for turn in turns[1:]:
        assert turn["cached_tokens"] >= 0.8 * turn["prompt_tokens"], turns
    again = client.responses.retrieve(final.id)
    assert again.output == final.output


def test_what_is_counted_before_is_what_the_engine_then_reads(client: openai.OpenAI) -> None:
    for model, tools in (("small", []), ("small", [ADD]), ("clerk", [])):
        asked: Any = {"model": model, "input": "Add two and three.", "tools": tools}
        counted = client.responses.input_tokens.count(**asked)
        response = client.responses.create(**asked, max_output_tokens=16)
        first = response.model_dump()["warmloop"]["turns"][0]
        assert counted.input_tokens == first["prompt_tokens"] > 20


def test_a_summary_stands_for_what_was_compacted(client: openai.OpenAI) -> None:
    said: Any = [
        {"type": "message", "role": "user", "content": LONG},
        {"type": "message", "role": "assistant", "content": "At nine."},
    ]
    window = client.responses.compact(model="small", input=said)
    assert [item.type for item in window.output] == ["message", "compaction"]
    again: Any = window.model_dump(mode="json", warnings=False)["output"]
    response = client.responses.create(model="small", input=again, max_output_tokens=8)
    assert response.usage is not None
    assert response.usage.input_tokens > window.usage.output_tokens


def test_a_prompt_over_the_context_is_a_400_that_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "word " * 20_000}]
        )
    assert "8192" in str(caught.value)


def test_anthropic_messages_pass_through(door: tuple[Stack, str], client: openai.OpenAI) -> None:
    answer = client.post(
        f"{door[1]}/v1/messages",
        body={"model": "small", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]},
        cast_to=dict[str, Any],
    )
    assert answer["type"] == "message"
    assert answer["usage"]["output_tokens"] > 0


@pytest.mark.clients
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_client_has_its_tool_called_and_then_an_answer(
    door: tuple[Stack, str], tmp_path: Path, program: str
) -> None:
    asked = "What is the price of a helmet? Answer in one short sentence."
    command = (str(FOLDER / f"{program}.py"), door[1], "small", asked, "forced")
    status, said = await clients.run("python", *command, folder=tmp_path)
    assert status == 0, said
    lines = re.findall(r"^(TOOL|ANSWER)\s+(\S.*)$", said, re.MULTILINE)
    assert {text for kind, text in lines if kind == "TOOL"} <= {"helmet", "glove"}, said
    # Once by each API; a turn may have several calls.
    assert [kind for kind, _ in groupby(kind for kind, _ in lines)] == 2 * ["TOOL", "ANSWER"], said


@pytest.mark.ray
def test_a_real_engine_under_ray_answers_and_dies_with_a_killed_supervisor(
    small_weights: Path, tmp_path: Path
) -> None:
    model = {
        "engine": "vllm",
        "tier": "frontier",
        "sources": [{"path": str(small_weights)}],
        "chat_template": "smollm2.jinja",
        "context_tokens": 1024,
        "kv_cache_gib": 0.25,
    }
    with stack(tmp_path, models={"only": model}) as made:
        holder = made.start("up", "-c", str(made.config))
        run_file = made.home / "stacks" / made.name / "run.json"

        def ready() -> bool:
            assert holder.poll() is None, made.logs()
            return run_file.exists() and '"ready"' in run_file.read_text()

        eventually(ready, "the stack is ready", 600)
        with openai.OpenAI(base_url=f"{made.url()}/v1", api_key="none", timeout=300) as user:
            answer = user.responses.create(model="only", input="Hello", max_output_tokens=8)
        assert answer.usage is not None
        assert answer.usage.output_tokens > 0
        assert any("EngineCore" in name(process) for process in made.processes())
        holder.send_signal(signal.SIGKILL)
        eventually(lambda: not made.processes(), "all processes are gone", 10)


def name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
