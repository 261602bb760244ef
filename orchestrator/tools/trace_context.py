"""W3C trace context: a call's `traceparent` continues the request's, with a span of its own.

Ids are hashes of what they stand for, so that the log says again what was sent, and a call that
runs again after a crash is the same trace with another span.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

HEADER = r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})"
TRACEPARENT = re.compile(HEADER)


def valid(header: str) -> str:
    """The header as it came, or nothing if it is none."""
    return header if TRACEPARENT.fullmatch(header) else ""


def child_of(header: str, response_id: str, span: str) -> str:
    """The trace of `header`, or one of the response's own, with the span called `span`."""
    trace, flags = _trace_of(header, response_id)
    return f"00-{trace}-{_digest(span)[:16]}-{flags}"


@lru_cache(1024)
def _trace_of(header: str, response_id: str) -> tuple[str, str]:
    found = TRACEPARENT.fullmatch(header)
    return (found[1], found[2]) if found else (_digest(response_id)[:32], "00")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
