"""LoRA on a CPU engine, row by row the right adapter: a worker extension for vLLM's CPU build.

It runs in the engine's own Python environment and imports nothing of Warmloop's:

    PYTHONPATH=/absolute/path/worker   --worker-extension-cls warmloop_lora.WarmloopLora

vLLM marks a row that belongs to no adapter with the index -1. Its kernels for GPUs pass over such
rows; its plain torch functions for CPUs take -1 as an index, which is the last adapter. So a
request to the base model that is computed in one step with a request to an adapter is answered with
that adapter's weights, and its wrong keys and values stay in the prefix cache. Seen with two
adapters and the base side by side, 200 requests: all 68 to the base answered wrongly, and two of
its four prompts afterwards too, when it was alone.

They also copy an adapter's matrices once for every row. Here the rows of each adapter are computed
with one multiplication, and the base's not at all: a cold prompt of 92 tokens took 4.7 times as
long as the base's before, and 1.1 times as long now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from vllm.lora.ops import torch_ops
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu


def groups(indices: torch.Tensor) -> Iterator[tuple[int, Any]]:
    """Each adapter that has rows in this step, and which; rows of the base are in no group."""
    present = torch.unique(indices).tolist()
    for adapter in present:
        if adapter >= 0:
            yield (
                adapter,
                slice(None) if len(present) == 1 else (indices == adapter).nonzero()[:, 0],
            )


def matrix(stacked: torch.Tensor, adapter: int, like: torch.Tensor) -> torch.Tensor:
    """One adapter's matrix out of all slots, [output, input]."""
    return stacked[adapter].reshape(stacked.shape[-2:]).to(like.dtype)


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    """Rows of `inputs` times the first factor, into `output_tensor`; zero for the base's rows."""
    width = lora_b_weights.shape[-2]
    output_tensor[:, :width] = 0
    for adapter, rows in groups(lora_indices_tensor):
        factor = matrix(lora_b_weights, adapter, output_tensor)
        product = inputs[rows].to(output_tensor.dtype) @ factor.T
        output_tensor[rows, :width] = scaling * product


def bgmv_expand_slice(  # noqa: PLR0917  vLLM calls it so
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """Rows of `inputs` times the second factor, on top of a slice of `output_tensor`."""
    end = slice_offset + min(slice_size, lora_b_weights.shape[-2])
    if not add_inputs:
        output_tensor[:, slice_offset:end] = 0
    for adapter, rows in groups(lora_indices_tensor):
        factor = matrix(lora_b_weights, adapter, output_tensor)[: end - slice_offset]
        product = inputs[rows].to(output_tensor.dtype) @ factor.T
        output_tensor[rows, slice_offset:end] += product


def bgmv_expand(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    add_inputs: bool = True,
) -> None:
    """The same over the whole width; what is padding on either side is left out."""
    width = min(lora_b_weights.shape[-2], output_tensor.shape[1])
    bgmv_expand_slice(
        inputs, lora_b_weights, output_tensor, lora_indices_tensor, 0, width, add_inputs
    )


def install() -> None:
    """Put these functions where vLLM's own are called. Raises AttributeError for another vLLM."""
    for function in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        for module in (lora_ops, torch_ops, punica_cpu):
            getattr(module, function.__name__)
            setattr(module, function.__name__, function)


install()


class WarmloopLora:
    """Adds nothing to the worker: naming it is what has this module imported there."""
