"""Which replica? A pure, deterministic decision from a snapshot.

A turn's score at a replica is its estimated time to first token there, and what it takes from
others:

    wait               prefill that is queued before it, over the replica's measured rate, and
                       the wait for one of the engine's slots where all are taken
    + fresh tokens     what the replica does not hold of its prompt, over the same rate
    + eviction price   the tokens of programs expected back that would have to make room, over the
                       rate, times how much a second of theirs counts

The least score wins. Staying at home is a result of it, since home holds the prefix; leaving costs
the prefix several times, since computing it once more keeps that replica from others' work. Among
a new session's replicas that are as good, rendezvous hashing decides: any front door comes to the
same answer, and a replica that comes or goes moves only its own share; but none gets more than
`spread` times its share of new sessions.

    home | warm | hash | spread | spill:load | rehome:gone | rehome:room

None, where the turn would drive out programs that are expected back, everywhere: it waits (see
`scheduler`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from serving.config.router import PlacementConfig
from serving.tables.base import Engine

_MASK = (1 << 64) - 1


class Option(msgspec.Struct, frozen=True):
    """A replica as a turn finds it."""

    engine: Engine
    wait_s: float
    """Until the turn's own prefill would begin."""
    rate: float
    """Prefill tokens a second."""
    warm_tokens: int
    """Of the turn's prompt, held there."""
    room_tokens: int
    """Of its cache, not needed by others that are expected back; negative when it is short."""
    placed: float = 0.0
    """Sessions without a home that it got lately."""


class Need(msgspec.Struct, frozen=True):
    """A turn, in tokens."""

    key: bytes
    tokens: int
    """Prompt."""
    answer_tokens: int = 0
    home: str = ""
    """The replica of the session's last turn; empty for a new one."""


class Choice(msgspec.Struct, frozen=True):
    engine: Engine
    reason: str
    first_token_s: float
    """Estimated."""


def choose(need: Need, options: Sequence[Option], knobs: PlacementConfig) -> Choice | None:
    """The replica for one turn; None when it had better wait. `options` are not empty."""
    home = next((o for o in options if o.engine.replica == need.home), None) if need.home else None
    open_to = [o for o in options if fits(need, o, knobs)]
    if not open_to:
        return None
    if home is not None and len(options) == 1:
        return Choice(home.engine, "home", first_token_s(need, home))
    if home is not None and home in open_to:
        return _from_home(need, home, open_to, knobs)
    limit = knobs.spread * sum(o.placed for o in options) / len(options) + 1
    scored = [(score(need, o, knobs), o) for o in open_to]
    even = [(s, o) for s, o in scored if o.placed < limit]
    best = min(s for s, _ in scored)
    if even:
        # A head that all share is soon warm everywhere: it is not worth piling them on one replica.
        fairest = min(s for s, _ in even)
        if fairest <= best + knobs.alike_s + knobs.small_tokens / even[0][1].rate:
            scored, best = even, fairest
    alike = [o for s, o in scored if s <= best + knobs.alike_s]
    if need.home and home is None:
        reason = "rehome:gone"
    elif home is not None:
        reason = "rehome:room"
    else:
        reason = "hash"
    chosen = max(alike, key=lambda o: weight(need.key, o.engine.replica))
    if reason == "hash" and len(alike) < len(options):
        least = max(options, key=lambda o: weight(need.key, o.engine.replica))
        if least not in alike:
            reason = "warm" if chosen.warm_tokens > least.warm_tokens else "spill:load"
            reason = "spread" if least.placed >= limit else reason
    return Choice(chosen.engine, reason, first_token_s(need, chosen))


def _from_home(
    need: Need, home: Option, options: Sequence[Option], knobs: PlacementConfig
) -> Choice:
    """Stay, unless somewhere else is better by more than leaving costs."""
    best, least = home, score(need, home, knobs)
    if home.wait_s > knobs.alike_s or any(o.warm_tokens > home.warm_tokens for o in options):
        for option in options:
            again = max(0, home.warm_tokens - option.warm_tokens) / option.rate
            away = score(need, option, knobs) + knobs.leave_s + knobs.leave_price * again
            if option is not home and away < least:
                best, least = option, away
    warmer = best.warm_tokens > home.warm_tokens
    reason = "home" if best is home else "warm" if warmer else "spill:load"
    return Choice(best.engine, reason, first_token_s(need, best))


def fits(need: Need, option: Option, knobs: PlacementConfig) -> bool:
    """It holds the prefix, or can take it without driving out others that will be back."""
    fresh = need.tokens - option.warm_tokens
    if fresh <= knobs.small_tokens:
        return True
    if option.engine.replica == need.home and option.warm_tokens >= knobs.holds * need.tokens:
        return True
    return fresh + need.answer_tokens <= option.room_tokens


def score(need: Need, option: Option, knobs: PlacementConfig) -> float:
    """Seconds."""
    short = need.tokens - option.warm_tokens + need.answer_tokens - max(0, option.room_tokens)
    return first_token_s(need, option) + knobs.eviction_price * max(0, short) / option.rate


def first_token_s(need: Need, option: Option) -> float:
    return option.wait_s + max(0, need.tokens - option.warm_tokens) / option.rate


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
