"""What does each replica hold? An index of prompts' boundaries, aged as the engine ages its blocks.

    a turn's chain      root ── system ── user ── answer ── tool ── …      (hashes, see identity)
    Holdings            one replica: which of those boundaries lie in its KV cache, in tokens
    Warmth              all replicas of this front door

Invariants of one replica's index:
- a boundary that is held has all before it held, whole; only a leaf may be held in part (its end
  goes first, as in the engine), so that the longest held prefix is found by bisection
- tokens held ≤ what the engine's cache takes, boundaries held ≤ `max_nodes`; the least recently
  used leaf goes first; what a running turn uses is pinned

It is a model, and it is corrected by what engines report. An engine that found less than predicted
has let go of it, and, since it lets go of the least recently used first, of all that is older. One
that found more is taken at its word. Others know better than the model (`router.placing.outside`):

    witnessed(replica, block_tokens)       the engine says itself what it drops: no ageing any more
    cleared(replica)                       it holds nothing (restarted, reset)
    exact(replica, boundary, tokens)       so many tokens of the prefix that ends there are held
    learned(replica, hashes, ends_tokens)  it computed this prefix for somebody else's turn
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence


class Node:
    """One boundary that a replica holds, and the segment of tokens that ends there."""

    __slots__ = ("after", "before", "child", "end", "hash", "held", "parent", "pins", "tail")

    def __init__(self, digest: bytes, parent: Node | None, end: int) -> None:
        self.hash = digest
        self.parent = parent
        self.end = end
        """Tokens from the prompt's first to this boundary."""
        self.held = 0
        """Tokens of its own segment that are in the cache."""
        self.tail = 0
        """Tokens held beyond it: an answer whose message nobody has sent back yet."""
        self.pins = 0
        self.child: Node | None = None
        # Siblings form a list, so that a subtree can be dropped without a set in every node.
        self.after: Node | None = None
        self.before: Node | None = None

    @property
    def start(self) -> int:
        return self.parent.end if self.parent is not None else 0

    @property
    def warm(self) -> int:
        """Tokens of the prefix that ends here which are held, the answer after it left out."""
        return self.start + self.held


class Holdings:
    """One replica's index."""

    def __init__(self, capacity_tokens: int, max_nodes: int, *, guessed: bool = False) -> None:
        """`guessed`: its engine does not say what its cache takes."""
        self._guessed = guessed
        self._full_tokens = capacity_tokens
        self.capacity_tokens = capacity_tokens
        """What of it is ours, as far as predictions have held."""
        self.max_nodes = max_nodes
        self.block_tokens = 0
        """Its engine says what it drops, in whole blocks of so many tokens; 0: it does not."""
        self.tokens = 0
        """Tokens held, each shared prefix counted once."""
        self._nodes: dict[bytes, Node] = {}
        self._asked: Sequence[bytes] | None = None
        self._answer: tuple[int, Node | None] = -1, None
        self._leaves: OrderedDict[Node, None] = OrderedDict()
        """Leaves that no running turn pins, the least recently used first."""

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, hashes: Sequence[bytes]) -> tuple[int, Node | None]:
        """The last boundary of this chain that is held: its index, and the node; or -1, None."""
        if hashes is self._asked:  # a turn asks several times while it is placed
            return self._answer
        nodes = self._nodes
        found: Node | None = None
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high) // 2
            node = nodes.get(hashes[middle])
            if node is None:
                high = middle
            else:
                found, low = node, middle + 1
        self._asked, self._answer = hashes, (low - 1, found)
        return self._answer

    def pin(self, node: Node) -> None:
        node.pins += 1
        self._leaves.pop(node, None)

    def unpin(self, node: Node) -> None:
        """The turn that used it ended: from now on it is the most recently used."""
        node.pins -= 1
        if node.pins == 0 and node.child is None and self._nodes.get(node.hash) is node:
            self._leaves[node] = None
            self._trim()

    def extend(self, hashes: Sequence[bytes], ends: Sequence[int], tail: int = 0) -> Node:
        """This chain is in the cache now, whole; returns its last node, pinned.

        `ends` are tokens from the first to each boundary; `tail` what was computed after the last.
        """
        at, node = self.find(hashes)
        if node is not None:
            self._fill(node, ends[at])
        return self.branch(node, hashes[at + 1 :], ends[at + 1 :], tail, ends[at])

    def branch(
        self,
        node: Node | None,
        hashes: Sequence[bytes],
        ends: Sequence[int],
        tail: int = 0,
        end: int = 0,
    ) -> Node:
        """The same for a chain that goes on after `node`, which ends at `end` if nothing does."""
        for index, digest in enumerate(hashes):
            known = self._nodes.get(digest)
            if known is not None:
                node = known
                continue
            if node is not None and node.tail:
                self.tokens -= node.tail
                node.tail = 0
            node = self._add(digest, node, ends[index])
        assert node is not None  # noqa: S101  a chain has a root
        self.pin(node)
        self.grow(node, ends[-1] if ends else end, tail)
        return node

    def paths(self) -> Iterator[tuple[bytes, list[bytes], list[int], int]]:
        """All that is held whole, in pieces that do not fork, those near the root first:
        (the boundary before, hashes, their ends, what is held beyond the last)."""
        starts = [node for node in self._nodes.values() if node.parent is None]
        while starts:
            node = starts.pop()
            before = node.parent.hash if node.parent is not None else b""
            hashes, ends = [node.hash], [node.end]
            while node.child is not None and node.child.after is None:
                node = node.child
                hashes.append(node.hash)
                ends.append(node.end)
            if node.held < node.end - node.start:  # in part: it can only be the last
                hashes.pop()
                ends.pop()
            if hashes:
                yield before, hashes, ends, node.tail
            child = node.child
            while child is not None:
                starts.append(child)
                child = child.after

    def shorten(self, node: Node, tail: int) -> None:
        """Of what was computed after this leaf only so much is held."""
        self.tokens -= node.tail - tail
        node.tail = tail

    def grow(self, node: Node, end: int, tail: int) -> None:
        """A pinned leaf's true end is known, and what was generated after it."""
        if node.child is None and self._nodes.get(node.hash) is node:
            self._fill(node, end)
            self.tokens += tail - node.tail
            node.tail = tail
        self._trim()

    def cut(self, node: Node, warm: int) -> Node:
        """Of the prefix that ends at `node` only `warm` tokens are held; what grew from the rest
        is gone with it. Returns the node in which what is held ends."""
        while node.parent is not None and node.start >= warm and not node.pins:
            above = node.parent
            self._drop(node)
            node = above
        if node.warm > warm or node.tail:
            while node.child is not None:
                self._drop(node.child)
            kept = max(0, min(node.held, warm - node.start))
            self.tokens -= node.held - kept + node.tail
            node.held, node.tail = kept, 0
            if not node.pins:
                self._leaves.setdefault(node)
        return node

    def shrink(self, missing_tokens: int) -> None:
        """The engine had let go of so much that was thought to be held: others use it, too.

        The model of its cache gets smaller by that, and grows again while predictions hold.
        """
        if self.block_tokens:
            return  # it says what it drops: nothing else is to be concluded
        least = self._full_tokens // 16
        self.capacity_tokens = max(least, self.capacity_tokens - missing_tokens // 2)
        self._trim()

    def confirm(self, more_tokens: int) -> None:
        """A prediction held, or was too low by so much."""
        step = self._full_tokens // 128 + max(0, more_tokens)
        self.capacity_tokens = min(self._full_tokens, self.capacity_tokens + step)

    def missed(self, more_tokens: int) -> None:
        """The engine found so much more of a prompt than was thought to be held. Where its capacity
        is a guess, and the index has been dropping what it still held, the guess was too low."""
        if self._guessed and self.tokens + more_tokens > self.capacity_tokens:
            self.capacity_tokens += more_tokens
            self._full_tokens = max(self._full_tokens, self.capacity_tokens)

    def get(self, digest: bytes) -> Node | None:
        return self._nodes.get(digest)

    def clear(self) -> None:
        """Nothing is held. Running turns' own chains come back when they begin."""
        self._asked = None
        self._nodes.clear()
        self._leaves.clear()
        self.tokens = 0
        self.capacity_tokens = self._full_tokens

    def resize(self, capacity_tokens: int) -> None:
        self._full_tokens = self.capacity_tokens = capacity_tokens
        self._guessed = False
        self._trim()

    def _add(self, digest: bytes, parent: Node | None, end: int) -> Node:
        node = Node(digest, parent, max(end, parent.end if parent else 0))
        self._asked = None
        self._nodes[digest] = node
        if parent is not None:
            self._leaves.pop(parent, None)
            node.after = parent.child
            if parent.child is not None:
                parent.child.before = node
            parent.child = node
        node.held = node.end - node.start
        self.tokens += node.held
        return node

    def _fill(self, node: Node, end: int) -> None:
        """Held whole, up to `end`; a boundary from which others have grown keeps its place."""
        if node.child is None:
            node.end = max(end, node.start)
        self.tokens += node.end - node.start - node.held
        node.held = node.end - node.start

    def _trim(self) -> None:
        capacity = self.capacity_tokens
        if self.block_tokens:
            # What it drops is heard a moment after what drove it out; beyond that, the engine's
            # word is missing for something, and that must go in the end.
            capacity += capacity // 4
        while self.tokens > capacity and self._leaves:
            leaf = next(iter(self._leaves))
            over = self.tokens - capacity
            if leaf.tail + leaf.held > over:
                lost = min(leaf.tail, over)
                leaf.tail -= lost
                leaf.held -= over - lost
                self.tokens -= over
                break
            self._drop_leaf(leaf)
        while len(self._nodes) > self.max_nodes and self._leaves:
            self._drop_leaf(next(iter(self._leaves)))

    def _drop_leaf(self, leaf: Node) -> None:
        """Its parent, if that is a leaf now, was last used when it was: it goes next."""
        parent = leaf.parent
        self._unlink(leaf)
        if parent is not None and parent.child is None and not parent.pins:
            self._leaves[parent] = None
            self._leaves.move_to_end(parent, last=False)

    def _drop(self, node: Node) -> None:
        """A whole subtree, without recursion: conversations are longer than Python's stack."""
        top, parent = node, node.parent
        while True:
            while node.child is not None:
                node = node.child
            above = node.parent
            self._unlink(node)
            if node is top or above is None:
                break
            node = above
        if parent is not None and parent.child is None and not parent.pins:
            self._leaves[parent] = None
            self._leaves.move_to_end(parent, last=False)

    def _unlink(self, node: Node) -> None:
        self._asked = None
        if self._nodes.get(node.hash) is node:
            del self._nodes[node.hash]
            self.tokens -= node.held + node.tail
        self._leaves.pop(node, None)
        if node.before is not None:
            node.before.after = node.after
        elif node.parent is not None and node.parent.child is node:
            node.parent.child = node.after
        if node.after is not None:
            node.after.before = node.before


class Warmth:
    """The index of each replica. Replicas that left the table are forgotten."""

    def __init__(self, max_nodes: int, unknown_capacity_tokens: int) -> None:
        """`max_nodes` is for each replica; the second is taken where an engine does not say."""
        self._max_nodes = max_nodes
        self._unknown_capacity_tokens = unknown_capacity_tokens
        self._by_replica: dict[str, Holdings] = {}

    def __len__(self) -> int:
        """Boundaries known, all replicas together."""
        return sum(len(held) for held in self._by_replica.values())

    def at(self, replica: str, capacity_tokens: int = 0) -> Holdings:
        """This replica's index; begun empty."""
        held = self._by_replica.get(replica)
        if held is None:
            capacity = capacity_tokens or self._unknown_capacity_tokens
            held = self._by_replica[replica] = Holdings(
                capacity, self._max_nodes, guessed=not capacity_tokens
            )
        return held

    def keep_only(self, replicas: Collection[str]) -> None:
        for gone in [r for r in self._by_replica if r not in replicas]:
            del self._by_replica[gone]

    def cleared(self, replica: str) -> None:
        if held := self._by_replica.get(replica):
            held.clear()

    def exact(self, replica: str, boundary: bytes, tokens: int) -> bytes | None:
        """Of the prefix that ends at this boundary the engine holds so many tokens.

        Returns the boundary to ask for from now on: where they end, or the one after it; None when
        nothing is known here of that prefix.
        """
        held = self._by_replica.get(replica)
        node = held.get(boundary) if held else None
        if held is None or node is None:
            return None
        if node.warm > tokens:
            node = held.cut(node, tokens)
        elif node.tail > tokens - node.end:
            held.shorten(node, max(0, tokens - node.end))
        return node.hash

    def witnessed(self, replica: str, block_tokens: int) -> None:
        """From now on the engine itself says what it drops, in blocks of so many tokens; 0: no
        longer."""
        self.at(replica).block_tokens = block_tokens

    def learned(
        self,
        replica: str,
        hashes: Sequence[bytes],
        ends_tokens: Sequence[int],
        *,
        tail: int = 0,
        after: bytes = b"",
    ) -> bool:
        """This replica has computed this prefix, for another front door's turn perhaps.

        `tail` tokens were generated after it. `after` is the boundary that the first one follows;
        False where that is not known here.
        """
        held = self.at(replica)
        if after:
            above = held.get(after)
            if above is None:
                return False
            held.unpin(held.branch(above, hashes, ends_tokens, tail))
        else:
            held.unpin(held.extend(hashes, ends_tokens, tail))
        return True
