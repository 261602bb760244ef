"""What waits in the front doors, by model: the queue that engines do not see.

A front door gives an engine no more prefill than can soon begin (`router.placing`), so under load
that prefill bounds, the engines' own queues stay short, and only the front doors know who waits.

    front door ── a line a second ──▶ its feed ──▶ directory ──▶ replicas ──▶ autoscale

What several front doors say is added up. One that is silent for its lease is dead, and so are its
figures; whoever waited there has left, or waits at another by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec


class Queue(msgspec.Struct, frozen=True):
    """Turns of one model that wait in front doors."""

    turns: int = 0
    tokens: int = 0
    """Of their prompts, to be computed."""
    prefill_s: float = 0.0
    """What that takes one replica, by its measured rate."""

    def __add__(self, other: Queue) -> Queue:
        return Queue(
            self.turns + other.turns,
            self.tokens + other.tokens,
            self.prefill_s + other.prefill_s,
        )


Queues = Mapping[str, Queue]
"""By model."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(dict[str, Queue]).decode


class FrontQueues:
    """The queues of all front doors, each under a lease."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_front: dict[str, tuple[Queues, float]] = {}
        """What each has said, and until when it is believed."""

    def told(self, front: str, queues: Queues, lease_s: float) -> None:
        """What waits at this front door now, instead of what it said before."""
        self._by_front[front] = (queues, self._clock() + lease_s)

    def of(self, model: str) -> Queue:
        """What waits for this model at all front doors that are there."""
        now_s = self._clock()
        self._by_front = {f: said for f, said in self._by_front.items() if said[1] > now_s}
        found = (queues.get(model) for queues, _ in self._by_front.values())
        return sum((queue for queue in found if queue is not None), Queue())
