"""A GGUF file becomes a Hugging Face folder that any engine reads: config, weights, tokenizer.

Runs in an engine's environment, as a program by itself, and imports nothing of Warmloop's:
    python serving/models/gguf_to_hf.py MODEL.gguf FOLDER

The weights are dequantized to bfloat16, which is what the engines compute in. The chat template
that the GGUF carries goes along with the tokenizer.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path


def convert(gguf: Path, folder: Path) -> None:
    """Write `folder`, which must not hold anything yet."""
    import gguf as library
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers reads the file's metadata, the whole vocabulary, three times in pure Python, and
    # builds the same table of names once for each submodule: more than half of the time.
    library.GGUFReader = functools.cache(library.GGUFReader)
    library.get_tensor_name_map = functools.cache(library.get_tensor_name_map)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # It is plain bfloat16 now; what still says "quantized" would make save_pretrained refuse, and
    # an engine look for GGUF's own layout.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="GGUF file to Hugging Face folder")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    convert(given.gguf, given.folder)


if __name__ == "__main__":
    main()
