"""The ends of the logs that are being written, in memory: who follows a response reads them here.

A store publishes what it has stored; followers wait for it and read it without asking the store.
Bounded in bytes: the conversations that were longest without news go first, and are then read
from the store again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from orchestrator.clock import Clock
from orchestrator.journal.base import Recorded
from orchestrator.loop.events import AnyEvent

Look = Callable[[], Awaitable[bool]]
EVENT_BYTES = 256
"""What an event in memory takes beside its payload, roughly."""


class _Tail:
    __slots__ = ("events", "first", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.events: list[AnyEvent] = []
        self.size = 0


class Tails:
    """The newest events of the conversations with news, and those who wait for more."""

    def __init__(self, max_bytes: int = 64 * 2**20, max_tail_bytes: int = 2**20) -> None:
        self._max_bytes = max_bytes
        self._max_tail_bytes = max_tail_bytes
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._size = 0
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def publish(
        self, conversation: str, first: int, events: Sequence[AnyEvent], payload_bytes: int
    ) -> None:
        """These events are stored, the first of them at seq `first`."""
        tail = self._tails.get(conversation)
        if tail is None or tail.first + len(tail.events) != first:
            self._drop(conversation)
            tail = self._tails[conversation] = _Tail(first)
        tail.events += events
        size = payload_bytes + EVENT_BYTES * len(events)
        tail.size += size
        self._size += size
        self._tails.move_to_end(conversation)
        if tail.size > self._max_tail_bytes:
            self._halve(tail)
        while self._size > self._max_bytes and len(self._tails) > 1:
            self._drop(next(iter(self._tails)))
        if self._waiting:
            self._wake(conversation)

    def read(self, conversation: str, after: int) -> list[Recorded] | None:
        """Events with seq > `after`; None when the store must be asked."""
        tail = self._tails.get(conversation)
        if tail is None or after + 1 < tail.first:
            return None
        news = tail.events[after + 1 - tail.first :]
        return list(map(Recorded, range(after + 1, after + 1 + len(news)), news))

    def forget(self, conversation: str) -> None:
        """What is in memory of it is not true any more; who waits for it goes on waiting."""
        self._drop(conversation)

    def tell(self, conversation: str, seq: int) -> None:
        """Somebody else has written to it, up to `seq`."""
        tail = self._tails.get(conversation)
        if tail is not None and tail.first + len(tail.events) - 1 < seq:
            self._drop(conversation)
        self._wake(conversation)

    def wake_all(self) -> None:
        """News may have been missed: all who wait look for themselves."""
        for conversation in list(self._waiting):
            self._wake(conversation)

    def _wake(self, conversation: str) -> None:
        for waiter in self._waiting.pop(conversation, ()):
            if not waiter.done():
                waiter.set_result(None)

    def last(self, conversation: str) -> int | None:
        """The newest seq; None when the store must be asked."""
        tail = self._tails.get(conversation)
        return tail.first + len(tail.events) - 1 if tail else None

    async def wait(
        self, conversation: str, timeout_s: float, clock: Clock, look: Look | None = None
    ) -> bool:
        """Until the next publication of that conversation; False when time is up.

        `look` looks into the store once the wait has begun, and ends it by returning True: what is
        stored between a look and a wait must not be missed.
        """
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(conversation, []).append(news)
        timer = clock.call_later(timeout_s, news.cancel)
        try:
            if look is not None and await look():
                return True
            await asyncio.wait([news])
            return not news.cancelled()
        finally:
            timer.cancel()
            news.cancel()
            waiting = self._waiting.get(conversation, [])
            if news in waiting:
                waiting.remove(news)
            if not waiting:
                self._waiting.pop(conversation, None)

    def _halve(self, tail: _Tail) -> None:
        # Half at a time, so that a long log costs O(1) an event.
        kept = len(tail.events) // 2
        tail.first += len(tail.events) - kept
        tail.events = tail.events[-kept:] if kept else []
        self._size -= tail.size - tail.size // 2
        tail.size //= 2

    def _drop(self, conversation: str) -> None:
        tail = self._tails.pop(conversation, None)
        if tail is not None:
            self._size -= tail.size
