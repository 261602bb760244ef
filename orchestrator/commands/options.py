"""What several commands ask in the same way: which stack, and for how long."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import supervisor
from serving.config import stack_file
from serving.config.stack import StackConfig
from serving.errors import ConfigError

StackOption = Annotated[
    Path | None, typer.Option("-c", "--config", help="A stack file; default: the running stack's.")
]
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400}


def stack_of(config: Path | None) -> StackConfig:
    """The stack of that file, or the one that runs. Raises ConfigError."""
    return stack_file.load(config or Path(supervisor.find(None).config))


def seconds(text: str, option: str) -> float:
    """`90d` in seconds. Raises ConfigError, which names the option."""
    found = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    if found is None:
        raise ConfigError(f"{option}: {text!r} is no time; write e.g. 30m, 12h or 90d")
    return float(found[1]) * _UNITS_S[found[2]]
