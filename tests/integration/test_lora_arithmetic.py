"""Our arithmetic of adapters for CPU engines against plain matrices, in the engine's own Python."""

from __future__ import annotations

import os
import subprocess

import pytest

from serving.config.model import ModelConfig
from serving.engines.vllm import TOOLS, interpreter

pytestmark = pytest.mark.engine

PROGRAM = """
import torch
import warmloop_lora as own
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

assert lora_ops.bgmv_shrink is punica_cpu.bgmv_shrink is own.bgmv_shrink
torch.manual_seed(0)
slots, rank, width, out = 3, 4, 16, 10
a, b = torch.randn(slots, 1, rank, width), torch.randn(slots, 1, out, rank)
for indices in ([0, -1, 2, 2, -1, 1], [1] * 6, [-1] * 6, [2, -1, -1, -1, -1, -1]):
    indices = torch.tensor(indices)
    x, base = torch.randn(6, width), torch.randn(6, 20)
    half, y, whole = torch.ones(6, rank), base.clone(), base[:, :out].clone()
    own.bgmv_shrink(x, a, half, indices, 0.5)
    own.bgmv_expand_slice(half, b, y, indices, 5, out, True)
    own.bgmv_expand(half, b, whole, indices, True)
    for row, index in enumerate(indices.tolist()):
        delta = 0.5 * b[index, 0] @ a[index, 0] @ x[row] if index >= 0 else torch.zeros(out)
        torch.testing.assert_close(y[row, 5:15], base[row, 5:15] + delta)
        torch.testing.assert_close(whole[row], base[row, :out] + delta)
    assert torch.equal(y[:, :5], base[:, :5]) and torch.equal(y[:, 15:], base[:, 15:])
    fresh = base.clone()
    own.bgmv_expand_slice(half, b, fresh, indices, 5, out, False)
    torch.testing.assert_close(fresh[:, 5:15], y[:, 5:15] - base[:, 5:15], atol=1e-4, rtol=1e-4)
    # As the prefill calls them: one index for each run of rows.
    runs, lengths = torch.unique_consecutive(indices, return_counts=True)
    again, z = torch.ones(6, rank), base.clone()
    meta = (torch.zeros_like(runs), lengths, runs, len(runs), int(lengths.max()), 6)
    lora_ops.sgmv_shrink(x, a, again, *meta, 0.5)
    lora_ops.sgmv_expand_slice(again, b, z, *meta, 5, out, True)
    torch.testing.assert_close(z, y)
    # Narrower or wider than the output: what is padding is left alone.
    narrow = base[:, :7].clone()
    own.bgmv_expand(half, b, narrow, indices, True)
    torch.testing.assert_close(narrow, whole[:, :7] - base[:, :7] + base[:, :7])
half16, ones = torch.ones(2, rank), torch.ones(2, width, dtype=torch.bfloat16)
own.bgmv_shrink(ones, a.bfloat16(), half16, torch.tensor([0, -1]))
assert half16.dtype == torch.float32 and torch.equal(half16[1], torch.zeros(rank))
print("right")
"""


def test_every_row_gets_its_own_adapter_and_the_bases_rows_get_none() -> None:
    python = interpreter(ModelConfig.model_validate({"sources": ["hf:a/b"]}))
    env = {**os.environ, "PYTHONPATH": str(TOOLS / "worker"), "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [str(python), "-c", PROGRAM], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["right"], done.stderr[-2000:]
