"""Who holds which session, exactly: engines' KV events matched to the turns that we sent.

    sent(replica, chain) ──▶ a mark that goes to the engine with the turn
    the engine's events   ──▶ blocks stored under that mark: here the chain's prefix ends
                          ──▶ blocks removed: so many tokens of it are left ──▶ `Known.exact`

An engine names blocks by hashes that only it can compute, and tokenizing here would cost more than
the whole decision. But it says with each stored block for which session that was (vLLM and SGLang
take the name from the request), and what the block follows. So a mark of our own, new for each
turn, ties a boundary of the chain to a block; how deep that block lies in the tree is how many
tokens are held. A removed block is known by its place, at once, whoever's it was.

Marks of other front doors' turns are kept for a while: the peers say later whose chain it was.

Where events are missing (`lost`), what is known from them is dropped and the estimate stays, as it
does for engines that publish nothing. Bounded: marks, blocks and boundaries have capacities.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from router.kv.block_tree import Anchor, BlockTree, Place, found_depth
from router.kv.wire import AllBlocksCleared, BlockRemoved, BlockStored, Event
from serving.config.router import KvEventsConfig
from serving.protocol import Usage

MAX_MARKS = 10_000
CHAIN_END = 32
"""Boundaries of a turn that are remembered with its mark: the turn before it ended near there."""


class Known(Protocol):
    """What is believed of the replicas; `router.placing.warmth.Warmth` is the real one."""

    def cleared(self, replica: str) -> None:
        """It holds nothing."""

    def exact(self, replica: str, boundary: bytes, tokens: int) -> bytes | None:
        """Of the prefix that ends at this boundary the engine holds so many tokens.

        Returns the boundary to name from now on, a later one being gone; None: no need to go on.
        """

    def witnessed(self, replica: str, block_tokens: int) -> None:
        """From now on somebody sees what it drops; it holds whole blocks of so many tokens.

        0: nobody sees it any more.
        """


class _Mark:
    """A turn that was sent, and where its blocks are."""

    __slots__ = ("chain", "first", "first_blocks", "replica", "tip")

    def __init__(self, replica: str, chain: Sequence[bytes]) -> None:
        self.replica = replica
        self.chain = chain[-CHAIN_END:]
        """The last boundaries' hashes; empty: another front door's turn."""
        self.first: Place | None = None
        """The end of the first blocks that it stored."""
        self.first_blocks = 0
        self.tip: Place | None = None
        """The end of the last ones."""


class Residency:
    """All replicas of this front door that publish."""

    def __init__(self, knobs: KvEventsConfig, known: Known) -> None:
        self._knobs = knobs
        self._known = known
        self._held: dict[str, Held] = {}
        self._marks: OrderedDict[str, _Mark] = OrderedDict()
        self._name = secrets.token_hex(4)
        self._count = 0

    def listen(self, replica: str) -> Held:
        """The hearer of this replica's events."""
        held = self._held.get(replica)
        if held is None:
            held = self._held[replica] = Held(replica, self, self._knobs)
        return held

    def keep_only(self, replicas: Collection[str]) -> None:
        for gone in [r for r in self._held if r not in replicas]:
            del self._held[gone]
            self._known.witnessed(gone, 0)

    def sent(self, replica: str, chain: Sequence[bytes]) -> str:
        """A mark for the turn that is about to go there; empty where nobody would see it."""
        if replica not in self._held or not chain:
            return ""
        self._count += 1
        mark = f"{self._name}-{self._count:x}"
        self._remember(mark, _Mark(replica, chain))
        return mark

    def ended(self, mark: str, usage: Usage) -> None:
        """The engine's own count of the turn's tokens."""
        turn, held = self._of(mark)
        if turn is None or held is None or turn.first is None or not held.block_tokens:
            return
        # What it found, and the blocks that it stored first: this says how deep they lie, where the
        # beginning of their prefix was stored before we listened.
        found_depth(turn.first, usage.cached_tokens // held.block_tokens + turn.first_blocks)

    def told(self, mark: str, replica: str, chain: Sequence[bytes]) -> None:
        """A peer says whose turn this mark was."""
        turn, held = self._of(mark)
        if held is None or turn is None or turn.replica != replica or turn.chain or not chain:
            return
        turn.chain = chain[-CHAIN_END:]
        if turn.tip is not None:
            held.anchor(turn)

    @property
    def blocks(self) -> int:
        """Blocks known, all replicas together."""
        return sum(len(held.tree) for held in self._held.values())

    # What the hearers call

    def mark(self, name: str, replica: str) -> _Mark:
        """The turn of this mark; one of another front door's where it is not ours."""
        turn = self._marks.get(name)
        if turn is None or turn.replica != replica:
            turn = _Mark(replica, ())
            self._remember(name, turn)
        return turn

    def lost(self, held: Held, anchors: Iterable[Anchor]) -> None:
        for anchor in anchors:
            blocks = anchor.blocks()
            if blocks is None:
                continue
            tokens = blocks * held.block_tokens
            name = self._known.exact(held.replica, anchor.name, tokens)
            if name is None or not tokens:
                held.tree.forget(anchor.name)
            elif name != anchor.name:
                held.tree.rename(anchor, name)

    def cleared(self, replica: str) -> None:
        self._known.cleared(replica)

    def witnessed(self, replica: str, block_tokens: int) -> None:
        self._known.witnessed(replica, block_tokens)

    def _of(self, mark: str) -> tuple[_Mark | None, Held | None]:
        turn = self._marks.get(mark)
        return turn, self._held.get(turn.replica) if turn is not None else None

    def _remember(self, mark: str, turn: _Mark) -> None:
        self._marks[mark] = turn
        while len(self._marks) > MAX_MARKS:
            self._marks.popitem(last=False)


class Held:
    """What one replica holds, as its events say. The hearer of its feed."""

    def __init__(self, replica: str, residency: Residency, knobs: KvEventsConfig) -> None:
        self.replica = replica
        self.block_tokens = 0
        """0: it has not stored anything yet."""
        self.tree = BlockTree(knobs.max_blocks, knobs.max_boundaries)
        self._residency = residency
        self._off = False
        self._marks = False

    def heard(self, events: Iterable[Event]) -> None:
        if self._off:
            return
        for event in events:
            if isinstance(event, BlockStored):
                self._stored(event)
            elif isinstance(event, BlockRemoved):
                lost = self.tree.removed(event.block_hashes)
                if lost:
                    self._residency.lost(self, lost)
            elif isinstance(event, AllBlocksCleared):
                self.restarted()
        if self.tree.full:
            # It cannot be known; half of it would be worse than the estimate.
            self._off = True
            self.lost()

    def lost(self) -> None:
        """Something was missed for good: what its events said may be wrong. The estimate stays."""
        self.tree.clear()
        if self._off:
            self._residency.witnessed(self.replica, 0)

    def restarted(self) -> None:
        """It holds nothing."""
        self.tree.clear()
        self._residency.cleared(self.replica)

    def anchor(self, turn: _Mark) -> None:
        """The turn's last boundary ends where its last blocks were stored."""
        assert turn.tip is not None  # noqa: S101  the callers looked
        if turn.tip.count > len(turn.tip.run.hashes):
            return  # it has been dropped since
        name = turn.chain[-1]
        if self.tree.anchored(name) is None:
            # The boundary that this one grew from need not be watched beside it.
            for earlier in reversed(turn.chain[:-1]):
                if self.tree.anchored(earlier) is not None:
                    self.tree.forget(earlier)
                    break
        self.tree.anchor(name, turn.tip)

    def _stored(self, event: BlockStored) -> None:
        if not self.block_tokens:
            self.block_tokens = max(0, event.block_size)
        if event.block_size != self.block_tokens:
            return  # a part of a block: what follows it is stored again as a whole one
        place = self.tree.stored(event.block_hashes, event.parent_block_hash)
        if place is None or not event.session_id:
            return
        if not self._marks:
            # Only an engine that says whose its blocks are tells us what it drops of whom.
            self._marks = True
            self._residency.witnessed(self.replica, self.block_tokens)
        turn = self._residency.mark(event.session_id, self.replica)
        if turn.first is None:
            turn.first, turn.first_blocks = place, len(event.block_hashes)
        turn.tip = place
        if turn.chain:
            self.anchor(turn)
