"""Which replica? A pure, deterministic decision from a snapshot.

    home       the session's last replica, while it can take turns and is not overloaded
    hash       else rendezvous hashing of the session key: any front door comes to the same
               answer, and a replica that comes or goes moves only its own share of sessions
    spill:load else the least loaded, when the one above is overloaded

Overloaded: at least `spill_min` requests, and more than `spill_factor` times the mean of the
*other* replicas. (Of all of them, the mean of two replicas rises with the busy one's load, and a
factor of 2 would never be reached.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from serving.config import RouterConfig
from serving.table import Engine

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Choice:
    engine: Engine
    reason: str


def choose(
    candidates: Sequence[Engine],
    inflight: Mapping[str, int],
    home: str | None,
    key: bytes,
    knobs: RouterConfig,
) -> Choice | None:
    """The replica for one turn; None when there is no candidate.

    `candidates` are the model's replicas that are ready, not ejected and not yet tried;
    `inflight` counts our own requests by replica.
    """
    if not candidates:
        return None
    preferred = next((e for e in candidates if e.replica == home), None) if home else None
    reason = "home"
    if preferred is None:
        preferred = max(candidates, key=lambda e: weight(key, e.replica))
        reason = "rehome:gone" if home else "hash"
    if not _overloaded(preferred, candidates, inflight, knobs):
        return Choice(preferred, reason)
    least = min(
        candidates,
        key=lambda e: (load(e, inflight), -weight(key, e.replica)),
    )
    return Choice(least, "spill:load" if least is not preferred else reason)


def load(engine: Engine, inflight: Mapping[str, int]) -> int:
    """Requests: our own, and those that wait in the engine for whatever front door."""
    return inflight.get(engine.replica, 0) + engine.load.waiting


def _overloaded(
    engine: Engine, candidates: Sequence[Engine], inflight: Mapping[str, int], knobs: RouterConfig
) -> bool:
    own = load(engine, inflight)
    if own < knobs.spill_min or len(candidates) < 2:
        return False
    others = sum(load(e, inflight) for e in candidates) - own
    return own * (len(candidates) - 1) > knobs.spill_factor * others


def weight(key: bytes, replica: str) -> int:
    """Rendezvous weight: the replica with the greatest gets the key.

    The 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, 2014) over key xor replica: a
    cryptographic hash for each replica of a large fleet would cost more than the decision.
    """
    x = (int.from_bytes(key[:8], "big") ^ _seed(replica)) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@lru_cache(maxsize=4096)
def _seed(replica: str) -> int:
    return int.from_bytes(hashlib.blake2b(replica.encode(), digest_size=8).digest(), "big")
