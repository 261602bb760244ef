"""What does an engine's cache hold? The tree of its blocks, as its KV events tell it.

    stored(hashes, parent)      blocks that follow `parent`, or begin a prompt
    removed(hashes)             dropped, the end of a prefix before its head
    cleared()

    run ── run ── anchor        blocks that follow each other are one run, until prefixes part; an
       └── run                  anchor is the place where somebody's prefix ends

Nobody here knows tokens: a place is a count of blocks from a prompt's first. `removed` says which
anchors lost something; they then stand where the rest of their prefix ends.

A block may be stored twice, by two requests that computed it side by side, and is here until it was
removed twice. Blocks whose parent is not known (their history was missed) begin a run that has no
known depth, until somebody says it (`found_depth`).

Runs, not blocks, because prompts have thousands of blocks: most of the work is then done by dict
and list themselves. Costs about 100 bytes a block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

BlockHash = int | bytes


class Run:
    """Blocks that follow each other."""

    __slots__ = ("anchors", "at", "children", "hashes", "parent", "root_depth")

    def __init__(self, parent: Run | None, at: int, root_depth: int | None) -> None:
        self.parent = parent
        self.at = at
        """How many of the parent's blocks come before this run."""
        self.root_depth = root_depth
        """Blocks before a run without parent; None: not known."""
        self.hashes: list[BlockHash] = []
        self.children: dict[Run, None] = {}
        self.anchors: dict[Anchor, None] = {}

    def depth(self) -> int | None:
        """Blocks before this run; None where the beginning of its prefix is not known."""
        blocks, run = 0, self
        while run.parent is not None:
            blocks += run.at
            run = run.parent
        return None if run.root_depth is None else blocks + run.root_depth


class Place:
    """So many blocks of a run, and all that comes before it."""

    __slots__ = ("count", "run")

    def __init__(self, run: Run, count: int) -> None:
        self.run = run
        self.count = count


class Anchor(Place):
    """Where the prefix called `name` ends, as far as it is held."""

    __slots__ = ("name",)

    def __init__(self, name: bytes, run: Run, count: int) -> None:
        super().__init__(run, count)
        self.name = name

    def blocks(self) -> int | None:
        """Blocks of the prefix that are held; None where that cannot be known."""
        before = self.run.depth()
        return None if before is None else before + self.count


class BlockTree:
    """The blocks of one engine. Holds at most `max_blocks` and `max_anchors`."""

    def __init__(self, max_blocks: int, max_anchors: int) -> None:
        self._max_blocks = max_blocks
        self._max_anchors = max_anchors
        self._runs: dict[BlockHash, Run] = {}
        self._twins: dict[BlockHash, int] = {}
        """Blocks stored more than once: how often beyond the first."""
        self._anchors: OrderedDict[bytes, Anchor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def full(self) -> bool:
        """More blocks than may be remembered: what is told from now on cannot be kept."""
        return len(self._runs) > self._max_blocks

    def stored(self, hashes: Sequence[BlockHash], parent: BlockHash | None) -> Place | None:
        """Where the last of these blocks is now; None when there are none."""
        runs = self._runs
        if not hashes:
            return None
        run, count = self._after(parent)
        first = 0
        if not runs.keys().isdisjoint(hashes):
            known: Run | None = None
            while first < len(hashes) and (found := runs.get(hashes[first])) is not None:
                self._twins[hashes[first]] = self._twins.get(hashes[first], 0) + 1
                known = found
                first += 1
            if known is not None:
                run, count = known, _position(known, hashes[first - 1]) + 1
        new = list(hashes[first:])
        if not runs.keys().isdisjoint(new):
            new = [h for h in new if h not in runs]
        if new:
            run = self._grown(run, count)
            run.hashes.extend(new)
            runs.update(dict.fromkeys(new, run))
            count = len(run.hashes)
        assert run is not None  # noqa: S101  either some are new or some are known
        return Place(run, count)

    def _after(self, parent: BlockHash | None) -> tuple[Run | None, int]:
        """The place after `parent`: None at a prompt's beginning."""
        if parent is None:
            return None, 0
        run = self._runs.get(parent)
        if run is None:
            return Run(None, 0, None), 0
        return run, _position(run, parent) + 1

    @staticmethod
    def _grown(run: Run | None, count: int) -> Run:
        """The run that goes on at this place: the same one at its end, else a branch."""
        if run is None:
            return Run(None, 0, 0)
        if count == len(run.hashes):
            return run
        branch = Run(run, count, None)
        run.children[branch] = None
        return branch

    def removed(self, hashes: Iterable[BlockHash]) -> list[Anchor]:
        """The anchors that lost something."""
        lost: dict[Anchor, None] = {}
        for block in hashes:
            if twins := self._twins.get(block):
                if twins > 1:
                    self._twins[block] = twins - 1
                else:
                    del self._twins[block]
                continue
            run = self._runs.get(block)
            if run is not None:
                self._cut(run, _position(run, block), lost)
        return list(lost)

    def _cut(self, run: Run, count: int, lost: dict[Anchor, None]) -> None:
        """Only `count` blocks of this run are left; what grew from the others is out of reach."""
        for block in run.hashes[count:]:
            self._runs.pop(block, None)
            self._twins.pop(block, None)
        del run.hashes[count:]
        for anchor in run.anchors:
            if anchor.count > count:
                anchor.count = count
                lost[anchor] = None
        if run.children:
            for child in [c for c in run.children if c.at > count]:
                del run.children[child]
                self._drop(child, run, count, lost)
        if not run.hashes and run.parent is not None:
            parent = run.parent
            parent.children.pop(run, None)
            for anchor in run.anchors:
                anchor.run, anchor.count = parent, run.at
                parent.anchors[anchor] = None
            run.anchors.clear()

    def _drop(self, top: Run, above: Run, count: int, lost: dict[Anchor, None]) -> None:
        """Forget a branch whose beginning is gone; its anchors stand at the end of what is left."""
        branches = [top]
        while branches:
            run = branches.pop()
            branches.extend(run.children)
            for block in run.hashes:
                self._runs.pop(block, None)
                self._twins.pop(block, None)
            run.hashes.clear()
            for anchor in run.anchors:
                anchor.run, anchor.count = above, count
                above.anchors[anchor] = None
                lost[anchor] = None
            run.anchors.clear()

    def clear(self) -> None:
        """Nothing is held, or nothing is known any more."""
        self._runs.clear()
        self._twins.clear()
        self._anchors.clear()

    def anchor(self, name: bytes, place: Place) -> Anchor:
        """From now on the prefix `name` ends at this place."""
        anchor = self._anchors.get(name)
        if anchor is None:
            anchor = self._anchors[name] = Anchor(name, place.run, place.count)
            while len(self._anchors) > self._max_anchors:
                _, oldest = self._anchors.popitem(last=False)
                oldest.run.anchors.pop(oldest, None)
        else:
            anchor.run.anchors.pop(anchor, None)
            anchor.run, anchor.count = place.run, place.count
            self._anchors.move_to_end(name)
        place.run.anchors[anchor] = None
        return anchor

    def anchored(self, name: bytes) -> Anchor | None:
        return self._anchors.get(name)

    def rename(self, anchor: Anchor, name: bytes) -> None:
        """What is left of this prefix is called `name`; watched already, once will do."""
        self.forget(anchor.name)
        if name not in self._anchors:
            self.anchor(name, anchor)

    def forget(self, name: bytes) -> None:
        """This prefix needs no watching: it has an heir that goes further, or is gone."""
        anchor = self._anchors.pop(name, None)
        if anchor is not None:
            anchor.run.anchors.pop(anchor, None)


def found_depth(place: Place, blocks: int) -> None:
    """So many blocks lie before this place: now the depth of all that hangs there is known."""
    before, run = place.count, place.run
    while run.parent is not None:
        before += run.at
        run = run.parent
    if run.root_depth is None and blocks >= before:
        run.root_depth = blocks - before


def _position(run: Run, block: BlockHash) -> int:
    """The end is looked at first: prefixes grow there, and shrink."""
    hashes = run.hashes
    return len(hashes) - 1 if hashes[-1] == block else hashes.index(block)
