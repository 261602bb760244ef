"""Which replica gets a turn."""

from __future__ import annotations

from collections import Counter

from router.placement import Choice, choose, weight
from serving.config import RouterConfig
from serving.table import Engine
from tests.unit.fakes import engine

KNOBS = RouterConfig(spill_factor=2.0, spill_min=4)
FLEET = [engine(f"r{i}") for i in range(4)]


def key(n: int) -> bytes:
    return n.to_bytes(8, "big") * 2


def place(
    session: int,
    home: str | None = None,
    fleet: list[Engine] = FLEET,
    **inflight: int,
) -> Choice:
    choice = choose(fleet, inflight, home, key(session), KNOBS)
    assert choice is not None
    return choice


def test_no_candidates_no_choice() -> None:
    assert choose([], {}, "r0", key(1), KNOBS) is None


def test_a_session_goes_home() -> None:
    for name in ("r0", "r3"):
        choice = place(1, home=name)
        assert (choice.engine.replica, choice.reason) == (name, "home")


def test_a_new_session_is_placed_by_its_key_the_same_everywhere() -> None:
    reversed_fleet = FLEET[::-1]
    for session in range(100):
        assert place(session).engine == place(session, fleet=reversed_fleet).engine
    assert place(1).reason == "hash"


def test_new_sessions_spread_evenly() -> None:
    share = Counter(place(session).engine.replica for session in range(4000))
    assert len(share) == 4
    assert max(share.values()) <= 1.15 * 1000


def test_a_replica_that_leaves_moves_only_its_own_sessions() -> None:
    fewer = FLEET[:3]
    for session in range(500):
        before = place(session).engine.replica
        after = place(session, fleet=fewer).engine.replica
        assert before in (after, "r3")


def test_a_session_whose_home_is_gone_is_placed_anew() -> None:
    choice = place(1, home="gone")
    assert choice.engine == place(1).engine
    assert choice.reason == "rehome:gone"


def test_an_overloaded_home_spills_to_the_least_loaded() -> None:
    choice = place(1, home="r0", r0=9, r1=3, r2=1, r3=2)
    assert (choice.engine.replica, choice.reason) == ("r2", "spill:load")


def test_a_busy_home_is_not_left_while_all_are_busy_or_it_has_few_requests() -> None:
    assert place(1, home="r0", r0=9, r1=8, r2=8, r3=8).reason == "home"
    assert place(1, home="r0", r0=3).reason == "home"


def test_two_replicas_can_spill_as_well() -> None:
    choice = place(1, home="r0", fleet=FLEET[:2], r0=4)
    assert choice.engine.replica == "r1"


def test_one_replica_has_nowhere_to_spill() -> None:
    assert place(1, home="r0", fleet=FLEET[:1], r0=500).reason == "home"


def test_a_new_session_spills_too() -> None:
    first = place(1).engine.replica
    choice = place(1, **{first: 10})
    assert choice.engine.replica != first
    assert choice.reason == "spill:load"


def test_what_waits_in_the_engine_counts_as_load() -> None:
    fleet = [engine("r0", waiting=10), engine("r1")]
    assert place(1, home="r0", fleet=fleet).engine.replica == "r1"


def test_weights_depend_on_key_and_replica() -> None:
    assert len({weight(key(k), f"r{r}") for k in range(50) for r in range(50)}) == 2500
