"""Where an engine's own Python lies: each kind of engine has an environment of its own.

Their pins clash with ours and with each other's, so nothing of an engine is ever imported here.
"""

from __future__ import annotations

import os
from pathlib import Path

from serving.config.model import ModelConfig
from serving.errors import EngineError

CHECKOUT = Path(__file__).resolve().parents[2]
_NAMES = {"vllm": "vLLM", "sglang": "SGLang"}


def interpreter(config: ModelConfig) -> Path:
    """The engine's Python: configured, $WARMLOOP_<ENGINE>_PYTHON, or beside the checkout.

    Beside the checkout the builds for CPU and for CUDA have an environment each.

    Raises EngineError when it is not there.
    """
    engine = config.engine if config.engine in _NAMES else "vllm"
    name, variable = _NAMES[engine], f"WARMLOOP_{engine.upper()}_PYTHON"
    part = f"{engine}-cuda" if config.gpus else engine
    told = config.python or os.environ.get(variable)
    path = Path(told) if told else CHECKOUT / f".venv-{part}" / "bin" / "python"
    if not os.access(path, os.X_OK) or path.is_dir():
        where = "python" if config.python else variable if told else "the default"
        raise EngineError(
            f"{name}'s Python environment is missing: {path} ({where}) is not an executable; "
            f"run scripts/setup {part}, or name one that has {name} in 'python' of the model or in "
            f"{variable}"
        )
    return path
