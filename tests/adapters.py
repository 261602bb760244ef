"""Small real LoRA adapters for tests, written byte by byte: no torch, no peft.

Random factors of a chosen size: with a large one an adapter speaks in its own way, and greedy
answers tell it from the base and from every other one.
"""

from __future__ import annotations

import json
import random
import struct
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMOLLM2_135M = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
    "vocab_size": 49152,
}
"""What the checks read of its config.json."""

KEYS = "base_model.model.model.layers.{layer}.{block}.{module}.lora_{side}.weight"
BLOCKS = {"gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}


def sizes(base: Mapping[str, int], module: str) -> tuple[int, int]:
    """(input, output) features of a linear layer."""
    hidden, head = base["hidden_size"], base["hidden_size"] // base["num_attention_heads"]
    kv = base["num_key_value_heads"] * head
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, base["intermediate_size"]),
        "up_proj": (hidden, base["intermediate_size"]),
        "down_proj": (base["intermediate_size"], hidden),
    }[module]


def write_adapter(
    folder: Path,
    *,
    seed: int = 1,
    size: float = 0.02,
    rank: int = 4,
    layers: tuple[int, ...] = (0, 15, 29),
    modules: tuple[str, ...] = ("q_proj", "v_proj", "down_proj"),
    base: Mapping[str, Any] = SMOLLM2_135M,
    **config: Any,
) -> Path:
    """An adapter folder as peft saves it; `config` overrides fields of adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    shapes = {}
    for layer in layers:
        for module in modules:
            block = BLOCKS.get(module, "self_attn")
            inputs, outputs = sizes(base, module)
            for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                key = KEYS.format(layer=layer, block=block, module=module, side=side)
                shapes[key] = shape
    tensors = {
        key: (shape, [chance.gauss(0, size) for _ in range(shape[0] * shape[1])])
        for key, shape in shapes.items()
    }
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "a/base",
        "r": rank,
        "lora_alpha": rank * 2,
        "target_modules": list(modules),
        "bias": "none",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
    """Tensors of float32, by name: (shape, numbers)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    parts = []
    at = 0
    for name, (shape, numbers) in tensors.items():
        data = array("f", numbers).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    path.write_bytes(struct.pack("<Q", len(said)) + said + b"".join(parts))
