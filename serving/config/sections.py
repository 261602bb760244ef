"""What all sections of a stack's configuration share: strictness, names, hints."""

from __future__ import annotations

import difflib
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Frozen(BaseModel):
    """Base of every section: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def is_name(text: str) -> bool:
    """True for what may name a model, an adapter or an agent."""
    return re.fullmatch(NAME_PATTERN, text) is not None


_DURATION = re.compile(r"([1-9]\d{0,5})([mhd])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400}


def seconds_of(text: str) -> float | None:
    """`30m`, `12h`, `90d` in seconds; None for what is no such time."""
    found = _DURATION.fullmatch(text)
    return None if found is None else float(found[1]) * _UNITS_S[found[2]]


def nearest(word: str, valid: list[str]) -> str:
    """A hint for a misspelt name: the closest valid one, else all of them."""
    close = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else "valid: " + ", ".join(sorted(valid))
