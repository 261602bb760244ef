"""How long is it from an append to its being stored? Told to whoever watches the journal.

Measured by whoever appends: what waits in the writer's queue is in it, and so is the event loop's
own delay. An append that is refused (Fenced, AlreadyAccepted) is no failure, and not told.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any, Protocol

from orchestrator.journal.base import JournalFull


class Watch(Protocol):
    """Who watches."""

    def stored(self, seconds: float, *, durable: bool) -> None:
        """An append is stored; `durable`: fsynced."""

    def failed(self) -> None:
        """Nothing of an append was stored."""


class Nobody:
    """Who watches where nobody does."""

    def stored(self, seconds: float, *, durable: bool) -> None:
        """Nobody hears it."""

    def failed(self) -> None:
        """Nobody hears it."""


async def watched(watch: Watch, storing: Awaitable[Any], *, durable: bool) -> int:
    """Wait for an append to be stored; returns its result."""
    began = time.perf_counter()
    try:
        seq = int(await storing)
    except JournalFull:
        watch.failed()
        raise
    watch.stored(time.perf_counter() - began, durable=durable)
    return seq
