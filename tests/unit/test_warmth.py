"""What a replica holds, as far as the router knows."""

from __future__ import annotations

import random

from router.placing.warmth import Holdings, Warmth


def chain(*names: str) -> list[bytes]:
    """Boundaries of a conversation; each stands for all before it."""
    return ["/".join(names[: i + 1]).encode() for i in range(len(names))]


def ends(count: int, each: int = 100) -> list[int]:
    return [each * (i + 1) for i in range(count)]


def run(held: Holdings, *names: str, tail: int = 0) -> None:
    """A turn that ran and ended."""
    held.unpin(held.extend(chain(*names), ends(len(names)), tail))


def warm(held: Holdings, *names: str) -> int:
    _, node = held.find(chain(*names))
    return node.warm if node else 0


def test_a_longer_prompt_finds_all_that_a_shorter_one_left() -> None:
    held = Holdings(10_000, 100)
    run(held, "system", "a", "b")
    assert warm(held, "system", "a", "b", "c", "d") == 300
    assert warm(held, "system", "x") == 100
    assert warm(held, "other") == 0


def test_what_is_shared_is_held_once() -> None:
    held = Holdings(10_000, 100)
    run(held, "system", "a")
    run(held, "system", "b")
    assert held.tokens == 300


def test_the_least_recently_used_goes_first_and_its_end_before_its_head() -> None:
    held = Holdings(450, 100)
    run(held, "system", "a", "b")
    run(held, "system", "x", "y")
    assert warm(held, "system", "a", "b") == 250
    assert warm(held, "system", "x", "y") == 300
    run(held, "system", "p", "q")
    assert warm(held, "system", "a", "b") == 100
    assert warm(held, "system", "x", "y") == 250
    assert held.tokens == 450


def test_use_makes_young_again() -> None:
    held = Holdings(500, 100)
    run(held, "a", "b")
    run(held, "x", "y")
    run(held, "a", "b")
    run(held, "p", "q")
    assert (warm(held, "a", "b"), warm(held, "x", "y"), warm(held, "p", "q")) == (200, 100, 200)


def test_what_a_running_turn_uses_stays() -> None:
    held = Holdings(400, 100)
    node = held.extend(chain("a", "b"), ends(2))
    run(held, "x", "y")
    run(held, "p", "q")
    assert warm(held, "a", "b") == 200
    held.unpin(node)
    run(held, "s", "t")
    run(held, "u", "v")
    assert warm(held, "a", "b") == 0


def test_an_answer_nobody_has_sent_back_yet_counts_and_is_replaced_by_its_message() -> None:
    held = Holdings(10_000, 100)
    run(held, "a", tail=40)
    assert held.tokens == 140
    run(held, "a", "answer")
    assert held.tokens == 200


def test_boundaries_are_bounded_too() -> None:
    held = Holdings(10**9, 64)
    for i in range(1000):
        run(held, f"s{i}", "a", "b")
    assert len(held) <= 64
    assert warm(held, "s999", "a", "b") == 300


def test_an_engine_that_lost_more_than_was_thought_is_taken_for_smaller_for_a_while() -> None:
    held = Holdings(12_800, 1000)
    for i in range(40):
        run(held, f"s{i}", "a", "b")
    before = held.tokens
    held.shrink(8000)
    assert held.tokens < before
    shrunk = held.capacity_tokens
    for _ in range(1000):
        held.confirm(0)
    assert shrunk < held.capacity_tokens == 12_800


def test_a_guessed_capacity_grows_when_the_engine_still_has_what_was_dropped() -> None:
    held = Warmth(1000, 1000).at("r1")
    told = Warmth(1000, 1000).at("r2", 1000)
    for each in (held, told):
        for i in range(10):
            run(each, f"s{i}", "a")
        assert warm(each, "s0", "a") == 0
        each.missed(100)
    assert held.capacity_tokens == 1100
    assert told.capacity_tokens == 1000
    empty = Warmth(1000, 1000).at("r3")
    empty.missed(100)  # somebody else's prompt, perhaps: nothing was dropped here
    assert empty.capacity_tokens == 1000


def test_sources_that_know_better_overrule_the_model() -> None:
    warmth = Warmth(1000, 10_000)
    warmth.learned("r1", chain("a", "b", "c"), ends(3))
    run(warmth.at("r1"), "a", "b", "x", "y")
    warmth.exact("r1", chain("a", "b")[-1], 150)
    assert warm(warmth.at("r1"), "a", "b", "c") == 150
    assert warmth.at("r1").tokens == 150
    warmth.cleared("r1")
    assert warm(warmth.at("r1"), "a", "b", "c") == 0
    assert len(warmth) == 0


def test_replicas_that_left_are_forgotten() -> None:
    warmth = Warmth(1000, 10_000)
    warmth.learned("r1", chain("a"), ends(1))
    warmth.learned("r2", chain("a"), ends(1))
    warmth.keep_only({"r2"})
    assert len(warmth) == 1


def test_whatever_happens_its_own_sums_are_right() -> None:
    """Against the plain truth: a prefix is held whole, and the total is the sum of its parts."""
    dice = random.Random(7)
    held = Holdings(3000, 40)
    pinned = []
    for _ in range(5000):
        names = [f"{dice.randrange(3)}" for _ in range(dice.randrange(1, 8))]
        act = dice.random()
        if act < 0.6:
            pinned.append(held.extend(chain(*names), ends(len(names)), dice.randrange(50)))
        elif act < 0.7:
            at, node = held.find(chain(*names))
            if node is not None:
                held.cut(node, dice.randrange(100 * (at + 1) + 1))
        elif act < 0.71:
            held.clear()
        elif act < 0.72:
            held.resize(dice.randrange(500, 4000))
        while pinned and (len(pinned) > 3 or dice.random() < 0.5):
            held.unpin(pinned.pop(dice.randrange(len(pinned))))
        nodes = held._nodes
        assert held.tokens == sum(n.held + n.tail for n in nodes.values())
        for node in nodes.values():
            assert 0 <= node.held <= node.end - node.start
            if node.parent is not None:
                assert nodes[node.parent.hash] is node.parent
                assert node.parent.held == node.parent.end - node.parent.start
                assert not node.parent.tail
        if not pinned:
            assert held.tokens <= held.capacity_tokens
            assert len(held) <= 40
