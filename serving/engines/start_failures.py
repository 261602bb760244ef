"""What an engine's last words mean: one clause for a person, with what to do about it.

Engines fail with a trace of many lines, of which one or two tell. They are found by what vLLM,
torch and CUDA write there; the first row that matches wins, so the cause stands before its
consequences. Nothing found is no harm: the last words are shown in any case.
"""

from __future__ import annotations

import re

_KILLED = 137
_CAUSES = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), clause)
    for pattern, clause in (
        (
            r"Found no NVIDIA driver on your system",
            "this machine has no NVIDIA driver; install it, or set gpus: 0 to run on CPU",
        ),
        (
            r"driver on your system is too old|driver version is insufficient for CUDA runtime"
            r"|the provided PTX was compiled with an unsupported toolchain",
            "the NVIDIA driver is too old for the engine's CUDA; update the driver, or install "
            "a torch for the CUDA that nvidia-smi shows",
        ),
        (
            r"No CUDA GPUs are available|no CUDA-capable device is detected"
            r"|invalid device ordinal|Failed to infer device type",
            "it finds no GPU (see nvidia-smi and CUDA_VISIBLE_DEVICES); run it where the GPU is, "
            "or set gpus: 0 to run on CPU",
        ),
        (
            r"no kernel image is available for execution on the device",
            "its CUDA kernels are not built for this kind of GPU; install a build for it",
        ),
        (
            r"Torch not compiled with CUDA enabled",
            "its torch is built without CUDA; install the GPU requirements, or set gpus: 0",
        ),
        (
            r"Free memory on device .* is less than desired GPU memory utilization",
            "other programs hold the GPU's memory (nvidia-smi shows them); end them, or lower "
            "gpus or --gpu-memory-utilization in extra_args",
        ),
        (
            r"No available memory for the cache blocks",
            "the weights leave no memory for the KV cache; use a smaller or a quantised model, "
            "or give it more of the GPU (kv_cache_gib on CPU)",
        ),
        (
            r"To serve at least one request with the model'?s max seq len",
            "its KV cache is too small for one request of context_tokens; lower context_tokens, "
            "or give it more memory (kv_cache_gib on CPU)",
        ),
        (
            r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError"
            r"|CUBLAS_STATUS_ALLOC_FAILED",
            "the GPU's memory is not enough; lower context_tokens or max_running, use a smaller "
            "or a quantised model, or more gpus",
        ),
        (
            r"DefaultCPUAllocator: (?:can't|not enough) .*memory|\bMemoryError\b"
            r"|Cannot allocate memory",
            "the machine's memory is not enough; lower kv_cache_gib, use a smaller model, or "
            "free memory",
        ),
        (
            r"greater than the derived max_model_len",
            "context_tokens is more than the model was made for; lower it",
        ),
        (
            r"Address already in use",
            "the ports that it was given were taken by other programs; start it again",
        ),
        (
            r"Model architectures .* are not supported|does not recognize this architecture",
            "the engine does not know this kind of model; use a newer engine, or another model",
        ),
        (
            r"does not appear to have a file named|Error while deserializing header"
            r"|Cannot find any model weights|SafetensorError|incomplete metadata",
            "the weights are incomplete or damaged; remove their folder, and they are fetched anew",
        ),
        (
            r"error: unrecognized arguments|error: argument ",
            "it does not take one of its arguments; see extra_args of the model",
        ),
        (
            r"No module named '?vllm|No module named '?torch",
            "its Python environment is incomplete; run scripts/setup vllm, or name another in "
            "python of the model",
        ),
        (
            r"No space left on device",
            "a disk is full (/dev/shm counts); free some space",
        ),
    )
)


def cause(said: str, status: int | None = None) -> str:
    """A clause that says why an engine ended, and what to do; empty when nothing tells.

    `said` is the end of its log, `status` its exit status.
    """
    for pattern, clause in _CAUSES:
        if pattern.search(said):
            return clause
    if status == _KILLED:
        return "somebody killed it; the kernel does when memory is short (see dmesg)"
    return ""
