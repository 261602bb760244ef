"""The shipped adapter's files, read without an engine."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "adapters" / "smollm2-tools"
LAYERS, MODULES = 30, 7
BYTES = 12_000_000


def tensors() -> dict[str, dict[str, object]]:
    """The header of the safetensors file: name → dtype, shape, offsets."""
    with (FOLDER / "adapter_model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, dict[str, object]] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def test_the_folder_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < BYTES


def test_its_configuration_names_the_public_base_and_no_path_of_a_machine() -> None:
    config = json.loads((FOLDER / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert config["peft_type"] == "LORA"
    assert config["r"] in (8, 16)  # vLLM reserves memory for the largest rank
    assert len(config["target_modules"]) == MODULES
    assert not [value for value in config.values() if isinstance(value, str) and "/root" in value]


def test_every_layer_has_both_matrices_of_each_module_with_the_rank_that_is_said() -> None:
    config = json.loads((FOLDER / "adapter_config.json").read_text(encoding="utf-8"))
    found = tensors()
    assert len(found) == LAYERS * MODULES * 2
    for layer in range(LAYERS):
        for module in config["target_modules"]:
            mine = [n for n in found if f".layers.{layer}." in n and f".{module}." in n]
            shapes = {name.rsplit(".", 2)[1]: found[name]["shape"] for name in mine}
            a, b = shapes["lora_A"], shapes["lora_B"]
            assert isinstance(a, list)
            assert isinstance(b, list)
            assert a[0] == b[1] == config["r"]


def test_the_file_is_as_long_as_its_tensors_say() -> None:
    path = FOLDER / "adapter_model.safetensors"
    length = 0
    for tensor in tensors().values():
        shape = tensor["shape"]
        assert isinstance(shape, list)
        assert tensor["dtype"] == "BF16"
        length += 2 * math.prod(shape)
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    assert path.stat().st_size == 8 + header + length
