"""What several commands ask in the same way: which stack, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator import supervisor
from serving.config import stack_file
from serving.config.sections import seconds_of
from serving.config.stack import StackConfig
from serving.errors import ConfigError

StackOption = Annotated[
    Path | None, typer.Option("-c", "--config", help="A stack file; default: the running stack's.")
]


def stack_of(config: Path | None) -> StackConfig:
    """The stack of that file, or the one that runs. Raises ConfigError."""
    return stack_file.load(config or Path(supervisor.find(None).config))


def seconds(text: str, option: str) -> float:
    """`90d` in seconds. Raises ConfigError, which names the option."""
    found = seconds_of(text)
    if found is None:
        raise ConfigError(f"{option}: {text!r} is no time; write e.g. 30m, 12h or 90d")
    return found
