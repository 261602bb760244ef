"""Which LoRA adapters are refused before an engine sees them, and what their owner is told."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config.model import ModelConfig
from serving.errors import AdapterError
from serving.models.adapter_store import accept, configured, keep, sweep
from serving.models.adapters import CONFIG, WEIGHTS, base_of, check
from tests.adapters import SMOLLM2_135M, write_adapter, write_safetensors

QWEN_05B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
}
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def refusal(folder: Path, *, max_rank: int = 16, base: Any = SMOLLM2_135M) -> str:
    """What is said of the adapter; every sentence names a file and ends with a fix."""
    with pytest.raises(AdapterError) as caught:
        check(folder, max_rank=max_rank, base=base)
    said = str(caught.value)
    assert said.startswith(str(folder))
    assert "; " in said or ": " in said.removeprefix(str(folder))
    return said.removeprefix(f"{folder}/")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_plain_adapter_is_taken_and_described(tmp_path: Path) -> None:
    facts = check(write_adapter(tmp_path / "a"), max_rank=4, base=SMOLLM2_135M)
    assert facts.rank == 4
    assert facts.modules == ("down_proj", "q_proj", "v_proj")
    assert facts.trained_on == "a/base"


def test_every_linear_layer_of_a_dense_decoder_may_be_changed(tmp_path: Path) -> None:
    layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for base in (SMOLLM2_135M, QWEN_05B):
        folder = write_adapter(
            tmp_path / str(base["model_type"]), modules=layers, base=base, layers=(1,)
        )
        assert check(folder, max_rank=16, base=base).modules == tuple(sorted(layers))


def test_ranks_may_differ_by_pattern(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", modules=("q_proj",), layers=(0,), rank=8)
    edit(folder, r=4, rank_pattern={r"layers\.0\.self_attn\.q_proj": 8})
    assert check(folder, max_rank=8, base=SMOLLM2_135M).rank == 8
    assert "rank_pattern: 8 is more than the 4" in refusal(folder, max_rank=4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type: 'IA3' cannot be served"),
        ({"r": 32}, "r: 32 is more than the 16 that the engine takes; raise lora.max_rank"),
        ({"r": 0}, "r: 0 is no rank"),
        ({"r": True}, "r: True is no rank"),
        ({"r": "8"}, "r: '8' is no rank"),
        ({"lora_alpha": None}, "lora_alpha: None is not a number"),
        ({"target_modules": []}, "target_modules: is missing"),
        ({"use_dora": True}, "use_dora: True: DoRA is not served"),
        ({"bias": "all"}, "bias: 'all' is not served; train with bias: none"),
        ({"lora_bias": True}, "lora_bias: True: biases are not served"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save: ['embed_tokens']: whole layers"),
        ({"layer_replication": [[0, 2]]}, "layer_replication: [[0, 2]]: replicated layers"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens: [1]: activated LoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' changes the base's weights"),
        ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern: {'q_proj': 'x'} does not map"),
    ],
)
def test_what_engines_do_not_serve_is_refused_by_its_field(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = write_adapter(tmp_path / "a", layers=(0,), modules=("q_proj",))
    edit(folder, **changes)
    assert refusal(folder).startswith(f"{CONFIG}: {said}")


def test_inits_that_leave_the_base_alone_are_taken(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", layers=(0,), modules=("q_proj",))
    edit(folder, init_lora_weights="gaussian", modules_to_save=None, use_dora=False)
    check(folder, max_rank=16, base=SMOLLM2_135M)


def overwrite(file: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, ": no such folder"),
        (lambda f: (f / CONFIG).unlink(), f"{CONFIG}: is missing"),
        (lambda f: (f / WEIGHTS).unlink(), f"{WEIGHTS}: is missing; save it anew"),
        (
            lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"),
            f"{WEIGHTS}: is missing; convert adapter_model.bin to it; pickles are not read",
        ),
        (overwrite(CONFIG, b"{"), f"{CONFIG}: is not valid JSON"),
        (overwrite(CONFIG, b"[" * 100_000), f"{CONFIG}: is not valid JSON"),
        (overwrite(CONFIG, b"[]"), f"{CONFIG}: is not a JSON object"),
        (overwrite(CONFIG, b" " * (2**20 + 1)), f"{CONFIG}: is larger than"),
        (overwrite(WEIGHTS, b""), f"{WEIGHTS}: is not a safetensors file, or cut short"),
        (overwrite(WEIGHTS, b"\xff" * 64), f"{WEIGHTS}: is not a safetensors file, or cut short"),
        (overwrite(WEIGHTS, b"\x02" + b"\0" * 7 + b"{}"), f"{WEIGHTS}: holds no tensors"),
        (overwrite(WEIGHTS, b"\x02" + b"\0" * 7 + b"{{"), f"{WEIGHTS}: its header is not valid"),
    ],
)
def test_missing_and_damaged_files_are_named(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = write_adapter(tmp_path / "a", layers=(0,), modules=("q_proj",))
    damage(folder)
    assert refusal(folder).removeprefix(str(folder)).startswith(said)


def test_weights_that_are_cut_short_are_refused_wherever_the_cut_is(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", layers=(0,), modules=("q_proj",))
    whole = (folder / WEIGHTS).read_bytes()
    for length in (1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:length])
        assert "cut short" in refusal(folder)
    (folder / WEIGHTS).write_bytes(whole + b"x")
    assert "overwritten" in refusal(folder)


def test_another_base_is_noticed_by_its_shapes_and_its_layers(tmp_path: Path) -> None:
    wide = write_adapter(tmp_path / "wide", base=QWEN_05B, layers=(0,))
    assert refusal(wide) == (
        f"{WEIGHTS}: {KEY.format('A')} has 896 input features where the base has 576; load it "
        "under the base that it was trained on (base_model_name_or_path: 'a/base')"
    )
    assert "has 576 input features where the base has 896" in refusal(
        write_adapter(tmp_path / "narrow", layers=(0,)), base=QWEN_05B
    )
    deep = write_adapter(tmp_path / "deep", layers=(30,))
    assert "is in layer 30, and the base has 30 (0 to 29)" in refusal(deep)
    heads = {**SMOLLM2_135M, "num_key_value_heads": 9}
    other = write_adapter(tmp_path / "heads", base=heads, modules=("v_proj",), layers=(2,))
    assert "has 576 output features where the base has 192" in refusal(other)


def test_without_the_bases_configuration_only_shapes_go_unchecked(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "wide", base=QWEN_05B)
    assert check(folder, max_rank=16, base=None).rank == 4
    assert "more than the 2" in refusal(folder, max_rank=2, base=None)


def test_a_base_that_we_do_not_know_layer_by_layer_is_left_to_its_engine(tmp_path: Path) -> None:
    experts = {**QWEN_05B, "model_type": "qwen3_moe"}
    folder = write_adapter(tmp_path / "a", layers=(0,))
    assert check(folder, max_rank=16, base=experts).rank == 4
    assert "in layer 24" in refusal(write_adapter(tmp_path / "b", layers=(24,)), base=experts)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x.lora_A.weight": (4, 576)}, "x lacks lora_B"),
        ({"x.lora_B.weight": (576, 4)}, "x lacks lora_A"),
        ({"model.norm.weight": (576,)}, "model.norm.weight is no factor of a LoRA"),
        ({KEY.format("A"): (576,)}, "has the shape (576,), not two sides"),
        ({"lm_head.base_layer.weight": (2, 2)}, "is no factor"),
        ({"model.lm_head.base_layer.weight": (2, 2)}, "holds no lora_A and lora_B"),
        ({KEY.format("A"): (8, 576), KEY.format("B"): (576, 8)}, "has the ranks 8 and 8 where"),
        (
            {"a.layers.0.fused.lora_A.weight": (4, 576), "a.layers.0.fused.lora_B.weight": (8, 4)},
            "a llama model has no layer 'fused'; target_modules may be q_proj, k_proj",
        ),
    ],
)
def test_tensors_that_are_no_adapter_of_this_base_are_named(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], said: str
) -> None:
    folder = write_adapter(tmp_path / "a", layers=(0,), modules=("q_proj",))
    numbers = {}
    for name, shape in tensors.items():
        count = 1
        for side in shape:
            count *= side
        numbers[name] = (shape, [0.0] * count)
    write_safetensors(folder / WEIGHTS, numbers)
    assert said in refusal(folder)


def test_quantized_tensors_are_refused_by_their_type(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", layers=(0,), modules=("q_proj",))
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
    assert "is of type I32; save the adapter as F32, F16, BF16" in refusal(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ("r", "lora_alpha", "target_modules", "rank_pattern", "bias", "peft_type", "use_dora")


@settings(max_examples=200, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON),
    header=JSON
    | st.dictionaries(
        st.just(KEY.format("A")),
        st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON}),
    ),
)
def test_whatever_the_files_say_the_answer_is_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], header: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    write_adapter(folder, layers=(0,), modules=("q_proj",), rank=1)
    said = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(said).to_bytes(8, "little") + said)
    edit(folder, **changes)
    with pytest.raises(AdapterError, match="adapter_"):
        check(folder, max_rank=16, base=SMOLLM2_135M)


def test_a_bases_configuration_may_lie_below_that_of_a_larger_model(tmp_path: Path) -> None:
    assert base_of(tmp_path) is None
    (tmp_path / "config.json").write_text("[]")
    assert base_of(tmp_path) is None
    said = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 5}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    base = base_of(tmp_path)
    assert base is not None
    assert (base["model_type"], base["hidden_size"]) == ("gemma3_text", 5)


# Copies


def test_a_copy_stays_as_it_was_when_the_trainer_writes_again(tmp_path: Path) -> None:
    folder, store = write_adapter(tmp_path / "a", seed=1), tmp_path / "store"
    first = accept("polite", folder, store, 16, SMOLLM2_135M)
    before = (first / WEIGHTS).read_bytes()
    assert keep("polite", folder, store) == first
    write_adapter(folder, seed=2)
    second = accept("polite", folder, store, 16, SMOLLM2_135M)
    assert second != first
    assert (first / WEIGHTS).read_bytes() == before
    assert sorted(store.iterdir()) == sorted([first, second])


def test_a_refused_adapter_leaves_no_copy(tmp_path: Path) -> None:
    folder, store = write_adapter(tmp_path / "a", rank=8), tmp_path / "store"
    with pytest.raises(AdapterError):
        accept("polite", folder, store, 4, SMOLLM2_135M)
    assert not store.exists()


def test_copies_that_nobody_needs_go_once_they_are_old(tmp_path: Path) -> None:
    store = tmp_path / "store"
    sweep(store, ())
    old, young, needed = (
        keep(name, write_adapter(tmp_path / name, layers=(0,), modules=("q_proj",)), store)
        for name in ("old", "young", "needed")
    )
    for folder in (old, needed):
        os.utime(folder, (time.time() - 1000,) * 2)
    sweep(store, [needed])
    assert sorted(store.iterdir()) == sorted([young, needed])


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", layers=(0,), modules=("q_proj",))
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match=r"file.*; check the rights of .* and the space in"):
        keep("polite", folder, tmp_path / "file" / "store")


def test_a_configured_adapter_is_refused_by_its_field(tmp_path: Path) -> None:
    good = write_adapter(tmp_path / "good", layers=(0,), modules=("q_proj",))
    said = {"good": str(good), "bad": str(tmp_path / "bad")}
    model = ModelConfig.model_validate({"engine": "simulated", "adapters": said})
    with pytest.raises(AdapterError, match=r"^adapters\.bad: .*bad: no such folder"):
        configured(model, None, tmp_path / "store")
    model = ModelConfig.model_validate({"engine": "simulated", "adapters": {"good": str(good)}})
    kept = configured(model, None, tmp_path / "store")
    assert kept["good"].parent == tmp_path / "store"
