"""A failure as the model reads it: canonical JSON with a code, a sentence, and when to retry."""

from __future__ import annotations

from typing import Any

import msgspec

_canonical = msgspec.json.Encoder(order="sorted")


def error_text(error_code: str, human: str, retry_after_ms: int | None = None) -> str:
    """`{"error_code": ..., "human": ..., "retry_after_ms": ...}`; the last only if given."""
    said: dict[str, Any] = {"error_code": error_code, "human": human}
    if retry_after_ms is not None:
        said["retry_after_ms"] = retry_after_ms
    return _canonical.encode(said).decode()
