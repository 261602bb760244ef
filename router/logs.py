"""One JSON line to stderr for each request, and for each record of stdlib logging.

A line says who asked for what, where it went and why, what it cost and how long it took. It never
says what was asked or answered: no prompt, no tool argument, no header but the request id. For the
same reason an exception is logged by its type and its frames; its text only where it is one of ours
or the operating system's, since others quote their input.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from serving.errors import WarmloopError

Sink = Callable[[bytes], None]


class TurnRecord(msgspec.Struct, omit_defaults=True):
    """The log line of one request; filled in as it goes. Times in seconds."""

    time: str
    request_id: str
    route: str
    status: int = 0
    tenant: str = ""
    model: str = ""
    adapter: str = ""
    """The model's LoRA adapter that was asked for."""
    replica: str = ""
    reason: str = ""
    turn_type: str = ""
    identity: str = ""
    """Where the session's key came from, never the key."""
    attempts: int = 0
    calls_again: int = 0
    """Tool calls that were asked for once more."""
    continued: int = 0
    """How often its stream went on elsewhere after it was cut."""
    not_continued: str = ""
    """Why it did not, where it was cut; never content."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    predicted_cached_tokens: int | None = None
    waited_s: float | None = None
    """In the router, for its turn."""
    estimated_s: float | None = None
    """To the first token, from when it was sent; `first_byte_s` tells what came of it."""
    stream: bool = False
    """The answer came as a stream: its first byte is its first token."""
    spare: bool = False
    """A prompt that was only to be read, for a later turn: nobody waited for it."""
    first_byte_s: float | None = None
    total_s: float | None = None
    cost_usd: float | None = None
    """By the model's prices and the engine's token counts."""
    uncached_cost_usd: float | None = None
    """What the same turn costs when nothing is cached."""
    agent: str = ""
    tier: str = ""
    """Where `auto` was asked: the tier that was chosen; why is in `reason`."""
    tier_prices_usd: Mapping[str, float] = {}
    """What each model was expected to cost the session in its next turns."""
    tier_change: str = ""
    """The session's main chain changed its model: `frontier->small`."""
    tier_gain_usd: float | None = None
    spent_usd: float = 0.0
    """Of tries of this turn whose answers were not used."""
    error: str = ""
    """The error's code; `hung_up` when the client left before the end."""


_encode = msgspec.json.Encoder().encode


def utc_now() -> str:
    """The time as RFC 3339 in UTC, to the millisecond."""
    now = time.time()
    second = int(now)
    return f"{_to_the_second(second)}.{int((now - second) * 1000):03d}Z"


@lru_cache(maxsize=2)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def to_stderr(line: bytes) -> None:
    """The default sink. One write a line, so that lines of several processes do not mix."""
    try:
        os.write(2, line)
    except OSError:  # a closed or full stderr must not fail a request
        return


def write(record: TurnRecord, sink: Sink = to_stderr) -> None:
    sink(_encode(record) + b"\n")


class JsonFormatter(logging.Formatter):
    """A stdlib record as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        return _encode(line).decode()


def describe(error: BaseException) -> dict[str, object]:
    """An exception without its text, unless the text is known to hold no content."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    described: dict[str, object] = {
        "type": type(error).__name__,
        "frames": [f"{f.filename}:{f.lineno} {f.name}" for f in frames],
    }
    if isinstance(error, WarmloopError | OSError):
        described["message"] = str(error)
    return described


def install(level: int = logging.INFO) -> None:
    """Send stdlib logging to stderr as JSON lines. Call it once, when the process starts."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
