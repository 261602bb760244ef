"""Peers in one process: the twin of `peer_http`, for tests and for simulations in virtual time."""

from __future__ import annotations

import asyncio

from router.peers.peers import NEWS, PeerAway, Peers


class Room:
    """A Transport among the front doors that are in it, by their URLs."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.doors: dict[str, Peers] = {}

    async def post(self, url: str, path: str, body: bytes) -> bytes:
        await asyncio.sleep(self.latency_s)
        door = self.doors.get(url)
        if door is None:
            raise PeerAway("nobody is there")
        return door.receive(body) if path == NEWS else door.table()

    async def close(self) -> None:
        """One of them has left; the others still use it."""
