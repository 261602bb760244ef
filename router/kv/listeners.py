"""To whom do we listen? One feed for each replica that takes turns and publishes its KV events.

the engine table ── a replica is ready, and says where it publishes ──▶ a feed begins
                 ── it has left, or is another one now              ──▶ the feed ends
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import zmq.asyncio

from router.kv.events import KvFeed
from router.kv.residency import Residency
from serving.owned_task import OwnedTask
from serving.tables.base import Engine

LOOK_S = 0.25


class KvListeners:
    """The feeds of one front door. For one event loop."""

    def __init__(
        self, snapshot: Callable[[], Sequence[Engine]], residency: Residency, *, listen: bool
    ) -> None:
        self._snapshot = snapshot
        self._residency = residency
        self._listen = listen
        self._feeds: dict[str, tuple[KvFeed, OwnedTask]] = {}
        self._task = OwnedTask()

    async def start(self) -> None:
        if self._listen:
            self._task.start(self._follow, "kv-listeners")

    async def stop(self) -> None:
        await self._task.stop()

    @property
    def replicas(self) -> list[str]:
        """Those that are listened to."""
        return sorted(self._feeds)

    @property
    def gaps(self) -> int:
        """Times that something was missed for good, of the replicas that are listened to."""
        return sum(feed.gaps for feed, _ in self._feeds.values())

    async def _follow(self) -> None:
        context: zmq.asyncio.Context | None = None
        seen: Sequence[Engine] = ()
        try:
            while True:
                snapshot = self._snapshot()
                if snapshot is not seen:
                    seen = snapshot
                    if context is None and any(e.kv_events for e in snapshot):
                        context = zmq.asyncio.Context()  # it has threads: only where it is needed
                    if context is not None:
                        await self._keep_to(context, snapshot)
                await asyncio.sleep(LOOK_S)
        finally:
            for _, task in self._feeds.values():
                await task.stop()
            self._feeds.clear()
            self._residency.keep_only(())
            if context is not None:
                context.destroy(linger=0)

    async def _keep_to(self, context: zmq.asyncio.Context, snapshot: Sequence[Engine]) -> None:
        # One that drains still says what it drops, until it is gone.
        wanted = {
            e.replica: e for e in snapshot if e.kv_events and e.state in ("ready", "draining")
        }
        for gone in [replica for replica in self._feeds if replica not in wanted]:
            _, task = self._feeds.pop(gone)
            await task.stop()
        self._residency.keep_only(wanted)
        for replica, engine in wanted.items():
            if replica not in self._feeds:
                hearer = self._residency.listen(replica)
                feed = KvFeed(context, engine.kv_events, engine.kv_replay, hearer)
                task = OwnedTask()
                task.start(feed.follow, f"kv {replica}")
                self._feeds[replica] = (feed, task)
