"""Can this engine serve this LoRA adapter? Read from the adapter's files before an engine is asked.

    FOLDER/adapter_config.json         what it is: peft's fields
    FOLDER/adapter_model.safetensors   what it holds: 8 bytes, a JSON header, then numbers

An engine finds some of this out as well, but half-way through a load, and not all of it: vLLM takes
an adapter whose matrices are smaller than the base's, or whose layers the base does not have, and
answers nonsense, or as the base does. Only the header of the weights is read here, so a check takes
milliseconds whatever their size.

    check(folder, max_rank=16, base=base_of(weights))   AdapterFacts, or AdapterError
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import AdapterError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_HEADER_BYTES = 32 * 2**20
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways to begin a training that leave the base's weights as they are."""

# Fields that change what an adapter means, and that engines do not serve: what to do about each.
_UNSERVED = {
    "use_dora": "DoRA is not served by engines; train with use_dora: false",
    "lora_bias": "biases are not served by engines; train with lora_bias: false",
    "modules_to_save": "whole layers beside the low-rank ones are not served; train without them",
    "alora_invocation_tokens": "activated LoRA is not served; train a plain one",
    "layer_replication": "replicated layers are not served; train on the plain base",
    "use_bdlora": "block-diagonal LoRA is not served; train a plain one",
    "use_qalora": "QALoRA is not served; train a plain one",
    "trainable_token_indices": "trained tokens are not served; train without them",
}
_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# Parts of the base that peft may store along with resized embeddings; engines pass over them.
_PASSED_OVER = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
DENSE_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite")
"""Kinds of model whose linear layers are all listed in `_layer_sizes`."""


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the files of an adapter say of it."""

    rank: int
    """The largest rank of any module."""
    modules: tuple[str, ...]
    """Names of the layers that it changes, without their places."""
    trained_on: str
    """base_model_name_or_path: where the trainer had its base from; empty when it does not say."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]


def base_of(weights: Path) -> dict[str, Any] | None:
    """The base model's config.json, or None where it cannot be read; then shapes go unchecked."""
    try:
        found = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    text = found.get("text_config")  # of a model that also sees or hears
    return {**found, **text} if isinstance(text, dict) else found


def check(folder: Path, *, max_rank: int, base: Mapping[str, Any] | None = None) -> AdapterFacts:
    """What the adapter is; raises AdapterError naming the file, the value and the fix."""
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    config = _config(folder)
    rank = _plain_lora(config_path, config, max_rank)
    tensors = _header(weights_path)
    pairs = _pairs(weights_path, tensors)
    trained_on = str(config.get("base_model_name_or_path") or "")
    fix = "load it under the base that it was trained on"
    if trained_on:
        fix += f" (base_model_name_or_path: {_short(trained_on)})"
    for module, (a, b) in pairs.items():
        _fits_rank(weights_path, module, a, b, _rank_of(config, module, rank))
        if base is not None:
            _fits_base(weights_path, a, b, base, fix)
    ranks = [rank, *(config.get("rank_pattern") or {}).values()]
    names = sorted({module.rpartition(".")[2] for module in pairs})
    return AdapterFacts(max(ranks), tuple(names), trained_on)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such folder; give the folder that peft saved")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        if len(raw) > MAX_CONFIG_BYTES:
            raise AdapterError(f"{path}: is larger than {MAX_CONFIG_BYTES} bytes; save it anew")
        found = json.loads(raw)
    except FileNotFoundError:
        raise AdapterError(
            f"{path}: is missing; give the folder that peft's save_pretrained wrote"
        ) from None
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read: {error.strerror}; mend its rights") from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: is not valid JSON ({error}); save the adapter anew") from None
    if not isinstance(found, dict):
        raise AdapterError(f"{path}: is not a JSON object; save the adapter anew")
    return found


def _plain_lora(path: Path, config: Mapping[str, Any], max_rank: int) -> int:
    """The common rank of an adapter that engines can serve."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(
            f"{path}: peft_type: {kind!r} cannot be served; train an adapter of the type LORA"
        )
    for field, fix in _UNSERVED.items():
        if config.get(field):
            raise AdapterError(f"{path}: {field}: {_short(config[field])}: {fix}")
    if (bias := config.get("bias", "none")) != "none":
        raise AdapterError(f"{path}: bias: {_short(bias)} is not served; train with bias: none")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        raise AdapterError(
            f"{path}: init_lora_weights: {init!r} changes the base's weights; convert it to a "
            "plain LoRA with peft's path_initial_model_for_weight_conversion"
        )
    rank: Any = config.get("r")
    if not _is_count(rank):
        raise AdapterError(f"{path}: r: {_short(rank)} is no rank; write a whole number from 1 on")
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise AdapterError(f"{path}: lora_alpha: {_short(alpha)} is not a number; write one")
    if not config.get("target_modules"):
        raise AdapterError(f"{path}: target_modules: is missing; name the layers that it changes")
    patterns = config.get("rank_pattern") or {}
    if not isinstance(patterns, dict) or not all(map(_is_count, patterns.values())):
        raise AdapterError(f"{path}: rank_pattern: {_short(patterns)} does not map names to ranks")
    largest = max([rank, *patterns.values()])
    if largest > max_rank:
        where = "r" if largest == rank else "rank_pattern"
        raise AdapterError(
            f"{path}: {where}: {largest} is more than the {max_rank} that the engine takes; raise "
            "lora.max_rank of the model, or train with a lower rank"
        )
    return int(rank)


def _header(path: Path) -> list[_Tensor]:
    """The tensors' names and shapes; the file is exactly as long as they say."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(8)
            length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
            if not 2 <= length <= MAX_HEADER_BYTES or length > size - 8:
                raise AdapterError(f"{path}: is not a safetensors file, or cut short; copy it anew")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        pickled = path.with_name("adapter_model.bin").exists()
        fix = "convert adapter_model.bin to it; pickles are not read" if pickled else "save it anew"
        raise AdapterError(f"{path}: is missing; {fix}") from None
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read: {error.strerror}; mend its rights") from None
    except (ValueError, RecursionError):
        raise AdapterError(f"{path}: its header is not valid JSON; save the adapter anew") from None
    tensors = list(_tensors(path, header))
    if not tensors:
        raise AdapterError(f"{path}: holds no tensors; save the adapter anew")
    end = max(last for _, last in tensors)
    if 8 + length + end != size:
        raise AdapterError(
            f"{path}: has {size} bytes where its header promises {8 + length + end}: cut short or "
            "overwritten; copy it anew"
        )
    return [tensor for tensor, _ in tensors]


def _tensors(path: Path, header: Any) -> Iterator[tuple[_Tensor, int]]:
    """Each tensor and where its bytes end."""
    entries: Any = header.items() if isinstance(header, dict) else [("", None)]
    for name, entry in entries:
        if name == "__metadata__":
            continue
        try:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            first, last = entry["data_offsets"]
            width = DTYPE_BYTES.get(dtype)
            whole = width is not None and last - first == width * math.prod(shape)
        except (TypeError, KeyError, ValueError):
            raise AdapterError(
                f"{path}: its header does not describe {_short(name)}; save the adapter anew"
            ) from None
        if width is None:
            raise AdapterError(
                f"{path}: {name} is of type {dtype}; save the adapter as {', '.join(DTYPE_BYTES)}"
            )
        if not whole or first < 0:
            raise AdapterError(f"{path}: {name}: bytes and shape disagree; save the adapter anew")
        yield _Tensor(name, shape), last


def _pairs(path: Path, tensors: list[_Tensor]) -> dict[str, tuple[_Tensor, _Tensor]]:
    """Each changed layer with its two factors."""
    halves: dict[str, dict[str, _Tensor]] = {}
    for tensor in tensors:
        if tensor.name.endswith(_PASSED_OVER):
            continue
        found = _TENSOR.fullmatch(tensor.name)
        if found is None:
            raise AdapterError(
                f"{path}: {tensor.name} is no factor of a LoRA (lora_A, lora_B); engines do not "
                "serve it; train without it"
            )
        if len(tensor.shape) != 2:
            raise AdapterError(f"{path}: {tensor.name} has the shape {tensor.shape}, not two sides")
        halves.setdefault(found[1], {})[found[2]] = tensor
    for module, sides in halves.items():
        if len(sides) < 2:
            lacks = "B" if "A" in sides else "A"
            raise AdapterError(f"{path}: {module} lacks lora_{lacks}; save the adapter anew")
    if not halves:
        raise AdapterError(f"{path}: holds no lora_A and lora_B; save the adapter anew")
    return {module: (sides["A"], sides["B"]) for module, sides in halves.items()}


def _rank_of(config: Mapping[str, Any], module: str, rank: int) -> int:
    """peft's rule: the first pattern that matches the end of the name at a dot."""
    for pattern, own in (config.get("rank_pattern") or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return int(own)
        except re.error:
            continue
    return rank


def _fits_rank(path: Path, module: str, a: _Tensor, b: _Tensor, rank: int) -> None:
    if a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterError(
            f"{path}: {module} has the ranks {a.shape[0]} and {b.shape[1]} where {CONFIG} says "
            f"{rank}; use the two files of one training"
        )


def _fits_base(path: Path, a: _Tensor, b: _Tensor, base: Mapping[str, Any], fix: str) -> None:
    layers = _count(base, "num_hidden_layers")
    layer = _LAYER.search(a.name)
    if layer is not None and layers and int(layer[1]) >= layers:
        raise AdapterError(
            f"{path}: {a.name} is in layer {layer[1]}, and the base has {layers} (0 to "
            f"{layers - 1}); {fix}"
        )
    if (kind := base.get("model_type")) not in DENSE_DECODERS:
        return  # experts, towers, fused layers: the engine knows them better
    found = _TENSOR.fullmatch(a.name)
    name = found[1].rpartition(".")[2] if found else ""
    known = _layer_sizes(base)
    if name not in known:
        raise AdapterError(
            f"{path}: {a.name}: a {kind} model has no layer {name!r}; target_modules may be "
            + ", ".join(known)
        )
    inputs, outputs = known[name]
    for tensor, side, has, wants in (
        (a, "input", a.shape[1], inputs),
        (b, "output", b.shape[0], outputs),
    ):
        if wants and has != wants:
            raise AdapterError(
                f"{path}: {tensor.name} has {has} {side} features where the base has {wants}; {fix}"
            )


def _layer_sizes(base: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(input, output) features of a dense decoder's linear layers; 0 = config.json is silent."""
    hidden, inner = _count(base, "hidden_size"), _count(base, "intermediate_size")
    heads, vocabulary = _count(base, "num_attention_heads"), _count(base, "vocab_size")
    head = _count(base, "head_dim") or (hidden // heads if heads else 0)
    wide, narrow = heads * head, (_count(base, "num_key_value_heads") or heads) * head
    return {
        "q_proj": (hidden, wide),
        "k_proj": (hidden, narrow),
        "v_proj": (hidden, narrow),
        "o_proj": (wide, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
        "lm_head": (hidden, vocabulary),
        "embed_tokens": (vocabulary, hidden),
    }


def _count(base: Mapping[str, Any], key: str) -> int:
    found: Any = base.get(key)
    return int(found) if _is_count(found) else 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _short(value: Any) -> str:
    return repr(value)[:80]
