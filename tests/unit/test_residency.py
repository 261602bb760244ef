"""Turns matched to what engines say of their caches: which prefix is held, and how much of it."""

from __future__ import annotations

from router.kv.residency import Held, Residency
from router.kv.wire import AllBlocksCleared, BlockRemoved, BlockStored
from serving.config.router import KvEventsConfig
from serving.protocol import Usage


class Beliefs:
    """A `Known` that writes down what it is told."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, int] = {}
        self.said: list[str] = []

    def cleared(self, replica: str) -> None:
        self.said.append(f"cleared {replica}")

    def exact(self, replica: str, boundary: bytes, tokens: int) -> bytes | None:
        """Each boundary is as long as its name says; `b32` is 32 tokens long."""
        self.tokens[boundary] = tokens
        return boundary

    def witnessed(self, replica: str, block_tokens: int) -> None:
        self.said.append(f"{replica} {block_tokens}")


def listening(**knobs: int) -> tuple[Residency, Held, Beliefs]:
    beliefs = Beliefs()
    residency = Residency(KvEventsConfig(**knobs), beliefs)  # type: ignore[arg-type]
    return residency, residency.listen("r"), beliefs


def stored(blocks: list[int], parent: int | None, mark: str = "", size: int = 16) -> BlockStored:
    return BlockStored(list(blocks), parent, size, session_id=mark or None)


def removed(*blocks: int) -> BlockRemoved:
    return BlockRemoved(list(blocks))


def test_each_turn_has_a_mark_of_its_own_and_none_where_nobody_listens() -> None:
    residency, _, _ = listening()
    assert residency.sent("r", [b"a"]) != residency.sent("r", [b"a"])
    assert residency.sent("another", [b"a"]) == ""


def test_a_removed_block_tells_at_once_how_much_of_its_turns_prefix_is_left() -> None:
    residency, held, beliefs = listening()
    mark = residency.sent("r", [b"a", b"b"])
    held.heard([stored([1, 2], None, mark), stored([3], 2, mark)])
    assert beliefs.tokens == {}  # what is held is known from the turn itself
    held.heard([removed(3)])
    assert beliefs.tokens == {b"b": 32}
    held.heard([removed(2, 1)])
    assert beliefs.tokens == {b"b": 0}


def test_a_session_is_followed_to_the_end_of_its_newest_turn() -> None:
    residency, held, beliefs = listening()
    held.heard([stored([1], None, residency.sent("r", [b"a"]))])
    held.heard([stored([2], 1, residency.sent("r", [b"a", b"b"]))])
    held.heard([removed(2)])
    assert beliefs.tokens == {b"b": 16}


def test_sessions_that_share_a_head_lose_what_is_theirs() -> None:
    residency, held, beliefs = listening()
    held.heard([stored([1, 2], None, residency.sent("r", [b"head", b"a"]))])
    held.heard([stored([3], 1, residency.sent("r", [b"head", b"b"]))])
    held.heard([removed(3)])
    assert beliefs.tokens == {b"b": 16}
    held.heard([removed(2), removed(1)])
    assert beliefs.tokens == {b"a": 0, b"b": 0}


def test_where_the_beginning_was_missed_the_engines_count_says_how_deep_a_turn_lies() -> None:
    residency, held, beliefs = listening()
    mark = residency.sent("r", [b"a"])
    held.heard([stored([101, 102], 100, mark)])
    held.heard([stored([103], 102, mark)])
    held.heard([removed(103)])
    assert beliefs.tokens == {}
    residency.ended(mark, Usage(prompt_tokens=200, cached_tokens=160, output_tokens=9))
    held.heard([removed(102)])
    assert beliefs.tokens == {b"a": 160 + 16}


def test_a_turn_of_another_front_door_is_known_when_that_one_says_whose_it_was() -> None:
    residency, held, beliefs = listening()
    held.heard([stored([1, 2], None, "theirs-1")])
    residency.told("theirs-1", "r", [b"x"])
    held.heard([removed(2)])
    assert beliefs.tokens == {b"x": 16}
    residency.told("nobodys", "r", [b"y"])


def test_an_engine_that_was_cleared_holds_nothing() -> None:
    residency, held, beliefs = listening()
    held.heard([stored([1], None, residency.sent("r", [b"a"])), AllBlocksCleared()])
    assert beliefs.said == ["r 16", "cleared r"]
    held.heard([removed(1)])
    assert beliefs.tokens == {}


def test_after_a_loss_nothing_is_said_of_what_was_known_before() -> None:
    residency, held, beliefs = listening()
    held.heard([stored([1], None, residency.sent("r", [b"a"]))])
    held.lost()
    held.heard([removed(1)])
    assert beliefs.tokens == {}
    held.heard([stored([2], None, residency.sent("r", [b"b"])), removed(2)])
    assert beliefs.tokens == {b"b": 0}


def test_a_replica_with_more_blocks_than_may_be_remembered_is_only_estimated() -> None:
    residency, held, beliefs = listening(max_blocks=2)
    held.heard([stored([1, 2, 3], None, residency.sent("r", [b"a"]))])
    assert beliefs.said == ["r 16", "r 0"]
    held.heard([stored([4], None, residency.sent("r", [b"b"]))])
    assert residency.blocks == 0


def test_a_replica_that_left_is_forgotten() -> None:
    residency, held, beliefs = listening()
    held.heard([stored([1], None, "somebodys")])
    residency.keep_only(())
    assert residency.blocks == 0
    assert beliefs.said[-1] == "r 0"
    assert residency.sent("r", [b"a"]) == ""


def test_an_engine_that_does_not_say_whose_its_blocks_are_is_only_estimated() -> None:
    _, held, beliefs = listening()
    held.heard([stored([1, 2], None), removed(2), stored([3], 1)])
    assert beliefs.said == []
    assert beliefs.tokens == {}
