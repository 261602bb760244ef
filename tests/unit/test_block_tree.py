"""The tree of an engine's blocks: what is stored, what is lost, and where prefixes end."""

from __future__ import annotations

import random
from collections.abc import Sequence

from router.kv.block_tree import BlockTree, Place, found_depth


def tree(max_blocks: int = 1000, max_anchors: int = 1000) -> BlockTree:
    return BlockTree(max_blocks, max_anchors)


def stored(held: BlockTree, hashes: Sequence[int], parent: int | None = None) -> Place:
    place = held.stored(hashes, parent)
    assert place is not None
    return place


def test_a_prefix_that_grows_is_one_place_further_on() -> None:
    held = tree()
    stored(held, [1, 2])
    anchor = held.anchor(b"a", stored(held, [3], 2))
    assert anchor.blocks() == 3
    assert len(held) == 3


def test_the_tail_goes_before_the_head_and_the_anchor_says_what_is_left() -> None:
    held = tree()
    anchor = held.anchor(b"a", stored(held, [1, 2, 3]))
    assert held.removed([3]) == [anchor]
    assert anchor.blocks() == 2
    assert held.removed([2, 1]) == [anchor]
    assert anchor.blocks() == 0
    assert len(held) == 0


def test_branches_share_what_they_share() -> None:
    held = tree()
    stored(held, [1, 2])
    left = held.anchor(b"left", stored(held, [3, 4], 2))
    right = held.anchor(b"right", stored(held, [5], 2))
    assert held.removed([4]) == [left]
    assert (left.blocks(), right.blocks()) == (3, 3)
    assert held.removed([3, 5]) == [left, right]
    assert (left.blocks(), right.blocks()) == (2, 2)
    assert set(held.removed([2])) == {left, right}
    assert (left.blocks(), right.blocks()) == (1, 1)


def test_what_grew_from_a_lost_block_is_out_of_reach() -> None:
    held = tree()
    stored(held, [1, 2, 3])
    anchor = held.anchor(b"a", stored(held, [7, 8], 2))
    assert held.removed([2]) == [anchor]
    assert anchor.blocks() == 1
    assert held.removed([7, 8, 3]) == []
    assert stored(held, [2, 7], 1).count


def test_a_block_that_two_requests_computed_is_there_until_both_are_gone() -> None:
    held = tree()
    first = held.anchor(b"first", stored(held, [1, 2]))
    second = held.anchor(b"second", stored(held, [1, 2]))
    assert (first.blocks(), second.blocks()) == (2, 2)
    assert held.removed([2, 1]) == []
    assert first.blocks() == 2
    assert set(held.removed([2])) == {first, second}


def test_of_a_prefix_whose_beginning_was_missed_only_what_is_said_is_known() -> None:
    held = tree()
    anchor = held.anchor(b"a", stored(held, [11, 12], 10))
    assert anchor.blocks() is None
    found_depth(Place(anchor.run, 2), 12)
    assert anchor.blocks() == 12
    assert held.removed([12]) == [anchor]
    assert anchor.blocks() == 11


def test_a_prefix_is_followed_to_its_newest_end_and_no_longer_where_it_was() -> None:
    held = tree()
    held.anchor(b"a", stored(held, [1]))
    anchor = held.anchor(b"a", stored(held, [2], 1))
    assert anchor.blocks() == 2
    held.forget(b"a")
    assert held.removed([2]) == []


def test_the_anchors_that_were_not_used_for_longest_go_first() -> None:
    held = tree(max_anchors=2)
    for number in range(3):
        held.anchor(b"%d" % number, stored(held, [number]))
    assert held.anchored(b"0") is None
    assert held.anchored(b"2") is not None
    assert held.removed([0]) == []


def test_it_says_when_it_holds_more_than_it_may() -> None:
    held = tree(max_blocks=2)
    stored(held, [1, 2])
    assert not held.full
    stored(held, [3], 2)
    assert held.full


def test_after_any_history_an_anchor_has_what_a_walk_over_the_blocks_would_find() -> None:
    for seed in range(30):
        dice = random.Random(seed)
        held, counts, parents = tree(), dict[int, int](), dict[int, int | None]()
        paths: dict[bytes, list[int]] = {}
        for step in range(400):
            grows = dice.random() < 0.5 or not counts
            if grows:
                # A prompt: some of a known path, then blocks of its own.
                base = dice.choice([[], *paths.values()])
                path = list(base[: dice.randint(0, len(base))])
                hit = 0
                while hit < len(path) and path[hit] in counts:
                    hit += 1
                path += [1000 * step + i for i in range(dice.randint(0, 4))]
                new = path[hit:]
                for block, parent in zip(new, [path[hit - 1] if hit else None, *new], strict=False):
                    counts[block] = counts.get(block, 0) + 1
                    parents[block] = parent
                if new:
                    name = b"%d" % step
                    place = stored(held, new, path[hit - 1] if hit else None)
                    held.anchor(name, place)
                    paths[name] = path
            else:
                # As engines do: a block that others follow stays until they are gone.
                followed = {parents[b] for b in counts}
                block = dice.choice([b for b in counts if b not in followed])
                counts[block] -= 1
                if not counts[block]:
                    del counts[block]
                held.removed([block])
            for name, path in paths.items():
                left = 0
                while left < len(path) and path[left] in counts:
                    left += 1
                anchor = held.anchored(name)
                assert anchor is not None
                known = anchor.blocks()
                assert known is not None
                # What came back after it was lost is found by the turn that brought it back only.
                assert known <= left if grows else known == left
                paths[name] = path[:known]


def test_whatever_an_engine_says_the_tree_stays_whole() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        held = tree(max_anchors=5)
        for _ in range(60):
            blocks = [dice.randint(0, 12) for _ in range(dice.randint(0, 5))]
            if dice.random() < 0.6:
                place = held.stored(blocks, dice.choice([None, dice.randint(0, 12)]))
                if place is not None:
                    held.anchor(b"%d" % dice.randint(0, 8), place)
                    found_depth(place, dice.randint(0, 9))
            else:
                for anchor in held.removed(blocks):
                    left = anchor.blocks()
                    assert left is None or left >= 0
            assert len(held) <= 13
