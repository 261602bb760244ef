"""The whole front door over a real SGLang engine, used as the official clients use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.integration.conftest import RealEngine
from tests.integration.engine_contract import ADD, prompt_of_its_own
from tests.integration.openai_calls import client_of, completed, two_turns
from tests.integration.stacks import Stack, stack

pytestmark = pytest.mark.sglang


@pytest.fixture(scope="module")
def door(
    sglang_engine: RealEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stack, str]]:
    """`warmloop up` over an engine that already runs; no Ray."""
    models = {"small": {"engine": "external", "tier": "small", "urls": [sglang_engine.url]}}
    with stack(tmp_path_factory.mktemp("door"), models=models) as made:
        url = made.up()
        yield made, url
        assert made.run("down", "-c", str(made.config)).returncode == 0


@pytest.fixture
def client(door: tuple[Stack, str]) -> Iterator[openai.OpenAI]:
    with client_of(door[1]) as made:
        yield made


def test_the_second_turn_of_a_streamed_chat_finds_its_prefix_warm(client: openai.OpenAI) -> None:
    (prompt, _), (_, cached) = two_turns(client, "auto", prompt_of_its_own(), max_tokens=4)
    # All of the first prompt; the template opens the next message where it opened the answer.
    assert cached >= prompt - 8, (prompt, cached)


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_is_valid_under_its_schema(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {
        "model": "small",
        "messages": [{"role": "user", "content": "Add 2 and 3."}],
        "tools": [ADD],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 96,
        "temperature": 0,
    }
    completion = completed(client, asked, stream=stream)
    call = completion.choices[0].message.tool_calls[0]
    assert call.function.name == "add"
    arguments = json.loads(call.function.arguments)
    assert {name: type(value) for name, value in arguments.items()} == {"a": int, "b": int}


def test_its_errors_come_in_openais_envelope(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "word " * 20_000}]
        )
    assert isinstance(caught.value.body, dict)
    assert "8192" in caught.value.body["message"]
