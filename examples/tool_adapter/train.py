"""LoRA training of the small model on made-up tool calls, on two CPU cores or on one GPU.

Most of a prompt is its tools. So one sequence holds a group: the system message and the tools
once, then several conversations over them, each of which sees the head and itself (a mask says
so; positions go on from the head). The result is what training on each alone would give, for a
quarter of the tokens. The text is rendered with the template that the engine is served with. The
loss is on the assistant's tokens; the name counts more, since it is the decision.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tool_adapter import data, scoring

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
NAME_WEIGHT = 4.0
GROUPS_PER_STEP = 1
WARM_UP = 0.04
VALIDATED = 48
ANSWER = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", re.DOTALL)
CALLED = re.compile(r'<tool_call>\n\{"name": "([^"]+)"')


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is made of; with the same settings and enough minutes it repeats itself."""

    weights: Path
    out: Path
    minutes: float
    steps: int
    seed: int
    device: str
    threads: int
    rank: int = 16
    rate: float = 7e-4


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence: token ids, positions, paths from the head, weights of the loss."""

    ids: list[int]
    positions: list[int]
    paths: list[tuple[int, ...]]
    weights: list[float]


class Trainer:
    """Owns the model, its adapter and the tokenizer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self._tokenizer = AutoTokenizer.from_pretrained(settings.weights)
        base = AutoModelForCausalLM.from_pretrained(settings.weights, dtype=torch.float32)
        self._device = torch.device(settings.device)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=2 * settings.rank,
            target_modules=MODULES,
            task_type="CAUSAL_LM",
        )
        self._model = get_peft_model(base.to(self._device), config)
        self._trained = [p for p in self._model.parameters() if p.requires_grad]

    def run(self) -> None:
        """Train, tell of it in lines, and save the adapter; also from time to time on the way."""
        settings = self._settings
        began = time.monotonic()
        groups = data.training(settings.seed)
        optimizer = torch.optim.AdamW(self._trained, lr=settings.rate, weight_decay=0.0)
        count = sum(p.numel() for p in self._trained)
        print(f"training {count:,} parameters on {self._device}", flush=True)
        recent: list[float] = []
        tokens, step = 0, 0
        while True:
            spent = time.monotonic() - began
            done = max(step / settings.steps, spent / 60 / settings.minutes)
            if done >= 1.0:
                break
            scale = min(1.0, (step + 1) / (WARM_UP * settings.steps))
            scale *= 0.5 * (1 + math.cos(math.pi * done))
            for parameters in optimizer.param_groups:
                parameters["lr"] = settings.rate * scale
            for _ in range(GROUPS_PER_STEP):
                packed = pack(self._tokenizer, next(groups))
                loss = self._loss(packed)
                (loss / GROUPS_PER_STEP).backward()
                recent.append(loss.item())
                tokens += len(packed.ids)
            torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 10 == 0:
                print(
                    f"step {step}, {done:.0%} done, loss {sum(recent) / len(recent):.3f}, "
                    f"{tokens / max(spent, 1):.0f} tokens/s, {spent / 60:.1f} min",
                    flush=True,
                )
                recent.clear()
            if step % 50 == 0:
                self.save()
            if step % max(settings.steps // 2, 1) == 0:
                self._validate(f"step {step}")
        self.save()
        self._validate("after")
        print(f"saved {settings.out} after {step} steps, {tokens:,} tokens", flush=True)

    def save(self) -> None:
        """Write the adapter in bfloat16, without the traces of this machine."""
        out = self._settings.out
        out.mkdir(parents=True, exist_ok=True)
        readme = out / "README.md"
        kept = readme.read_text(encoding="utf-8") if readme.is_file() else None
        self._model.save_pretrained(out)
        # peft writes a model card with blanks; a README of ours stays as it was.
        readme.unlink(missing_ok=True)
        if kept is not None:
            readme.write_text(kept, encoding="utf-8")
        weights = out / "adapter_model.safetensors"
        halved = {name: t.to(torch.bfloat16) for name, t in load_file(weights).items()}
        save_file(halved, weights, metadata={"format": "pt"})
        path = out / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = BASE
        config["target_modules"] = sorted(config["target_modules"])
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _loss(self, packed: Packed) -> torch.Tensor:
        """Weighted mean over the assistant's tokens; only theirs are compared with all words."""
        at = [n for n, weight in enumerate(packed.weights) if weight]
        targets = torch.tensor([packed.ids[n] for n in at], device=self._device)
        weights = torch.tensor([packed.weights[n] for n in at], device=self._device)
        with scoring.precision(self._device.type):
            seen = scoring.visible(packed.paths)
            hidden = scoring.hidden(self._model, packed.ids, packed.positions, seen)
            # The first token of an answer follows a token of its own branch, so n - 1 is right.
            logits = self._model.base_model.model.lm_head(hidden[[n - 1 for n in at]])
        each = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        return (each * weights).sum() / weights.sum()

    def _validate(self, when: str) -> None:
        self._model.eval()
        asked = data.validation(self._settings.seed, VALIDATED)
        right = {True: 0, False: 0}
        total = {True: 0, False: 0}
        for some in scoring.by_tools(asked):
            decided = scoring.decide(self._model, self._tokenizer, some)
            for example, decision in zip(some, decided, strict=True):
                calls = example.decision != data.REPLY
                total[calls] += 1
                right[calls] += decision == example.decision
        self._model.train()
        print(
            f"validation {when}: {right[True] + right[False]} of {len(asked)} right "
            f"(calls {right[True]}/{total[True]}, no tool {right[False]}/{total[False]})",
            flush=True,
        )


def pack(tokenizer: Any, group: data.Group) -> Packed:
    """A group as one sequence."""
    texts = [
        scoring.render(tokenizer, group.tools, [*group.system, *example.messages], ask=False)
        for example in group.branches
    ]
    cut = texts[0].index(scoring.USER)
    ids = scoring.tokens(tokenizer, texts[0][:cut])
    head = len(ids)
    positions, weights = list(range(head)), [0.0] * head
    paths: list[tuple[int, ...]] = [()] * head
    for number, text in enumerate(texts):
        # The line break after the last <|im_end|> is written by nobody.
        tail = text[cut:].rstrip("\n")
        encoded = tokenizer(tail, add_special_tokens=False, return_offsets_mapping=True)
        ids += encoded.input_ids
        positions += range(head, head + len(encoded.input_ids))
        paths += [(number,)] * len(encoded.input_ids)
        weights += weigh(tail, encoded.offset_mapping)
    return Packed(ids, positions, paths, weights)


def weigh(text: str, offsets: Sequence[tuple[int, int]]) -> list[float]:
    """The loss's weight of each token: 0 outside the assistant's turns, more in a tool's name."""
    said = [found.span(1) for found in ANSWER.finditer(text)]
    names = [
        (start + found.start(1), start + found.end(1) + 1)  # with the quote that ends it
        for start, end in said
        for found in CALLED.finditer(text[start:end])
    ]
    return [
        NAME_WEIGHT if _within(at, names) else 1.0 if _within(at, said) else 0.0
        for at, _ in offsets
    ]


def _within(at: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= at < end for start, end in spans)
