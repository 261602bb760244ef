"""Can this machine run this stack? Asked before anything is downloaded or started.

    engines  adapter, Python          of each engine must be there
    adapters files, rank, shapes      of each LoRA adapter must be such that its model can serve it
    GPUs     number, memory, CUDA            of those that nvidia-smi shows
    memory   sum of memory_gib x replicas   against   what is available, cgroup limits included
    disk     sum of disk_gib still to fetch  against   what is free where the weights are kept
    port     front.port                      must be free

A model without memory_gib or disk_gib is not counted: nobody said what it needs. External engines
run elsewhere; they and their URLs are not looked at, only the adapters that they shall load.
"""

from __future__ import annotations

import errno
import shutil
import socket
from pathlib import Path

from serving.cluster import gpus
from serving.config.home import home
from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for, environment, vllm
from serving.errors import AdapterError, ConfigError, EngineError
from serving.models import adapters, weights

GIB = 2**30
FLOAT32_FACTOR = 1.8
"""Memory of a CPU engine in float32 over bfloat16, measured on three models: 1.4 to 2.1."""


def check(config: StackConfig) -> None:
    """Raise ConfigError with one sentence for each thing that this machine lacks.

    Raises AdapterError for the first LoRA adapter that cannot be served.
    """
    own = {name: m for name, m in config.models.items() if m.engine != "external"}
    for name, model in own.items():
        _engine(name, model)
    for name, model in config.models.items():
        _adapters(name, model)
    said = (
        *_gpus(own),
        _memory(own, available_memory_bytes()),
        _disk(own, home()),
        _port(config.front.host, config.front.port),
    )
    if lacking := [sentence for sentence in said if sentence]:
        raise ConfigError("\n".join(lacking))


def _engine(name: str, model: ModelConfig) -> None:
    """Raise ConfigError where the engine's adapter or its Python is missing."""
    try:
        adapter_for(model.engine)
        if model.engine in ("vllm", "sglang"):
            environment.interpreter(model)
    except EngineError as error:
        raise ConfigError(f"models.{name}: {error}") from None


def _adapters(name: str, model: ModelConfig) -> None:
    """Raise AdapterError at the first adapter that the model could not serve.

    Whether it fits the base is only known once the weights are here; the replica looks again then.
    """
    weights_folder = weights.cached(model)
    base = adapters.base_of(weights_folder) if weights_folder is not None else None
    for adapter, folder in model.adapters.items():
        try:
            adapters.check(folder, max_rank=model.lora.max_rank, base=base)
        except AdapterError as error:
            raise AdapterError(f"models.{name}.adapters.{adapter}: {error}") from None


def _gpus(models: dict[str, ModelConfig]) -> list[str]:
    """What the GPU models lack here; nothing is asked where there are none."""
    wanting = {name: model for name, model in models.items() if model.gpus}
    if not wanting:
        return []
    pythons = {n: environment.interpreter(m) for n, m in wanting.items() if m.engine == "vllm"}
    built_for = {
        name: text for name, python in pythons.items() if (text := gpus.torch_version_py(python))
    }
    return gpus.lacking(wanting, gpus.look(), built_for)


def available_memory_bytes(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Memory that new processes of ours can take: the machine's, or less under a cgroup limit."""
    left = []
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) * 1024)
    for folder in _memory_cgroups(proc, cgroup):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),  # version 2
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
        ):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                left.append(max(0, limit - used + _reclaimable(folder)))
    return min(left)


def _memory_cgroups(proc: Path, cgroup: Path) -> list[Path]:
    """Our cgroup and those above it: each may have a limit, and the tightest one counts."""
    folders = []
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroup / "memory" if controllers else cgroup
        inner = root / path.lstrip("/")
        # In a container the path may be the host's, and ours is mounted as the root.
        folders += [inner, *(p for p in inner.parents if p.is_relative_to(root)), root]
    return list(dict.fromkeys(folders))


def _reclaimable(folder: Path) -> int:
    """File cache that the cgroup is charged for, and that gives way when memory is needed."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    stat = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(stat.get("inactive_file") or stat.get("total_inactive_file") or 0)


def _number(path: Path) -> int | None:
    """A cgroup's number; None for `max`, or where there is no such file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def memory_gib(model: ModelConfig) -> float:
    """Of one replica, on this machine's CPU."""
    on_cpu = model.engine in ("vllm", "sglang") and not model.gpus
    wide = on_cpu and not vllm.multiplies_bf16()
    return model.memory_gib * (FLOAT32_FACTOR if wide else 1)


def _memory(models: dict[str, ModelConfig], available_bytes: int) -> str | None:
    models = {name: m for name, m in models.items() if not m.gpus}  # theirs is the GPU's
    needed = sum(memory_gib(m) * m.first_replicas for m in models.values())
    if needed * GIB <= available_bytes:
        return None
    each = ", ".join(
        f"{name} {memory_gib(m):.3g}" + (f" x {m.first_replicas}" if m.first_replicas > 1 else "")
        for name, m in models.items()
        if m.memory_gib
    )
    return (
        f"models.memory_gib: the engines need {needed:.1f} GiB ({each}), and "
        f"{available_bytes / GIB:.1f} GiB of memory are available; "
        "use smaller models (configs/cpu-small.yaml), fewer replicas, or free memory"
    )


def _disk(models: dict[str, ModelConfig], folder: Path) -> str | None:
    # Two names for the same sources are fetched once.
    missing = {m.sources: m.disk_gib for m in models.values() if m.disk_gib and not _here(m)}
    needed = sum(missing.values())
    there = folder
    while not there.exists():
        there = there.parent
    free_bytes = shutil.disk_usage(there).free
    if needed * GIB <= free_bytes:
        return None
    return (
        f"models.disk_gib: {needed:.1f} GiB are needed for weights still to be fetched, and "
        f"{free_bytes / GIB:.1f} GiB are free in {folder}; free some, use smaller models "
        "(configs/cpu-small.yaml), or point WARMLOOP_HOME to a larger disk"
    )


def _here(model: ModelConfig) -> bool:
    return weights.cached(model) is not None


def _port(host: str, port: int) -> str | None:
    if port == 0:  # any free one
        return None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As uvicorn does: a connection in TIME_WAIT is no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # With SO_REUSEADDR only the second listen() of two is refused.
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return (
                    f"front.port: {port} on {host} is in use by another program; "
                    "stop it ('warmloop down' if it is ours), or choose another port, 0 for any"
                )
            if error.errno == errno.EACCES:
                return (
                    f"front.port: {port} may only be used by root; choose one above 1023, e.g. 8400"
                )
            return (
                f"front.host: {host!r} is no address of this machine ({error.strerror}); "
                "use 127.0.0.1, or 0.0.0.0 for all"
            )
    return None
