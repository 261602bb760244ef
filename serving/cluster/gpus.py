"""Can this machine's GPUs run these models? Asked before anything is downloaded.

    nvidia-smi --query-gpu=... ──▶ which GPUs, how much memory, how much of it free
    nvidia-smi                 ──▶ the newest CUDA that the driver can run
    .../torch/version.py       ──▶ the CUDA that the engine's torch was built for (read, not run)

All that is said comes from pure functions over these texts: one sentence for each thing that is
missing, the first of a kind that explains the others alone. A driver runs programs of its own CUDA
major version and of older ones.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.config.model import ModelConfig

QUERY = ("index", "name", "memory.total", "memory.free", "driver_version")
PATIENCE_S = 20.0
MEMORY_SHARE = 0.9
"""What vLLM takes of a GPU's memory, unless it is told otherwise."""
MIB_IN_GIB = 1024
_CUDA = re.compile(r"CUDA (?:UMD )?Version:\s*(\d+)\.(\d+)")
_TORCH_CUDA = re.compile(r"^cuda\b[^=\n]*=\s*'(\d+)\.(\d+)", re.MULTILINE)
_SHARE_FLAG = "--gpu-memory-utilization"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; memory in MiB."""

    index: int
    name: str
    total_mib: float
    free_mib: float
    driver: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the machine says of its GPUs; `trouble` is a clause when it says nothing useful."""

    gpus: tuple[Gpu, ...] = ()
    cuda: tuple[int, int] | None = None
    trouble: str = ""


def parse(query: str, banner: str, visible: str | None = None) -> Found:
    """From nvidia-smi's two outputs and CUDA_VISIBLE_DEVICES (None = all)."""
    gpus = []
    for line in query.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == len(QUERY) and parts[0].isdigit():
            gpus.append(Gpu(int(parts[0]), parts[1], _mib(parts[2]), _mib(parts[3]), parts[4]))
    if visible is not None:
        names = {part.strip() for part in visible.split(",")}
        # Ids of other kinds (GPU-…, MIG-…) cannot be told from here: they are not counted out.
        if all(name.isdigit() or not name or name == "-1" for name in names):
            kept = [gpu for gpu in gpus if str(gpu.index) in names]
            if gpus and not kept:
                return Found(trouble=f"CUDA_VISIBLE_DEVICES={visible!r} hides all {len(gpus)} GPUs")
            gpus = kept
    said = _CUDA.search(banner)
    cuda = (int(said[1]), int(said[2])) if said else None
    if not gpus:
        text = " ".join((query + " " + banner).split())
        return Found((), cuda, f"nvidia-smi finds none ({text[:160]})" if text else "there is none")
    return Found(tuple(gpus), cuda)


def torch_cuda(version_py: str) -> tuple[int, int] | None:
    """The CUDA that a torch was built for, from its version.py; None = a build without CUDA."""
    said = _TORCH_CUDA.search(version_py)
    return (int(said[1]), int(said[2])) if said else None


def lacking(
    models: Mapping[str, ModelConfig], found: Found, built_for: Mapping[str, str]
) -> list[str]:
    """One sentence for each thing that these models need and this machine lacks.

    `built_for` is each model's torch/version.py, where it was found.
    """
    wanting = {name: m for name, m in models.items() if m.gpus}
    if not wanting:
        return []
    names = ", ".join(wanting)
    needed = sum(m.gpus * m.first_replicas for m in wanting.values())
    if found.trouble:
        return [
            f"models.gpus: {names} need a GPU: {found.trouble}; install NVIDIA's driver, run this "
            "where the GPU is, or set gpus: 0 to run on CPU"
        ]
    said = [
        sentence
        for name, version_py in built_for.items()
        if name in wanting and (sentence := _wrong_cuda(name, version_py, found))
    ]
    if needed > len(found.gpus):
        said.append(
            f"models.gpus: the engines need {needed:g} GPUs ({names}), and there "
            f"{'are' if len(found.gpus) != 1 else 'is'} {len(found.gpus)}; "
            "use fewer replicas, or less of a GPU for each (gpus: 0.5)"
        )
    largest = max(found.gpus, key=lambda gpu: gpu.total_mib)
    for name, model in wanting.items():
        has_gib = largest.total_mib / MIB_IN_GIB * _share(model) * max(1.0, model.gpus)
        if model.memory_gib > has_gib:
            said.append(
                f"models.{name}.memory_gib: one replica needs {model.memory_gib:g} GiB of GPU "
                f"memory, and {model.gpus:g} x {largest.name} give it {has_gib:.1f}; "
                "use a smaller or a quantised model, or more gpus"
            )
    return said or _occupied(wanting, needed, found)


def _wrong_cuda(name: str, version_py: str, found: Found) -> str:
    built = torch_cuda(version_py)
    if built is None:
        return (
            f"models.{name}.python: its torch is built without CUDA, and gpus is not 0; "
            "install the GPU requirements there, or set gpus: 0"
        )
    if found.cuda is not None and built[0] > found.cuda[0]:
        return (
            f"models.{name}.python: its torch is built for CUDA {built[0]}.{built[1]}, and the "
            f"NVIDIA driver {found.gpus[0].driver} runs CUDA {found.cuda[0]}.{found.cuda[1]} at "
            f"most; update the driver, or install a torch for CUDA {found.cuda[0]}"
        )
    return ""


def _occupied(wanting: Mapping[str, ModelConfig], needed: float, found: Found) -> list[str]:
    """Memory that others hold: vLLM wants its share free at once, and says so late."""
    share = max(_share(model) / min(1.0, model.gpus) for model in wanting.values())
    share *= min(1.0, needed)
    freest = sorted(found.gpus, key=lambda gpu: -gpu.free_mib)
    return [
        f"models.gpus: GPU {gpu.index} ({gpu.name}) has {gpu.free_mib / MIB_IN_GIB:.1f} of "
        f"{gpu.total_mib / MIB_IN_GIB:.1f} GiB free, and the engines take "
        f"{gpu.total_mib * share / MIB_IN_GIB:.1f} of it; end what else runs there (nvidia-smi "
        f"shows it), or give {_SHARE_FLAG} in extra_args"
        for gpu in freest[: math.ceil(needed)]
        if gpu.free_mib < gpu.total_mib * share
    ]


def _share(model: ModelConfig) -> float:
    """Of each GPU's memory, what one engine of this model takes."""
    args = [part for arg in model.extra_args for part in arg.split("=", 1)]
    if _SHARE_FLAG in args[:-1]:
        return float(args[args.index(_SHARE_FLAG) + 1])
    return MEMORY_SHARE * min(1.0, model.gpus)


def look() -> Found:
    """Ask this machine. Never raises; a second or two where there is a driver."""
    query = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        texts = [
            subprocess.run(
                argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            ).stdout
            for argv in (query, query[:1])
        ]
    except FileNotFoundError:
        return Found(trouble="nvidia-smi is not there, so there is no NVIDIA driver")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Found(trouble=f"nvidia-smi does not answer ({error})")
    return parse(texts[0], texts[1], os.environ.get("CUDA_VISIBLE_DEVICES"))


def torch_version_py(interpreter: Path) -> str | None:
    """The text of torch/version.py in an interpreter's environment; None where there is none."""
    # Not resolved: a venv's python is a link to another one, whose packages are not the engine's.
    for file in sorted(
        interpreter.parent.parent.glob("lib*/python3*/site-packages/torch/version.py")
    ):
        return file.read_text(errors="replace")
    return None


def _mib(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "[N/A]" on machines whose GPU shares the host's memory
        return math.inf
