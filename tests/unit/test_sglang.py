"""What SGLang is started with, and how what it says of itself is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from router.calls.plan import ToolPlans
from router.placing.fleet import wire_name
from serving.config.model import ModelConfig
from serving.config.router import ToolsConfig
from serving.engines import adapter_for, environment, sglang, vllm
from serving.engines.base import Command, EngineSpec
from serving.errors import EngineError
from serving.protocol import parse
from serving.tables.base import Engine

METRICS = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="small",priority=""} 3.0
sglang:num_queue_reqs{engine_type="unified",model_name="small",priority=""} 1.0
sglang:token_usage{engine_type="unified",model_name="small",priority=""} 0.0
sglang:full_token_usage{engine_type="unified",model_name="small",priority=""} 0.25
sglang:prompt_tokens_total{is_streaming="false",model_name="small",priority="0"} 1126.0
sglang:prompt_tokens_total{is_streaming="true",model_name="small",priority="-5"} 33.0
sglang:cached_tokens_total{cache_source="device",model_name="small",priority="0"} 583.0
sglang:http_requests_active{endpoint="/v1/chat/completions",method="POST"} 3.0
sglang:http_requests_active{endpoint="/v1/responses",method="POST"} 1.0
sglang:http_requests_active{endpoint="/v1/models",method="GET"} 1.0
sglang:http_requests_active{endpoint="/metrics",method="GET"} 1.0
sglang:queue_time_seconds_bucket{le="0.1",model_name="small"} 7.0
python_gc_objects_collected_total{generation="0"} 9999.0
"""
RANKS = [
    {
        "num_running_reqs": 2,
        "num_waiting_reqs": 1,
        "num_used_tokens": 500,
        "max_total_num_tokens": 1000,
        "total_prefill_uncached_tokens": 700,
        "decode_moments": [871.0, 903.0, 116390294.0, 1027.0, 121071758.0, 905.0],
    },
    {
        "num_running_reqs": 1,
        "num_waiting_reqs": 0,
        "num_used_tokens": 1,
        "max_total_num_tokens": 1000,
        "total_prefill_uncached_tokens": 40,
        "decode_moments": None,
    },
]
SMOLLM2 = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
}


@pytest.fixture(autouse=True)
def engine_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "python"
    path.touch(mode=0o755)
    monkeypatch.setenv("WARMLOOP_SGLANG_PYTHON", str(path))
    return path


def command(weights: Path = Path("/weights/small"), **config: Any) -> Command:
    model = ModelConfig.model_validate({"engine": "sglang", "sources": ["hf:a/b"], **config})
    return adapter_for("sglang").command(EngineSpec("small", model, weights, 9000))


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_every_engine_reports_cached_tokens_and_takes_priorities_as_vllm_does(
    engine_python: Path,
) -> None:
    for gpus in (0, 1):
        argv = command(gpus=gpus).argv
        assert argv[:2] == (str(engine_python), str(vllm.TOOLS / "sglang_server.py"))
        assert {"--enable-cache-report", "--enable-metrics"} < set(argv)
        assert {"--enable-priority-scheduling", "--schedule-low-priority-values-first"} < set(argv)
        assert value(argv, "--default-priority-value") == "0"
        assert value(argv, "--grammar-backend") == "xgrammar"
        assert value(argv, "--model-path") == "/weights/small"
        assert value(argv, "--served-model-name") == "small"
        assert (value(argv, "--host"), value(argv, "--port")) == ("127.0.0.1", "9000")
        assert "--disable-radix-cache" not in argv


def test_limits_come_from_the_configuration() -> None:
    argv = command(context_tokens=4096, max_running=3).argv
    assert value(argv, "--context-length") == "4096"
    assert value(argv, "--max-running-requests") == "3"


@pytest.mark.parametrize(("bf16", "tokens"), [(True, 23301), (False, 11650)])
def test_on_cpu_the_cache_is_as_large_as_configured(
    bf16: bool, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sglang, "multiplies_bf16", lambda: bf16)
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    started = command(tmp_path, kv_cache_gib=0.5, threads=2)
    # Keys and values, 30 layers, 3 heads of 64 numbers: 46,080 bytes a token in float32's half.
    assert tokens == 2**29 // (2 * 30 * 3 * 64 * (2 if bf16 else 4))
    assert value(started.argv, "--max-total-tokens") == str(tokens)
    assert value(started.argv, "--device") == "cpu"
    assert value(started.argv, "--dtype") == ("bfloat16" if bf16 else "float32")
    assert started.env["SGLANG_USE_CPU_ENGINE"] == "1"
    assert started.env["OMP_NUM_THREADS"] == "2"


def test_a_model_whose_shape_is_not_known_gets_the_cache_that_sglang_chooses() -> None:
    assert "--max-total-tokens" not in command(Path("/nowhere")).argv


@pytest.mark.parametrize(
    ("gpus", "flags"),
    [(1, ()), (4, ("--tp-size", "4")), (0.5, ("--mem-fraction-static", "0.450"))],
)
def test_on_gpus_nothing_of_the_cpu_is_left(gpus: float, flags: tuple[str, ...]) -> None:
    started = command(gpus=gpus)
    assert not {"--device", "--attention-backend", "--max-total-tokens"} & set(started.argv)
    assert not {"SGLANG_USE_CPU_ENGINE", "OMP_NUM_THREADS"} & set(started.env)
    assert started.argv[-len(flags) :] == flags or not flags


def test_our_parser_takes_the_place_of_its_hermes_unless_another_is_named() -> None:
    ours = command(max_parallel_calls=3)
    assert ours.env["SGLANG_TOOL_STRICT_LEVEL"] == "2"
    assert ours.env["WARMLOOP_MAX_PARALLEL_CALLS"] == "3"
    assert value(ours.argv, "--tool-call-parser") == "hermes"
    other = command(tool_parser="kimi_k2", reasoning_parser="kimi_k2")
    assert other.argv[1:3] == ("-m", "sglang.launch_server")
    assert value(other.argv, "--tool-call-parser") == "kimi_k2"
    assert value(other.argv, "--reasoning-parser") == "kimi_k2"


@pytest.mark.parametrize(("engine", "told"), [("vllm", True), ("sglang", False)])
def test_a_turn_that_must_call_goes_without_the_reply_tool_where_it_cannot_be_forbidden(
    engine: str, told: bool
) -> None:
    model = ModelConfig.model_validate(
        {"engine": engine, "sources": ["hf:a/b"], "auto_text": "reply"}
    )
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    for choice, reply in (("auto", True), ("required", told)):
        asked = [{"role": "user", "content": "Add."}]
        body = {"model": "small", "messages": asked, "tools": [tool], "tool_choice": choice}
        ask = parse("/v1/chat/completions", json.dumps(body).encode())
        plan = ToolPlans(ToolsConfig()).plan("/v1/chat/completions", ask, model)
        assert plan is not None
        assert plan.guarded  # both run our grammar
        assert plan.reply is reply


def test_its_processes_meet_in_a_file_of_their_own_and_not_on_a_port_for_everybody() -> None:
    places = {
        command().env["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"],
        command(gpus=2).env["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"],
    }
    assert len(places) == 2
    assert all(place.startswith("file:///") for place in places)


def test_adapters_are_as_many_as_configured_and_none_is_put_aside() -> None:
    lora = {"enabled": True, "max_rank": 32, "max_resident": 4, "max_known": 20}
    argv = command(gpus=1, lora=lora).argv
    assert "--enable-lora" in argv
    assert value(argv, "--lora-target-modules") == "all"
    assert value(argv, "--max-lora-rank") == "32"
    assert value(argv, "--max-loras-per-batch") == "5"
    assert value(argv, "--max-loaded-loras") == "20"
    assert "--enable-lora" not in command(gpus=1).argv


def test_adapters_on_cpu_are_refused_by_the_configuration() -> None:
    with pytest.raises(ValidationError, match="SGLang takes none on CPU"):
        command(lora={"enabled": True})


def test_templates_are_those_that_vllm_takes() -> None:
    assert "--chat-template" not in command().argv
    argv = command(chat_template="tools.jinja").argv
    assert value(argv, "--chat-template") == str(vllm.TOOLS / "tools.jinja")


def test_what_the_configuration_adds_comes_last_and_wins() -> None:
    started = command(extra_args=["--page-size", "16"], env={"OMP_NUM_THREADS": "8"})
    assert started.argv[-2:] == ("--page-size", "16")
    assert started.env["OMP_NUM_THREADS"] == "8"


def test_a_missing_environment_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARMLOOP_SGLANG_PYTHON")
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    with pytest.raises(EngineError, match="run scripts/setup sglang") as caught:
        command()
    assert f"{tmp_path}/.venv-sglang/bin/python (the default)" in str(caught.value)
    assert "WARMLOOP_SGLANG_PYTHON" in str(caught.value)


def test_the_load_is_of_this_moment_and_the_counters_are_the_metrics() -> None:
    load = sglang.parse_load(METRICS, RANKS)
    assert (load.running, load.waiting) == (3, 1)
    assert load.kv_usage == pytest.approx(0.2505)
    assert (load.queried_tokens, load.hit_tokens) == (1159, 583)
    assert (load.prompt_tokens, load.generated_tokens) == (740, 905)
    assert load.open_requests == 4


def test_a_server_that_says_no_loads_is_read_by_its_gauges() -> None:
    load = sglang.parse_load(METRICS, None)
    assert (load.running, load.waiting) == (3, 1)
    assert load.kv_usage == pytest.approx(0.25)


def test_an_engine_that_said_nothing_yet_is_idle() -> None:
    load = sglang.parse_load("", [])
    assert (load.running, load.waiting, load.kv_usage, load.hit_tokens) == (0, 0, 0.0, 0)


def test_an_adapter_is_asked_for_with_its_base_where_a_bare_name_would_mean_the_base() -> None:
    engine = Engine("small-1", "small", "http://x", "qwen", "sglang", adapters=("legal",))
    assert wire_name(engine, "small") == "qwen"
    assert wire_name(engine, "legal") == "qwen:legal"
    assert wire_name(replace(engine, kind="vllm"), "legal") == "legal"
    assert wire_name(replace(engine, kind="external"), "legal") == "legal"
    found = replace(engine, kind="external", found_kind="sglang")
    assert wire_name(found, "legal") == "qwen:legal"
