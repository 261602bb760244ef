"""Several front doors, one mind: each tells the others what its turns have taught it.

    tell(news) ──▶ a queue for each peer ──▶ a batch, some moments later ──▶ POST, signed
                      full: the oldest go         away: pauses that grow, then what is left
    receive(body) ──▶ what the others' turns have taught them
    a start       ──▶ the table of the first peer that has one

Nothing waits for a peer. One that is dead costs a queue of bounded length and an attempt now and
then; it hears what is new when it is back, and asks for the rest itself, since it starts anew. One
that was cut off for a while is wrong about some sessions until their next turns.

With its news a front door says how many tokens it has under way at each replica, so that several of
them do not send everybody to the same idle one. Such a load counts for some seconds only.

Who the peers are may change at any time (`urls`). One's own address may be among them: the answer
says whose it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Protocol

import msgspec

from router.peers.news import Batch, Reply, Table, Turned
from serving.config.router import PeersConfig
from serving.owned_task import OwnedTask

NEWS = "/internal/peers/news"
TABLE = "/internal/peers/table"
REFRESH_S = 1.0
"""A load that lasts is said again so often."""
LOAD_S = 3.0
"""A load that was not said again counts no more."""
LOOK_S = 0.5
PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
BATCH_BOUNDARIES = 100_000
"""In one message, some 3 MB."""

_log = logging.getLogger("warmloop.peers")


class PeerAway(Exception):
    """It did not answer, or not as a peer."""


class Transport(Protocol):
    """How a message gets to a peer."""

    async def post(self, url: str, path: str, body: bytes) -> bytes:
        """The peer's answer. Raises PeerAway."""

    async def close(self) -> None:
        """No more messages."""


class Shared(Protocol):
    """What front doors share: what is believed of the replicas."""

    def learn(self, news: Iterable[Turned]) -> None:
        """What another front door's turns have taught it."""

    def table(self, limit: int) -> list[Turned]:
        """All that is believed, at most so many boundaries."""

    def ready(self) -> bool:
        """There are replicas of which something can be learnt."""

    def loads(self) -> Mapping[str, int]:
        """Our own tokens under way, by replica."""


class _Peer:
    """One other front door, as seen from here."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.queue: OrderedDict[tuple[str, bytes], Turned] = OrderedDict()
        self.news = asyncio.Event()
        self.said: Mapping[str, int] = {}
        """The loads that it was told last."""
        self.is_us = False
        self.away: bool | None = None
        """None: it was not told anything yet."""
        self.task = OwnedTask()

    def take(self) -> list[tuple[tuple[str, bytes], Turned]]:
        """The oldest news, as many as one message may hold."""
        taken = []
        boundaries = 0
        while self.queue and boundaries < BATCH_BOUNDARIES:
            taken.append(self.queue.popitem(last=False))
            news = taken[-1][1]
            boundaries += len(news.hashes)
        return taken

    def is_there(self) -> None:
        if self.away and not self.is_us:
            _log.info("peer %s is back", self.url)
        self.away = False

    def is_away(self, why: Exception) -> None:
        if not self.away:
            _log.warning("peer %s is away: %s", self.url, why)
        self.away = True


class Peers:
    """This front door among the others. For one event loop."""

    def __init__(
        self,
        name: str,
        urls: Callable[[], Collection[str]],
        transport: Transport,
        shared: Shared,
        knobs: PeersConfig,
    ) -> None:
        """`name` is unique among all front doors and all their starts."""
        self.name = name
        self._urls = urls
        self._transport = transport
        self._shared = shared
        self._knobs = knobs
        self._peers: dict[str, _Peer] = {}
        self._loads: dict[str, tuple[float, Mapping[str, int]]] = {}
        """By peer: when it said so, and its loads."""
        self._joined = False
        self._task = OwnedTask()
        self.dropped = 0
        """News that a full queue had no room for."""

    async def start(self) -> None:
        self._task.start(self._follow, "peers")

    async def stop(self) -> None:
        await self._task.stop()
        for peer in self._peers.values():
            await peer.task.stop()
        self._peers.clear()
        await self._transport.close()

    def tell(self, news: Turned) -> None:
        """Let the others know, soon."""
        key = (news.replica, news.hashes[-1])
        for peer in self._peers.values():
            if peer.is_us:
                continue
            peer.queue[key] = news  # what was said of the same place before is no news any more
            peer.queue.move_to_end(key)
            while len(peer.queue) > self._knobs.max_queued:
                peer.queue.popitem(last=False)
                self.dropped += 1
            peer.news.set()

    def receive(self, body: bytes) -> bytes:
        """A peer's batch; returns the answer. Raises msgspec.DecodeError."""
        batch = _decode_batch(body)
        if batch.sender != self.name:
            self._shared.learn(batch.news)
            if batch.loads is not None:
                now = asyncio.get_running_loop().time()
                self._loads[batch.sender] = (now, batch.loads)
        return msgspec.msgpack.encode(Reply(self.name))

    def table(self) -> bytes:
        """The answer to a front door that has just started."""
        return msgspec.msgpack.encode(Table(self.name, self._shared.table(self._knobs.max_table)))

    def load(self, replica: str) -> int:
        """Tokens that the other front doors have under way there."""
        if not self._loads:
            return 0
        oldest = asyncio.get_running_loop().time() - LOAD_S
        for gone in [name for name, (at, _) in self._loads.items() if at < oldest]:
            del self._loads[gone]
        return sum(loads.get(replica, 0) for _, loads in self._loads.values())

    @property
    def listened(self) -> bool:
        """There is somebody to tell things to."""
        return any(not peer.is_us for peer in self._peers.values())

    @property
    def present(self) -> int:
        """Other front doors that answered the last time."""
        return sum(peer.away is False and not peer.is_us for peer in self._peers.values())

    async def _follow(self) -> None:
        """Keep to the list of peers."""
        try:
            while True:
                urls = self._urls()
                for url in urls:
                    if url not in self._peers:
                        peer = self._peers[url] = _Peer(url)
                        peer.task.start(partial(self._serve, peer), f"peer {url}")
                for url in [u for u in self._peers if u not in urls]:
                    await self._peers.pop(url).task.stop()
                if not self._joined and self._shared.ready():
                    await self._join()
                await asyncio.sleep(LOOK_S)
        finally:
            for peer in self._peers.values():
                await peer.task.stop()

    async def _join(self) -> None:
        """Learn what the others know, from the first who knows something."""
        peers = list(self._peers.values())
        random.shuffle(peers)
        for peer in peers:
            try:
                table = _decode_table(await self._transport.post(peer.url, TABLE, b""))
            except (PeerAway, msgspec.DecodeError) as error:
                peer.is_away(error)
                continue
            if table.sender == self.name:
                peer.is_us = True
                continue
            peer.is_there()
            self._joined = True
            self._shared.learn(table.news)
            if table.news:
                return

    async def _serve(self, peer: _Peer) -> None:
        """Tell one peer what is new, for ever."""
        pause_s = PAUSE_S
        while not peer.is_us:
            await self._something_for(peer)
            await asyncio.sleep(self._knobs.batch_s)
            peer.news.clear()
            loads = dict(self._shared.loads())
            taken = peer.take()
            batch = Batch(self.name, [news for _, news in taken], loads)
            try:
                answer = await self._transport.post(peer.url, NEWS, msgspec.msgpack.encode(batch))
                peer.is_us = _decode_reply(answer).name == self.name
            except (PeerAway, msgspec.DecodeError) as error:
                peer.is_away(error)
                for key, news in reversed(taken):
                    if key not in peer.queue and len(peer.queue) < self._knobs.max_queued:
                        peer.queue[key] = news
                        peer.queue.move_to_end(key, last=False)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            else:
                peer.is_there()
                peer.said = loads
                pause_s = PAUSE_S
        peer.queue.clear()

    async def _something_for(self, peer: _Peer) -> None:
        """Return when there is something to tell: news, or a load that it does not know."""
        while not peer.queue:
            try:
                async with asyncio.timeout(REFRESH_S):
                    await peer.news.wait()
            except TimeoutError:
                if peer.said or self._shared.loads():
                    return
            peer.news.clear()


_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_table = msgspec.msgpack.Decoder(Table).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode
