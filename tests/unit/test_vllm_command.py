"""What each kind of engine is started with, and how its metrics and its log are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.config.model import ModelConfig
from serving.engines import adapter_for, environment, vllm
from serving.engines.base import Command, EngineSpec
from serving.engines.ports import free_port
from serving.engines.process import meaningful
from serving.errors import EngineError

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="small"} 2.0
vllm:num_requests_running{engine="1",model_name="small"} 1.0
vllm:num_requests_waiting{engine="0",model_name="small"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="small"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="small"} 0.75
vllm:prefix_cache_queries_total{engine="0",model_name="small"} 1.5e+03
vllm:prefix_cache_hits_total{engine="0",model_name="small"} 1024.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="small"} 7.0
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="1000",other="None"} 1.0
python_gc_objects_collected_total{generation="0"} 9999.0
"""


@pytest.fixture(autouse=True)
def engine_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "python"
    path.touch(mode=0o755)
    monkeypatch.setenv("WARMLOOP_VLLM_PYTHON", str(path))
    return path


def command(**config: Any) -> Command:
    model = ModelConfig.model_validate({"sources": ["hf:a/b"], **config})
    spec = EngineSpec("small", model, Path("/weights/small"), 9000)
    return adapter_for(model.engine).command(spec)


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_every_engine_caches_prefixes_reports_cached_tokens_and_takes_priorities(
    engine_python: Path,
) -> None:
    for gpus in (0, 1):
        argv = command(gpus=gpus).argv
        assert argv[:3] == (str(engine_python), "-m", "vllm.entrypoints.openai.api_server")
        assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} < set(argv)
        assert value(argv, "--scheduling-policy") == "priority"
        assert value(argv, "--model") == "/weights/small"
        assert value(argv, "--served-model-name") == "small"
        assert (value(argv, "--host"), value(argv, "--port")) == ("127.0.0.1", "9000")
        assert "--disable-log-stats" not in argv


def test_limits_come_from_the_configuration() -> None:
    argv = command(context_tokens=4096, max_running=3, kv_cache_gib=0.5).argv
    assert value(argv, "--max-model-len") == "4096"
    assert value(argv, "--max-num-seqs") == "3"
    assert value(argv, "--kv-cache-memory-bytes") == str(2**29)


def test_on_cpu_it_is_one_eager_process_that_binds_no_cores() -> None:
    started = command(threads=2)
    assert value(started.argv, "--distributed-executor-backend") == "uni"
    assert value(started.argv, "--block-size") == "32"
    assert "--enforce-eager" in started.argv
    assert started.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert started.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert started.env["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        ("processor : 0\nflags : fpu avx2 f16c\n", "float32"),
        ("processor : 0\nflags : fpu avx2 avx512_bf16\n", "bfloat16"),
        ("processor : 0\nFeatures : fp asimd bf16\n", "bfloat16"),
        (None, "float32"),
    ],
)
def test_on_cpu_it_computes_in_what_the_cpu_can_multiply(
    cpuinfo: str | None, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        vllm.CPUINFO.write_text(cpuinfo)
    assert value(command().argv, "--dtype") == dtype
    assert "--dtype" not in command(gpus=1).argv


@pytest.mark.parametrize(
    ("gpus", "flags"),
    [
        (1, ()),
        (4, ("--tensor-parallel-size", "4", "--distributed-executor-backend", "mp")),
        (0.5, ("--gpu-memory-utilization", "0.450")),
    ],
)
def test_on_gpus_nothing_of_the_cpu_is_left(gpus: float, flags: tuple[str, ...]) -> None:
    started = command(gpus=gpus)
    assert "--enforce-eager" not in started.argv
    assert "--kv-cache-memory-bytes" not in started.argv
    assert "OMP_NUM_THREADS" not in started.env
    assert started.argv[-len(flags) :] == flags or not flags


def test_nothing_is_asked_of_a_hub_and_nothing_is_reported_to_anybody() -> None:
    assert command().env["HF_HUB_OFFLINE"] == "1"
    assert command().env["VLLM_NO_USAGE_STATS"] == "1"
    assert command().env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


def test_our_tool_parser_brings_its_plugin_and_others_do_not() -> None:
    argv = command().argv
    assert "--enable-auto-tool-choice" in argv
    assert value(argv, "--tool-call-parser") == "warmloop_hermes"
    assert value(argv, "--tool-parser-plugin") == str(vllm.TOOLS / "strict_hermes.py")
    argv = command(tool_parser="llama3_json").argv
    assert value(argv, "--tool-call-parser") == "llama3_json"
    assert "--tool-parser-plugin" not in argv


def test_a_bare_template_name_is_a_shipped_one_and_a_path_is_a_path() -> None:
    assert "--chat-template" not in command().argv
    argv = command(chat_template="tools.jinja").argv
    assert value(argv, "--chat-template") == str(vllm.TOOLS / "tools.jinja")
    argv = command(chat_template="/mine/tools.jinja").argv
    assert value(argv, "--chat-template") == "/mine/tools.jinja"


def test_what_the_configuration_adds_comes_last_and_wins() -> None:
    started = command(extra_args=["--block-size", "64"], env={"OMP_NUM_THREADS": "8"})
    assert started.argv[-2:] == ("--block-size", "64")
    assert started.env["OMP_NUM_THREADS"] == "8"


def test_an_engine_takes_adapters_only_where_the_model_has_or_wants_them() -> None:
    switch = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    plain = command()
    assert "--enable-lora" not in plain.argv
    assert switch not in plain.env
    for asked in ({"lora": {"enabled": True}}, {"adapters": {"polite": "/adapters/polite"}}):
        started = command(**asked)
        assert "--enable-lora" in started.argv
        assert started.env[switch] == "True"


def test_on_cpu_adapters_come_with_our_own_arithmetic_and_on_gpus_with_vllms() -> None:
    started = command(lora={"enabled": True})
    module, _, name = value(started.argv, "--worker-extension-cls").partition(".")
    source = (Path(started.env["PYTHONPATH"]) / f"{module}.py").read_text()
    assert f"class {name}:" in source
    started = command(lora={"enabled": True}, gpus=1)
    assert "--worker-extension-cls" not in started.argv
    assert "PYTHONPATH" not in started.env


def test_limits_of_adapters_become_flags_and_a_rank_the_next_one_that_vllm_takes() -> None:
    limits = {"enabled": True, "max_rank": 24, "max_resident": 2, "max_cached": 6}
    argv = command(lora=limits).argv
    assert value(argv, "--max-loras") == "2"
    assert value(argv, "--max-cpu-loras") == "6"
    assert value(argv, "--max-lora-rank") == "32"
    argv = command(lora={"enabled": True, "max_rank": 8}).argv
    assert value(argv, "--max-lora-rank") == "8"


def test_a_simulated_engine_takes_adapters_up_to_the_same_rank() -> None:
    assert "--max-lora-rank" not in command(engine="simulated").argv
    argv = command(engine="simulated", lora={"enabled": True, "max_rank": 8}).argv
    assert value(argv, "--max-lora-rank") == "8"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error":{"message":"rank 64 is too\\n high","code":500}}', "rank 64 is too high"),
        ('{"message": "no such file"}', "no such file"),
        ("plain   words", "plain words"),
        ("[1]", "[1]"),
        ('{"error": null}', '{"error": null}'),
    ],
)
def test_an_engines_reason_is_its_message_in_one_line(body: str, said: str) -> None:
    assert vllm.reason_in(body) == said


def test_the_interpreter_is_the_configured_one_then_the_environments(
    tmp_path: Path, engine_python: Path
) -> None:
    own = tmp_path / "own"
    own.touch(mode=0o755)
    assert command(python=str(own)).argv[0] == str(own)
    assert command().argv[0] == str(engine_python)


@pytest.mark.parametrize("told", ["python", "WARMLOOP_VLLM_PYTHON", "the default"])
def test_a_missing_environment_says_who_named_it_and_how_to_get_it(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing" / ".venv-vllm" / "bin" / "python"
    monkeypatch.delenv("WARMLOOP_VLLM_PYTHON")
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path / "missing")
    if told == "WARMLOOP_VLLM_PYTHON":
        monkeypatch.setenv(told, str(missing))
    with pytest.raises(EngineError) as caught:
        command(**({"python": str(missing)} if told == "python" else {}))
    assert f"{missing} ({told}) is not an executable" in str(caught.value)
    assert "scripts/setup vllm" in str(caught.value)


@pytest.mark.parametrize(("gpus", "part"), [(0, "vllm"), (0.5, "vllm-cuda"), (4, "vllm-cuda")])
def test_engines_on_gpus_run_in_the_environment_built_for_them(
    gpus: float, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARMLOOP_VLLM_PYTHON")
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    python = tmp_path / f".venv-{part}" / "bin" / "python"
    with pytest.raises(EngineError, match=f"run scripts/setup {part},"):
        command(gpus=gpus)
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    assert command(gpus=gpus).argv[0] == str(python)


def test_the_simulator_is_told_how_fast_to_be() -> None:
    speed = {"prefill_tokens_per_s": 5, "block_tokens": 8, "capacity_tokens": 80, "start_s": 1}
    argv = command(engine="simulated", simulator=speed, context_tokens=512).argv
    assert argv[1:3] == ("-m", "serving.simulator")
    assert value(argv, "--model") == "small"
    assert value(argv, "--prefill-tokens-per-s") == "5.0"
    assert value(argv, "--decode-tokens-per-s") == "60.0"
    assert value(argv, "--block-tokens") == "8"
    assert value(argv, "--capacity-tokens") == "80"
    assert value(argv, "--context-tokens") == "512"
    assert value(argv, "--start-s") == "1.0"


def test_load_is_summed_over_the_engines_of_a_server_and_kv_use_is_their_mean() -> None:
    load = vllm.parse_load(METRICS)
    assert (load.running, load.waiting) == (3, 4)
    assert load.kv_usage == pytest.approx(0.5)
    assert (load.queried_tokens, load.hit_tokens) == (1500, 1024)


def test_metrics_of_an_engine_that_said_nothing_yet_are_zeros() -> None:
    load = vllm.parse_load("")
    assert (load.running, load.waiting, load.kv_usage, load.hit_tokens) == (0, 0, 0.0, 0)


def test_the_last_words_are_the_exceptions_and_not_the_frames() -> None:
    log = [
        "\x1b[36m(EngineCore pid=7)\x1b[0;0m ERROR 11-22 21:30:00 [core.py:12] Traceback (most re",
        '(EngineCore pid=7) ERROR 11-22 21:30:00 [core.py:12]   File "core.py", line 1, in run',
        "(EngineCore pid=7) ERROR 11-22 21:30:00 [core.py:12] ValueError: bad header",
        "(EngineCore pid=7) ERROR 11-22 21:30:00 [core.py:13] ValueError: bad header",
        "Loading weights:  10%|#         | 27/272 [00:01<00:09]",
        "",
        "RuntimeError: Engine core initialization failed.",
    ]
    assert meaningful(log) == [
        "ValueError: bad header",
        "RuntimeError: Engine core initialization failed.",
    ]
    assert meaningful(map(str, range(100))) == [str(number) for number in range(85, 100)]


def test_sglang_writes_its_last_words_with_another_prefix() -> None:
    log = [
        "[2026-11-24 15:13:31] Load weight begin. avail mem=13.05 GB",
        "[2026-11-24 15:13:33 TP0] Scheduler hit an exception: Traceback (most recent call last):",
        '  File "scheduler.py", line 1, in run',
        "safetensors_rust.SafetensorError: incomplete metadata",
    ]
    assert meaningful(log)[0] == "Load weight begin. avail mem=13.05 GB"
    assert meaningful(log)[-1] == "safetensors_rust.SafetensorError: incomplete metadata"


def test_free_ports_are_free_and_differ() -> None:
    assert len({free_port() for _ in range(5)}) > 1
