"""What this machine lacks is said before anything is downloaded, in one sentence each."""

from __future__ import annotations

import json
import re
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import preflight
from serving.config.stack import StackConfig
from serving.engines import vllm
from serving.errors import AdapterError, ConfigError
from tests.adapters import SMOLLM2_135M, write_adapter

GIB = 2**30
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def stack(front: dict[str, Any] | None = None, **models: dict[str, Any]) -> StackConfig:
    return StackConfig.model_validate(
        {
            "models": models or {"m": {"engine": "simulated"}},
            "front": {"port": 0, **(front or {})},
        }
    )


def refusal(config: StackConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight.check(config)
    return str(caught.value)


def has(monkeypatch: pytest.MonkeyPatch, *, memory_gib: float = 64, disk_gib: float = 64) -> None:
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: int(memory_gib * GIB))
    free = Usage(0, 0, int(disk_gib * GIB))
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: free)


def test_a_stack_that_fits_passes() -> None:
    preflight.check(stack())


def test_too_little_memory_says_needed_available_and_the_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, memory_gib=8)
    said = refusal(
        stack(
            small={"engine": "simulated", "memory_gib": 3, "replicas": 2},
            frontier={"engine": "simulated", "memory_gib": 8.5},
        )
    )
    assert said.startswith("models.memory_gib: ")
    assert "need 14.5 GiB (small 3 x 2, frontier 8.5)" in said
    assert "8.0 GiB of memory are available" in said
    assert "configs/cpu-small.yaml" in said


def test_external_engines_take_no_memory_here(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, memory_gib=1)
    external = {"engine": "external", "urls": ["http://127.0.0.1:1"], "memory_gib": 80}
    preflight.check(stack(far=external))


def test_too_little_disk_says_needed_free_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    has(monkeypatch, disk_gib=4)
    model = {"engine": "vllm", "sources": ["hf:a/b"], "disk_gib": 4.5}
    said = refusal(stack(frontier=model))
    assert said.startswith("models.disk_gib: 4.5 GiB are needed")
    assert f"4.0 GiB are free in {home}" in said
    assert "WARMLOOP_HOME" in said


def test_two_models_with_the_same_weights_need_the_disk_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, disk_gib=5)
    model = {"engine": "vllm", "sources": ["hf:a/b"], "disk_gib": 4.5}
    preflight.check(stack(one=model, two=model))


def test_weights_that_are_there_need_no_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    has(monkeypatch, disk_gib=1)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("x")
    model = {"engine": "vllm", "sources": [f"path:{tmp_path}"], "disk_gib": 4.5}
    preflight.check(stack(one=model))


def test_a_port_in_use_is_named_with_the_fix(taken_port: int) -> None:
    said = refusal(stack({"port": taken_port}))
    assert said.startswith(f"front.port: {taken_port} on 127.0.0.1 is in use")
    assert "choose another port" in said


def test_an_address_of_another_machine_is_refused() -> None:
    assert refusal(stack({"host": "192.0.2.1", "port": 8400})).startswith("front.host: '192.0.2.1'")


def test_a_free_port_stays_free(taken_port: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        preflight.check(stack({"port": port}))


def test_all_that_is_lacking_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, taken_port: int
) -> None:
    has(monkeypatch, memory_gib=1, disk_gib=1)
    model = {"engine": "vllm", "sources": ["hf:a/b"], "disk_gib": 4, "memory_gib": 4}
    said = refusal(stack({"port": taken_port}, m=model)).splitlines()
    assert [re.split(":", line)[0] for line in said] == [
        "models.memory_gib",
        "models.disk_gib",
        "front.port",
    ]


def machine(folder: Path, cgroup_line: str, available_gib: int = 10) -> tuple[Path, Path]:
    proc, cgroup = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available_gib * 2**20} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup_line + "\n")
    return proc, cgroup


def limits(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_memory_is_the_machines_where_no_cgroup_limits_it(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "0::/app")
    limits(cgroup / "app", memory__max="max", memory__current=GIB)
    assert preflight.available_memory_bytes(proc, cgroup) == 10 * GIB


def test_a_cgroup_limit_counts_less_what_is_used_and_not_given_back(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "0::/app")
    limits(
        cgroup / "app",
        memory__max=4 * GIB,
        memory__current=3 * GIB,
        memory__stat=f"anon 1\ninactive_file {GIB}",
    )
    assert preflight.available_memory_bytes(proc, cgroup) == 2 * GIB


def test_the_tightest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "0::/pod/app")
    limits(cgroup / "pod" / "app", memory__max=8 * GIB, memory__current=0)
    limits(cgroup / "pod", memory__max=5 * GIB, memory__current=GIB)
    assert preflight.available_memory_bytes(proc, cgroup) == 4 * GIB


def test_a_container_sees_its_own_limit_at_the_root(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "0::/host/path/of/this/container")
    limits(cgroup, memory__max=2 * GIB, memory__current=0)
    assert preflight.available_memory_bytes(proc, cgroup) == 2 * GIB


def test_version_1_cgroups_are_read_too(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "4:memory:/app\n1:cpu:/app\n0::/")
    limits(
        cgroup / "memory" / "app",
        memory__limit_in_bytes=3 * GIB,
        memory__usage_in_bytes=GIB,
        memory__stat="total_inactive_file 0",
    )
    assert preflight.available_memory_bytes(proc, cgroup) == 2 * GIB


@pytest.mark.parametrize(
    ("flags", "needed"), [("flags : avx512_bf16", "4.0"), ("flags : avx2", "7.2")]
)
def test_a_cpu_without_bfloat16_needs_the_memory_of_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, needed: str
) -> None:
    has(monkeypatch, memory_gib=1)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(flags + "\n")
    monkeypatch.setattr(vllm, "CPUINFO", cpuinfo)
    said = refusal(stack(m={"engine": "vllm", "sources": ["hf:a/b"], "memory_gib": 4}))
    assert f"need {needed} GiB" in said


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_missing_engine_environment_is_said_before_weights_are_fetched(
    engine: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "python")
    said = refusal(stack(m={"engine": engine, "sources": ["hf:a/b"], "python": missing}))
    assert said.startswith("models.m: ")
    assert missing in said
    assert f"scripts/setup {engine}" in said


def test_an_adapter_that_cannot_be_served_is_named_by_its_field(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "high", rank=32, layers=(0,), modules=("q_proj",))
    for engine in ({"engine": "simulated"}, {"engine": "external", "urls": ["http://a"]}):
        with pytest.raises(AdapterError) as caught:
            preflight.check(stack(m={**engine, "adapters": {"high": str(folder)}}))
        assert str(caught.value) == (
            f"models.m.adapters.high: {folder}/adapter_config.json: r: 32 is more than the 16 that "
            "the engine takes; raise lora.max_rank of the model, or train with a lower rank"
        )
    preflight.check(
        stack(
            m={
                "engine": "simulated",
                "adapters": {"high": str(folder)},
                "lora": {"max_rank": 32},
            }
        )
    )


def test_an_adapter_of_another_base_is_seen_where_the_weights_are_here(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (weights / name).touch()
    (weights / "config.json").write_text(json.dumps({**SMOLLM2_135M, "hidden_size": 1152}))
    folder = write_adapter(tmp_path / "other", layers=(0,), modules=("q_proj",))
    model = {
        "engine": "simulated",
        "sources": [f"path:{weights}"],
        "adapters": {"other": str(folder)},
    }
    with pytest.raises(AdapterError, match="has 576 input features where the base has 1152"):
        preflight.check(stack(m=model))


def test_a_gpu_model_on_a_machine_without_one_is_one_line_and_takes_no_host_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, memory_gib=1)
    monkeypatch.setenv("PATH", "/nowhere")
    said = refusal(stack(big={"engine": "simulated", "gpus": 1, "memory_gib": 60}))
    assert said.startswith("models.gpus: big need a GPU: nvidia-smi is not there")
    assert "\n" not in said
