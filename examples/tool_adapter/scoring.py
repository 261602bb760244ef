"""The engine's decision without an engine: greedy decoding over the names that the grammar allows.

Under `tool_choice: required` everything before the name is forced, and so is what follows it. All
questions over one set of tools and all names for each go through the model in one pass, as a
tree: the tools, then each question, then each name. Then the names are walked token by token, as
greedy decoding would. An engine may spell a name in other tokens, so its figures can differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tool_adapter import data
from serving.engines.vllm import TOOLS, multiplies_bf16

TEMPLATE = (TOOLS / "smollm2.jinja").read_text(encoding="utf-8")
USER = "<|im_start|>user"
BEFORE_NAME = '<tool_call>\n{"name": "'
AFTER_NAME = '", "arguments"'


def render(tokenizer: Any, tools: Sequence[Any], messages: Sequence[Any], *, ask: bool) -> str:
    """The text that the engine reads for this request (`ask`: up to the assistant's turn)."""
    text: str = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools),
        chat_template=TEMPLATE,
        tokenize=False,
        add_generation_prompt=ask,
    )
    return text


def tokens(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


def precision(device: str) -> Any:
    """bfloat16 where the device multiplies it, else float32."""
    if device == "cpu" and not multiplies_bf16():
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)


def visible(paths: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Who sees whom in a tree, (token, token): what came before on the way from the root.

    Each token's path is () at the root, (branch,) or (branch, twig).
    """
    causal = torch.ones(len(paths), len(paths), dtype=torch.bool).tril()
    for depth in range(2):
        at = torch.tensor([path[depth] if len(path) > depth else -1 for path in paths])
        causal &= (at[None, :] == -1) | (at[:, None] == at[None, :])
    return causal


def hidden(model: Any, ids: list[int], positions: list[int], seen: torch.Tensor) -> torch.Tensor:
    """The last layer's states, (tokens, width), of a peft model over one sequence."""
    device = model.device
    states: torch.Tensor = model.base_model.model.model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        attention_mask=seen.to(device)[None, None],
        use_cache=False,
    ).last_hidden_state[0]
    return states


def decide(model: Any, tokenizer: Any, asked: Sequence[data.Example]) -> list[str]:
    """The tool chosen for each question; all are over the same tools."""
    texts = [
        render(tokenizer, asked[0].tools, example.messages[:-1], ask=True) + BEFORE_NAME
        for example in asked
    ]
    cut = texts[0].index(USER)
    names = [str(tool["function"]["name"]) for tool in asked[0].tools]
    tails = [tokens(tokenizer, name + AFTER_NAME) for name in names]
    ids = tokens(tokenizer, texts[0][:cut])
    head = len(ids)
    positions = list(range(head))
    paths: list[tuple[int, ...]] = [()] * head
    places = []
    for number, text in enumerate(texts):
        question = tokens(tokenizer, text[cut:])
        ids += question
        positions += range(head, head + len(question))
        paths += [(number,)] * len(question)
        last, starts = len(ids) - 1, []
        for twig, tail in enumerate(tails):
            starts.append(len(ids))
            ids += tail
            positions += range(head + len(question), head + len(question) + len(tail))
            paths += [(number, twig)] * len(tail)
        places.append((last, starts))
    with torch.no_grad(), precision(model.device.type):
        states = hidden(model, ids, positions, visible(paths))[head:]
        scores = model.base_model.model.lm_head(states).float()
    return [names[_walk(scores, tails, last - head, starts, head)] for last, starts in places]


def _walk(
    scores: torch.Tensor, tails: list[list[int]], last: int, starts: list[int], head: int
) -> int:
    """Which name greedy decoding writes, by its number."""
    left, depth = list(range(len(tails))), 0
    while len(left) > 1:
        # What is left agrees up to here, so any of it may lead.
        row = scores[last if depth == 0 else starts[left[0]] - head + depth - 1]
        best = max((tails[n][depth] for n in left), key=lambda token: row[token].item())
        left = [n for n in left if tails[n][depth] == best]
        depth += 1
    return left[0]


def compare(
    weights: Path, adapter: Path, asked: Sequence[data.Example], *, device: str, threads: int
) -> list[dict[str, str]]:
    """Decisions of base and adapter, in the form that check.report reads."""
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    base = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).to(device)
    model = PeftModel.from_pretrained(base, adapter).eval()
    answers = []
    for number, some in enumerate(by_tools(asked)):
        tuned = decide(model, tokenizer, some)
        with model.disable_adapter():
            plain = decide(model, tokenizer, some)
        for example, one, other in zip(some, plain, tuned, strict=True):
            answer = {"set": str(number), "kind": example.kind, "right": example.decision}
            answer |= {"question": example.messages[-2]["content"]}
            answers.append(answer | {"small": one, "smollm2-tools": other})
    return answers


def by_tools(asked: Sequence[data.Example]) -> list[list[data.Example]]:
    """Questions over the same tools together."""
    sets: dict[int, list[data.Example]] = {}
    for example in asked:
        sets.setdefault(id(example.tools), []).append(example)
    return list(sets.values())
