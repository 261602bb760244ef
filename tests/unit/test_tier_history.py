"""What is remembered of turns, for how long, and how much of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from router.tiers.history import History, Kind, Tally
from serving.config.router import TiersConfig

KIND = Kind("agent:desk", "", "tool-call")


def history(**knobs: Any) -> History:
    return History(TiersConfig(**knobs))


def test_without_outcomes_a_side_turn_suits_both_tiers_and_others_the_frontier() -> None:
    empty = history()
    side, main = empty.standing(KIND._replace(turn_type="classify")), empty.standing(KIND)
    assert side.small.mean == side.frontier.mean
    assert main.small.mean < 0.8 * main.frontier.mean


def test_outcomes_move_the_belief_towards_their_rate_and_make_it_surer() -> None:
    known = history()
    before = known.standing(KIND).small
    for i in range(400):
        known.learn(KIND, "small", good=i % 4 > 0)
    after = known.standing(KIND).small
    assert after.mean == pytest.approx(0.75, abs=0.03)
    assert after.variance < before.variance / 5


def test_a_kind_that_never_came_is_believed_to_be_as_what_it_is_a_kind_of() -> None:
    known = history()
    for task in range(10):
        for _ in range(50):
            known.learn(Kind("tenant:a", f"task-{task}", "unknown"), "small", good=True)
    new = known.standing(Kind("tenant:a", "new", "unknown")).small
    stranger = known.standing(Kind("tenant:b", "new", "unknown")).small
    other_type = known.standing(Kind("tenant:a", "new", "plan")).small
    assert new.mean > stranger.mean > other_type.mean
    assert new.outcomes == 0


def test_older_outcomes_count_less_and_counts_stay_bounded() -> None:
    known = history(half_life_turns=50)
    for _ in range(10_000):
        known.learn(KIND, "small", good=True)
    for _ in range(200):
        known.learn(KIND, "small", good=False)
    assert known.standing(KIND).small.mean < 0.25
    [tally] = [tally for kind, tally in known.rows() if kind == KIND]
    assert tally.small_good + tally.small_bad < 50 / 0.69 + 1


def test_an_outcome_that_was_only_concluded_gives_way_to_the_true_one() -> None:
    known, told = history(), history()
    for _ in range(40):
        known.learn(KIND, "small", good=True, weight=0.25)
        known.retract(KIND, "small", good=True, weight=0.25)
        known.learn(KIND, "small", good=False)
        told.learn(KIND, "small", good=False)
    assert known.standing(KIND).small.mean == pytest.approx(
        told.standing(KIND).small.mean, abs=1e-3
    )


def test_the_least_recently_used_kinds_go_when_there_are_too_many() -> None:
    known = history(max_kinds=16)
    for i in range(200):
        known.learn(Kind(f"tenant:{i}", "", "unknown"), "small", good=True)
        assert len(known) <= 16
    assert known.standing(Kind("tenant:199", "", "unknown")).small.outcomes == 1
    assert known.standing(Kind("tenant:0", "", "unknown")).small.outcomes == 0


def test_a_kind_weighs_as_often_as_it_comes() -> None:
    known = history()
    often, seldom = Kind("a", "often", "plan"), Kind("a", "seldom", "plan")
    for _ in range(9):
        known.came(often)
    known.came(seldom)
    weights = {each.kind: each.turns for each in known.standings("a")}
    assert weights[often] / weights[seldom] == pytest.approx(9, rel=0.01)


def test_what_is_stored_comes_back_as_it_was() -> None:
    known, again = history(), history()
    for i in range(30):
        known.came(KIND)
        known.learn(KIND, "small", good=i % 3 > 0)
        known.tried(KIND, escalated=i % 5 == 0)
        known.measured(KIND, 1000, 800, 50)
    stored = msgspec.json.encode(known.rows())
    again.restore(msgspec.json.decode(stored, type=list[tuple[Kind, Tally]]))
    assert again.standing(KIND) == known.standing(KIND)
    assert [*again.standings(KIND.scope)] == [*known.standings(KIND.scope)]
