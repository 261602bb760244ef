"""A prefix cache without a model: which token blocks an engine holds, and which it lets go.

The rules are vLLM's:
- A prompt is cut into blocks; a block is known by the hash of itself and all before it, so equal
  hashes mean equal prefixes. Only whole blocks are shared.
- A running sequence pins its blocks. Blocks that nobody pins stay, until their room is needed;
  then the least recently used goes first, and of one sequence the tail before the head.
- Room that a running sequence will need for tokens it has not computed yet is reserved as blanks.

Pure: no clock, no I/O. The pseudo-tokenizer is here too: four bytes of UTF-8 are one token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

BYTES_PER_TOKEN = 4

Chain = Sequence[bytes | int]
"""Block hashes from the first block on; traces bring integers, text gives digests."""


def count_tokens(data: bytes) -> int:
    """Pseudo-tokens of `data`; a started one counts."""
    return -(-len(data) // BYTES_PER_TOKEN)


def chain(data: bytes, block_tokens: int, root: bytes = b"") -> list[bytes]:
    """Chained hashes of the whole blocks of `data`; `root` keeps tenants or adapters apart."""
    size = block_tokens * BYTES_PER_TOKEN
    parent = blake2b(root, digest_size=16).digest()
    hashes = []
    for start in range(0, len(data) - size + 1, size):
        parent = blake2b(parent + data[start : start + size], digest_size=16).digest()
        hashes.append(parent)
    return hashes


class Listener(Protocol):
    """Hears what the cache stores and drops, as it happens."""

    def stored(self, blocks: Chain, parent: bytes | int | None, session: str) -> None:
        """New blocks, one after the other, the first of them after `parent`."""

    def removed(self, block: bytes | int) -> None: ...

    def cleared(self) -> None: ...


@dataclass(slots=True)
class Pins:
    """The blocks of one running sequence; belongs to the cache that gave it out."""

    held: list[bytes | int] = field(default_factory=list)
    blanks: int = 0
    session: str = ""
    """What the request calls its session; listeners are told."""


class BlockCache:
    """Blocks of one engine. `pinned + idle + blanks <= capacity_blocks` always holds."""

    def __init__(self, capacity_blocks: int) -> None:
        if capacity_blocks < 1:
            raise ValueError(f"capacity_blocks must be at least 1 (got {capacity_blocks})")
        self.capacity_blocks = capacity_blocks
        self._pinned: dict[bytes | int, int] = {}
        self._idle: OrderedDict[bytes | int, None] = OrderedDict()
        self._blanks = 0
        self.listener: Listener | None = None

    @property
    def used_blocks(self) -> int:
        """Blocks of running sequences; idle ones count as free, as in vLLM's own gauge."""
        return len(self._pinned) + self._blanks

    @property
    def resident_blocks(self) -> int:
        """Blocks whose content a later prompt could reuse."""
        return len(self._pinned) + len(self._idle)

    def match(self, blocks: Chain) -> int:
        """How many leading blocks are here. Changes nothing."""
        hits = 0
        for block in blocks:
            if not self._has(block):
                break
            hits += 1
        return hits

    def acquire(self, blocks: Chain, total_blocks: int) -> Pins | None:
        """Pin the leading blocks that are here, and reserve blanks up to `total_blocks`.

        None when running sequences leave too little room: the caller waits for a release.
        """
        hits = self.match(blocks)
        blanks = max(0, total_blocks - hits)
        newly_pinned = sum(1 for block in blocks[:hits] if block not in self._pinned)
        if self.used_blocks + newly_pinned + blanks > self.capacity_blocks:
            return None
        pins = Pins()
        for block in blocks[:hits]:
            self._pin(block, pins)
        while self.used_blocks + blanks + len(self._idle) > self.capacity_blocks:
            block, _ = self._idle.popitem(last=False)
            if self.listener is not None:
                self.listener.removed(block)
        self._blanks += blanks
        pins.blanks = blanks
        return pins

    def commit(self, pins: Pins, blocks: Chain) -> None:
        """The sequence has computed `blocks` (from its first one on): they can be shared now."""
        if self.listener is not None:
            self._tell(self.listener, pins, blocks)
        for block in blocks[len(pins.held) :]:
            if pins.blanks == 0:
                raise ValueError("a sequence computed more blocks than it reserved")
            # A twin may have computed the same block meanwhile; then our blank is spare.
            pins.blanks -= 1
            self._blanks -= 1
            self._pin(block, pins)

    def release(self, pins: Pins) -> None:
        """The sequence ended: its blocks stay for others, its tail is the first to go."""
        self._blanks -= pins.blanks
        pins.blanks = 0
        for block in reversed(pins.held):
            self._pinned[block] -= 1
            if self._pinned[block] == 0:
                del self._pinned[block]
                self._idle[block] = None
        pins.held.clear()

    def clear(self) -> None:
        """Forget what nobody pins."""
        if self.listener is not None:
            if self._pinned:  # as vLLM, which clears all or nothing, could not say it
                for block in self._idle:
                    self.listener.removed(block)
            else:
                self.listener.cleared()
        self._idle.clear()

    def _tell(self, listener: Listener, pins: Pins, blocks: Chain) -> None:
        """Of what a sequence has computed, the part that was not here before."""
        start = len(pins.held)
        while start < len(blocks) and self._has(blocks[start]):
            start += 1
        if start < len(blocks):
            parent = blocks[start - 1] if start else None
            listener.stored(blocks[start:], parent, pins.session)

    def _has(self, block: bytes | int) -> bool:
        return block in self._pinned or block in self._idle

    def _pin(self, block: bytes | int, pins: Pins) -> None:
        self._idle.pop(block, None)
        self._pinned[block] = self._pinned.get(block, 0) + 1
        pins.held.append(block)
