"""A replica's own entry in the directory, and how it is kept true.

    tell ──▶ register, at once ─────────┐
                                        ├──▶ one call after another, each with the engine as it is
    keep ──▶ register, each second ─────┘    when the call begins

Each call carries the whole entry. So whatever was lost, came too late or came twice, because the
directory was being made, was slow or had to start again, is right a second later; and two calls
that are under way at once cannot arrive in the wrong order, since there never are two.

A directory that is away stops nobody: what was to be asked is answered as if nothing were known.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from serving.cluster import directory
from serving.cluster.front_queues import Queue
from serving.tables.base import Engine

RENEW_S = 1.0
CALL_S = 2.0
UNTOLD = 2**63 - 1
"""A version that nobody has heard of."""

T = TypeVar("T")


class Entry:
    """`engine` says what the replica's engine is at this moment; it may get another name."""

    def __init__(self, engine: Callable[[], Engine], connect: Callable[[], Any]) -> None:
        """`connect` blocks, and returns the directory's actor; it is called again after errors."""
        self._engine = engine
        self._connect = connect
        self._actor: Any = None
        self._one = asyncio.Lock()
        self._version = UNTOLD

    async def tell(self, lease_s: float = directory.LEASE_S) -> None:
        """Say what the engine is now."""
        async with self._one:
            self._version = await self._ask(
                lambda actor: actor.register.remote(self._engine(), lease_s), UNTOLD
            )

    async def keep(self) -> None:
        """For ever: keep the lease, whatever the engine does."""
        while True:
            await self.tell()
            await asyncio.sleep(RENEW_S)

    async def leave(self, replica: str) -> None:
        """Forget this engine."""
        async with self._one:
            await self._ask(lambda actor: actor.leave.remote(replica), None)

    async def heard(self) -> bool:
        """Has every front door that is there heard what was told last?"""
        return await self._ask(lambda actor: actor.heard.remote(self._version), True)

    async def left_s(self) -> float:
        """What the end of the whole cluster leaves for a drain, seconds; else infinite."""
        return await self._ask(lambda actor: actor.left_s.remote(), math.inf)

    async def waiting(self, model: str) -> Queue:
        """What waits for this model in the front doors."""
        return await self._ask(lambda actor: actor.waiting.remote(model), Queue())

    async def engines(self) -> tuple[Engine, ...] | None:
        """All of the cluster; None when the directory is away."""
        known: directory.Snapshot | None
        known = await self._ask(lambda actor: actor.snapshot.remote(), None)
        return None if known is None else known.engines

    async def _ask(self, call: Callable[[Any], Awaitable[T]], otherwise: T) -> T:
        """The directory's answer, or `otherwise` when it is away or slow."""
        import ray

        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(self._connect)
            async with asyncio.timeout(CALL_S):
                return await call(self._actor)
        except (ray.exceptions.RayError, TimeoutError):
            self._actor = None  # look it up again; it may be another actor by then
            return otherwise
