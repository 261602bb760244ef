"""LoRA adapters at run time: which ones shall be where, and who sees to it."""
