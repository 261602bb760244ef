"""What is said of a machine's GPUs before anything is started, from what nvidia-smi prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.cluster import gpus
from serving.config.model import ModelConfig
from serving.engines.start_failures import cause

QUERY = """\
0, NVIDIA H100 80GB HBM3, 81559, 81004, 550.127.08
1, NVIDIA H100 80GB HBM3, 81559, 10240, 550.127.08
"""
BANNER = """\
Tue Nov 24 15:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.127.08             Driver Version: 550.127.08     CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
"""
NO_DEVICES = "No devices were found\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
    "that the latest NVIDIA driver is installed and running.\n"
)
TORCH = "__version__ = '2.13.0+cu{0}{1}'\ndebug = False\ncuda: Optional[str] = '{0}.{1}'\n"
TORCH_CPU = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"


def model(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"engine": "simulated", "gpus": 1, **fields})


def said(model: ModelConfig, found: gpus.Found, torch: str = TORCH.format(12, 9)) -> list[str]:
    return gpus.lacking({"big": model}, found, {"big": torch})


def test_two_gpus_are_read_with_their_memory_and_the_drivers_cuda() -> None:
    found = gpus.parse(QUERY, BANNER)
    assert [(g.index, g.total_mib, g.free_mib) for g in found.gpus] == [
        (0, 81559, 81004),
        (1, 81559, 10240),
    ]
    assert found.cuda == (12, 4)
    assert not found.trouble
    assert gpus.parse(QUERY, BANNER.replace("CUDA Version", "CUDA UMD Version")).cuda == (12, 4)


def test_a_model_that_fits_needs_no_word() -> None:
    assert said(model(memory_gib=60), gpus.parse(QUERY, BANNER)) == []
    assert gpus.lacking({"small": model(gpus=0)}, gpus.Found(trouble="none"), {}) == []


@pytest.mark.parametrize(
    ("query", "banner", "visible", "why"),
    [
        ("", "", None, "there is none"),
        (NO_DEVICES, NO_DEVICES, None, "nvidia-smi finds none (No devices were found"),
        (NO_DRIVER, NO_DRIVER, None, "couldn't communicate with the NVIDIA driver"),
        (QUERY, BANNER, "", "CUDA_VISIBLE_DEVICES='' hides all 2 GPUs"),
        (QUERY, BANNER, "7", "CUDA_VISIBLE_DEVICES='7' hides all 2 GPUs"),
    ],
)
def test_no_gpu_is_one_sentence(query: str, banner: str, visible: str | None, why: str) -> None:
    (sentence,) = said(model(replicas=4, memory_gib=99), gpus.parse(query, banner, visible))
    assert sentence.startswith("models.gpus: big need a GPU: ")
    assert why in sentence
    assert "\n" not in sentence


def test_only_visible_gpus_count() -> None:
    assert [g.index for g in gpus.parse(QUERY, BANNER, "1").gpus] == [1]
    assert len(gpus.parse(QUERY, BANNER, "GPU-8932f937").gpus) == 2


def test_too_few_gpus() -> None:
    (sentence,) = said(model(gpus=2, replicas=2), gpus.parse(QUERY, BANNER))
    assert sentence.startswith("models.gpus: the engines need 4 GPUs (big), and there are 2; ")


def test_a_torch_for_a_newer_cuda_than_the_drivers() -> None:
    (sentence,) = said(model(), gpus.parse(QUERY, BANNER), TORCH.format(13, 0))
    assert sentence == (
        "models.big.python: its torch is built for CUDA 13.0, and the NVIDIA driver 550.127.08 "
        "runs CUDA 12.4 at most; update the driver, or install a torch for CUDA 12"
    )
    newer = BANNER.replace("12.4", "13.1")
    assert said(model(), gpus.parse(QUERY, newer), TORCH.format(12, 9)) == []


def test_a_torch_without_cuda() -> None:
    (sentence,) = said(model(), gpus.parse(QUERY, BANNER), TORCH_CPU)
    assert "its torch is built without CUDA" in sentence


def test_a_model_that_is_larger_than_its_share() -> None:
    (sentence,) = said(model(gpus=0.5, memory_gib=60), gpus.parse(QUERY, BANNER))
    assert "needs 60 GiB of GPU memory, and 0.5 x NVIDIA H100 80GB HBM3 give it 35.8" in sentence
    assert said(model(gpus=2, memory_gib=140, extra_args=["--gpu-memory-utilization=0.1"]), (
        gpus.parse(QUERY.replace("10240", "81000"), BANNER)
    )) == [
        "models.big.memory_gib: one replica needs 140 GiB of GPU memory, and 2 x NVIDIA H100 80GB "
        "HBM3 give it 15.9; use a smaller or a quantised model, or more gpus"
    ]  # fmt: skip


def test_memory_that_others_hold_is_said_with_the_gpu() -> None:
    (sentence,) = said(model(replicas=2), gpus.parse(QUERY, BANNER))
    assert sentence.startswith(
        "models.gpus: GPU 1 (NVIDIA H100 80GB HBM3) has 10.0 of 79.6 GiB free, and the engines "
        "take 71.7 of it; end what else runs there"
    )
    small = model(replicas=2, extra_args=["--gpu-memory-utilization", "0.1"])
    assert said(small, gpus.parse(QUERY, BANNER)) == []


def test_torchs_version_file_is_found_beside_the_interpreter_and_only_read(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    real = tmp_path / "elsewhere"
    real.touch()
    (tmp_path / "bin" / "python").symlink_to(real)
    assert gpus.torch_version_py(tmp_path / "bin" / "python") is None
    torch = tmp_path / "lib" / "python3.11" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text("raise SystemExit\n" + TORCH.format(12, 9))
    text = gpus.torch_version_py(tmp_path / "bin" / "python")
    assert text is not None
    assert gpus.torch_cuda(text) == (12, 9)


def test_a_machine_without_nvidia_smi_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus.look().trouble == "nvidia-smi is not there, so there is no NVIDIA driver"


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            1,
            "the GPU's memory is not enough",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.2/79.2 GiB) on startup is less than "
            "desired GPU memory utilization (0.9, 71.3 GiB). Decrease GPU memory utilization",
            1,
            "other programs hold the GPU's memory",
        ),
        ("RuntimeError: No CUDA GPUs are available", 1, "it finds no GPU"),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
            1,
            "the NVIDIA driver is too old",
        ),
        (
            "RuntimeError: Found no NVIDIA driver on your system. Please check that you have",
            1,
            "this machine has no NVIDIA driver",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (32768), "
            "(1.5 GiB KV cache is needed",
            1,
            "its KV cache is too small for one request of context_tokens",
        ),
        ("OSError: [Errno 98] Address already in use", 1, "the ports that it was given"),
        (
            "safetensors_rust.SafetensorError: Error while deserializing header: incomplete",
            1,
            "the weights are incomplete or damaged",
        ),
        ("api_server.py: error: unrecognized arguments: --nope", 2, "see extra_args of the model"),
        ("INFO all is well", 137, "somebody killed it"),
        ("INFO all is well", 1, ""),
    ],
)
def test_what_vllm_says_of_its_end_is_told_in_one_clause(words: str, status: int, why: str) -> None:
    said = cause(f"INFO starting\n{words}\nEngine core initialization failed.", status)
    assert why in said
    assert bool(said) == bool(why)
    assert "\n" not in said
