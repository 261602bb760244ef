"""Writes random texts that xgrammar lets through; runs in the engine's environment.

    stdin   {"schemas": [...], "examples": [[text, ...], ...], "walks": N, "seed": N, "own": bool}
    stdout  a line {"begins": i} before each schema, and after it
            {"at": i, "texts": [...], "unfinished": n, "shut_out": [...], "error": null | "..."}

`shut_out` are the examples that the grammar does not let through.

With `own` the grammar is the one that the tool-parser plugin makes of a schema; without, it is
xgrammar's own, as other engines have it, with one whitespace character in a row. The vocabulary is
every byte, and merged tokens that cross the boundaries of JSON's parts, as a real model's do. Walks
lean towards what closes something, so that they end; texts that are not UTF-8 are left out, since
an engine answers with text.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
import xgrammar
from xgrammar.structural_tag import GrammarFormat, JSONSchemaFormat, StructuralTag

PLUGIN = Path(__file__).parents[2] / "serving" / "engines" / "tools"
sys.path.insert(0, str(PLUGIN))
from argument_grammar import grammar_of  # noqa: E402  # beside the plugin, not in a package

MERGED = ['{"', '": "', '":', '","', '", "', '"}', '"},', "}}", "]}", "],", '"]', '["', "[]", "{}"]
MERGED += ["true", "false", "null", "10", "000", "0.5", ".25", "e5", "ab", "abc", " the", "\\n"]
MERGED += ['\\"', "\\u00", "é", "日本", "\U0001f600", "-1", "x-", "2024-", "@a"]
VOCABULARY = [bytes([byte]) for byte in range(256)] + [text.encode() for text in MERGED]
END = len(VOCABULARY)
CLOSING = frozenset(b'"}],:')
STEPS = 1500


def walk(compiled: xgrammar.CompiledGrammar, chance: random.Random) -> bytes | None:
    """One text that the grammar accepts; None when it did not end in time."""
    matcher = xgrammar.GrammarMatcher(compiled)
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    text = bytearray()
    for step in range(STEPS):
        matcher.fill_next_token_bitmask(mask)
        allowed = _allowed(mask)
        if not allowed:
            raise AssertionError(f"dead end after {bytes(text)!r}")
        hurry = 1 + step / 40
        weights = [_weight(token, hurry) for token in allowed]
        token = chance.choices(allowed, weights)[0]
        if token == END:
            return bytes(text)
        if not matcher.accept_token(token):
            raise AssertionError(f"an allowed token was refused after {bytes(text)!r}")
        text += VOCABULARY[token]
    return None


def accepts(compiled: xgrammar.CompiledGrammar, text: str) -> bool:
    """Whether a whole text is let through."""
    matcher = xgrammar.GrammarMatcher(compiled)
    if not matcher.accept_string(text):
        return False
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    matcher.fill_next_token_bitmask(mask)
    return END in _allowed(mask)


def _allowed(mask: torch.Tensor) -> list[int]:
    bits = (mask.view(torch.uint8)[0].unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return [int(token) for token in bits.flatten()[: END + 1].nonzero().flatten()]


def _tag(schema: dict[str, object], *, own: bool) -> str:
    if not own:
        content = JSONSchemaFormat(json_schema=schema, max_whitespace_cnt=1)
        return StructuralTag(format=content).model_dump_json()
    return StructuralTag(format=GrammarFormat(grammar=grammar_of(schema))).model_dump_json()


def _weight(token: int, hurry: float) -> float:
    if token == END:
        return 20 * hurry
    if token < 256:
        return 3 * hurry if token in CLOSING else 1 if 32 <= token < 127 else 0.1
    return hurry if VOCABULARY[token][-1] in CLOSING else 1


def main() -> None:
    asked = json.load(sys.stdin)
    names = [*VOCABULARY, b"<end>"]
    info = xgrammar.TokenizerInfo(
        names,
        vocab_type=xgrammar.VocabType.RAW,
        vocab_size=len(names),
        stop_token_ids=[END],
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    for at, schema in enumerate(asked["schemas"]):
        print(json.dumps({"begins": at}), flush=True)
        found: dict[str, object] = {"at": at, "error": None}
        texts, unfinished = [], 0
        try:
            compiled = compiler.compile_structural_tag(_tag(schema, own=asked["own"]))
            chance = random.Random(asked["seed"] * 1_000_003 + at)
            examples = asked["examples"][at] if asked["examples"] else []
            found["shut_out"] = [text for text in examples if not accepts(compiled, text)]
            for _ in range(asked["walks"]):
                text = walk(compiled, chance)
                if text is None:
                    unfinished += 1
                    continue
                try:
                    texts.append(text.decode("utf-8"))
                except UnicodeDecodeError:
                    continue
        except Exception as problem:
            found["error"] = f"{type(problem).__name__}: {problem}"[:500]
        print(json.dumps({**found, "texts": texts, "unfinished": unfinished}), flush=True)


if __name__ == "__main__":
    main()
