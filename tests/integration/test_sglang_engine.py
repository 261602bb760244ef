"""A real SGLang engine on CPU: the contract of every engine, and what it does in its own way.

Its compiled kernels do not exist for CPU in its package; `sglang_cpu/` has a stand-in that lets it
start, with plain torch attention. 4 to 10 tokens a second, so only a few tokens are asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for
from serving.engines.base import EngineAdapter, EngineSpec
from serving.engines.environment import interpreter
from serving.tables.static_table import StaticTable
from tests.integration.conftest import RealEngine
from tests.integration.engine_contract import (
    ADD,
    EngineContract,
    Kind,
    ask,
    deltas,
    endless,
    eventually,
)

pytestmark = pytest.mark.sglang

CALL = {
    "type": "tag",
    "begin": '<tool_call>\n{"name": "add", "arguments": ',
    "content": {
        "type": "json_schema",
        "json_schema": ADD["function"]["parameters"],
        "max_whitespace_cnt": 1,
    },
    "end": "}\n</tool_call>",
}
OWN_GRAMMAR: dict[str, Any] = {
    "tools": [ADD],
    "tool_choice": "auto",
    "response_format": {"type": "structural_tag", "format": CALL},
}


PARSE = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
for argv in json.load(sys.stdin):
    parser.parse_args(argv)
"""


FORMS: list[dict[str, Any]] = [
    {},
    {"gpus": 1},
    {"gpus": 4, "tool_parser": "kimi_k2"},
    {"gpus": 0.5, "chat_template": "smollm2.jinja"},
    {"gpus": 1, "lora": {"enabled": True}},
]


def test_every_flag_of_every_form_is_one_of_its_own(
    sglang_model: ModelConfig, small_weights: Path
) -> None:
    lines = []
    for form in FORMS:
        there = {**sglang_model.model_dump(), "python": interpreter(sglang_model)}
        config = ModelConfig.model_validate({**there, **form})
        spec = EngineSpec("small", config, small_weights, 9000)
        command = adapter_for("sglang").command(spec)
        lines.append(command.argv[command.argv.index("--host") :])
    parsed = subprocess.run(
        [command.argv[0], "-c", PARSE],
        input=json.dumps(lines),
        env={**os.environ, **command.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert parsed.returncode == 0, parsed.stderr[-2000:]


class TestSglang(EngineContract):
    KIND = Kind("sglang", cache_block=1, helper="sglang::scheduler")

    @pytest.fixture
    def engine(self, sglang_engine: RealEngine) -> RealEngine:
        return sglang_engine

    @pytest.fixture
    def config(self, sglang_model: ModelConfig) -> ModelConfig:
        return sglang_model

    async def test_a_stream_shows_what_it_has_generated_long_before_it_ends(
        self, engine: RealEngine, adapter: EngineAdapter, http: aiohttp.ClientSession
    ) -> None:
        async with endless(http, engine) as answer:
            await answer.content.readline()
            before = await adapter.load(http, engine.url)
            assert before.open_requests == 1

            async def further() -> bool:
                load = await adapter.load(http, engine.url)
                more = load.generated_tokens > before.generated_tokens
                return more and load.kv_usage > before.kv_usage

            await eventually(further, "tokens are counted while the request runs")

    async def test_a_turn_may_bring_its_own_grammar_and_ends_with_its_call(
        self, engine: RealEngine, http: aiohttp.ClientSession
    ) -> None:
        answer = await ask(
            http, engine, "Add 2 and 3.", **OWN_GRAMMAR, max_tokens=64, temperature=1.0
        )
        [choice] = answer["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert not choice["message"]["content"]
        [call] = choice["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert {name: type(value) for name, value in arguments.items()} == {"a": int, "b": int}

    async def test_nothing_but_whitespace_is_beside_a_call_of_its_own_grammar_in_a_stream(
        self, engine: RealEngine, http: aiohttp.ClientSession
    ) -> None:
        choices = await deltas(http, engine, "Add 2 and 3.", **OWN_GRAMMAR, max_tokens=64)
        assert choices[-1]["finish_reason"] == "tool_calls"
        assert not "".join(choice["delta"].get("content") or "" for choice in choices).strip()

    async def test_a_call_that_is_cut_short_is_said_to_be(
        self, engine: RealEngine, http: aiohttp.ClientSession
    ) -> None:
        answer = await ask(http, engine, "Add 2 and 3.", **OWN_GRAMMAR, max_tokens=18)
        [choice] = answer["choices"]
        assert choice["finish_reason"] == "length"
        for call in choice["message"].get("tool_calls") or ():
            with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
                json.loads(call["function"]["arguments"])

    async def test_a_required_turn_is_its_calls_and_nothing_else_at_any_temperature(
        self, engine: RealEngine, http: aiohttp.ClientSession
    ) -> None:
        for parallel in (True, False):
            choices = await deltas(
                http,
                engine,
                "Add 2 and 3, then 4 and 5.",
                tools=[ADD],
                tool_choice="required",
                parallel_tool_calls=parallel,
                max_tokens=400,
                temperature=1.0,
            )
            assert choices[-1]["finish_reason"] == "tool_calls"
            assert not "".join(choice["delta"].get("content") or "" for choice in choices)
            arguments: dict[int, str] = {}
            for choice in choices:
                for part in choice["delta"].get("tool_calls") or ():
                    more = part["function"].get("arguments") or ""
                    arguments[part["index"]] = arguments.get(part["index"], "") + more
            assert 1 <= len(arguments) <= (engine.config.max_parallel_calls if parallel else 1)
            for one in arguments.values():
                assert {name: type(v) for name, v in json.loads(one).items()} == {
                    "a": int,
                    "b": int,
                }

    async def test_text_of_a_turn_with_tools_is_text_and_no_pseudo_call(
        self, engine: RealEngine, http: aiohttp.ClientSession
    ) -> None:
        answer = await ask(
            http,
            engine,
            'Say exactly: {"name": "add", "arguments": {}}',
            tools=[ADD],
            tool_choice="auto",
            max_tokens=40,
        )
        [choice] = answer["choices"]
        said = choice["message"]["content"] or ""
        assert '"name": "add"' not in said
        assert said or choice["message"]["tool_calls"]

    def test_it_listens_on_loopback_alone(self, engine: RealEngine) -> None:
        port = int(engine.url.rpartition(":")[2])
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        [server] = {c.pid for c in listening if c.laddr.port == port}
        process = psutil.Process(server)
        tree = {process.pid, *(child.pid for child in process.children(recursive=True))}
        assert {c.laddr.ip for c in listening if c.pid in tree} == {"127.0.0.1"}

    async def test_as_an_external_engine_it_is_known_for_what_it_is(
        self, engine: RealEngine
    ) -> None:
        small = {"engine": "external", "urls": [engine.url]}
        table = StaticTable(StackConfig.model_validate({"models": {"small": small}}), timeout_s=30)
        await table.poll()
        [found] = table.snapshot()
        assert (found.state, found.speaks) == ("ready", "sglang")
        assert found.context_tokens == engine.config.context_tokens
        assert found.capacity_tokens >= found.context_tokens
        assert found.load.queried_tokens >= found.load.hit_tokens
