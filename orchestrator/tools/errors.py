"""A failure as the model reads it: canonical JSON with a code, a sentence, and when to retry."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.canonical import canonical

INVALID_ARGUMENTS = "invalid_arguments"
"""The code where the call is at fault, whoever found it: its schema, or the tool itself."""
LONGEST_RETRY_AFTER_S = 3600.0
"""What is believed of a longer time after which to come back."""


def error_text(error_code: str, human: str, retry_after_ms: int | None = None) -> str:
    """`{"error_code": ..., "human": ..., "retry_after_ms": ...}`; the last only if given."""
    said: dict[str, Any] = {"error_code": error_code, "human": human}
    if retry_after_ms is not None:
        said["retry_after_ms"] = retry_after_ms
    return canonical(said).decode()


def bounded(said: object, longest: float) -> float | None:
    """A time that somebody else wrote, from 0 to `longest`; None for what is no finite number."""
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    if isinstance(said, float) and not math.isfinite(said):
        return None
    return float(min(max(said, 0), longest))  # an int may be too large for a float before
