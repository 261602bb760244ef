"""Is a replica much slower than its model's others? By prefill rates as measured. Pure.

    slow        its rate is `factor` times below the median of its peers', after some samples
    well again  it is no longer half as far below

A slow replica gets one turn at a time (`health`), so that what it shows from then on is its own
doing and not its load's: one that was only busy is soon well again. It needs a peer to be slow:
a model's only replica never is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median


class Slowness:
    """What is remembered of each replica. Bounded by the fleet."""

    def __init__(self, factor: float, samples: int) -> None:
        self._factor = factor
        self._samples = samples
        self._seen: dict[str, int] = {}
        self._slow: set[str] = set()

    def sample(self, replica: str, rate: float, peers: Sequence[float]) -> float:
        """After one more sample of its rate: how many times slower it is, or 0 if that is fine."""
        seen = self._seen[replica] = self._seen.get(replica, 0) + 1
        times = median(peers) / rate if peers else 0.0
        if replica in self._slow:
            if times <= max(1.0, self._factor / 2):
                self._slow.discard(replica)
        elif times >= self._factor and seen >= self._samples:
            self._slow.add(replica)
        return times if replica in self._slow else 0.0

    def keep_only(self, replicas: Collection[str]) -> None:
        """A replica's name never comes back."""
        for gone in [r for r in self._seen if r not in replicas]:
            del self._seen[gone]
            self._slow.discard(gone)
