"""Who goes first in an engine's own queue? The router's order, as the engine's priority.

The router holds back what an engine cannot begin soon, and orders that itself. But several front
doors send to one engine, and the engine has a queue of its own. Those that we start order it by
the request's `priority`, the lowest first (SGLang by a flag of its launch line), and are told the
moment at which the turn is due: its arrival, later by what it takes and for batch. As such a moment
passes, a turn ages by standing still.

Only where something is before it there: a turn that begins at once needs no rank, and its bytes
pass untouched. Engines of others may refuse the field, so they never get it.
"""

from __future__ import annotations

from router.http import rewrites
from serving.protocol import MESSAGES, AnyAsk
from serving.tables.base import Engine

_TICKS_A_SECOND = 10


def ranked(body: bytes, path: str, ask: AnyAsk, engine: Engine, due_unix_s: float | None) -> bytes:
    """The body as it goes to this engine; `due_unix_s` None: nothing is before it."""
    if due_unix_s is None or path == MESSAGES or engine.kind == "external" or bytes(ask.priority):
        return body
    return rewrites.ranked(body, round(due_unix_s * _TICKS_A_SECOND))
