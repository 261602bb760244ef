"""Which replica gets a turn."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from router.placing.placement import Choice, Need, Option, choose, weight
from serving.config.router import PlacementConfig
from tests.unit.fakes import engine

KNOBS = PlacementConfig()
ROOMY = 1 << 40


def key(n: int) -> bytes:
    return n.to_bytes(8, "big") * 2


def option(name: str, **changes: float) -> Option:
    base = Option(engine(name), wait_s=0.0, rate=1000.0, warm_tokens=0, room_tokens=ROOMY)
    return replace(base, **changes)  # type: ignore[arg-type]


FLEET = [option(f"r{i}") for i in range(4)]


def need(session: int = 1, tokens: int = 20_000, home: str = "") -> Need:
    return Need(key(session), tokens, 200, home)


def place(turn: Need, *options: Option) -> Choice:
    choice = choose(turn, options or FLEET, KNOBS)
    assert choice is not None
    return choice


def test_a_session_goes_home_where_its_prefix_is() -> None:
    fleet = [option("r0"), option("r1", warm_tokens=19_000), option("r2")]
    choice = place(need(home="r1"), *fleet)
    assert (choice.engine.replica, choice.reason) == ("r1", "home")
    assert choice.first_token_s == 1.0


def test_a_new_session_is_placed_by_its_key_the_same_everywhere() -> None:
    for session in range(100):
        assert place(need(session)).engine == place(need(session), *FLEET[::-1]).engine
    assert place(need()).reason == "hash"


def test_new_sessions_spread_evenly() -> None:
    share = Counter(place(need(session)).engine.replica for session in range(4000))
    assert len(share) == 4
    assert max(share.values()) <= 1.15 * 1000


def test_a_replica_that_has_had_more_than_its_share_of_new_sessions_gets_no_more() -> None:
    hashed = place(need()).engine.replica
    fleet = [replace(o, placed=9.0 if o.engine.replica == hashed else 1.0) for o in FLEET]
    assert place(need(), *fleet).engine.replica != hashed


def test_a_replica_that_leaves_moves_only_its_own_sessions() -> None:
    for session in range(500):
        before = place(need(session)).engine.replica
        after = place(need(session), *FLEET[:3]).engine.replica
        assert before in (after, "r3")


def test_a_session_whose_home_is_gone_is_placed_anew() -> None:
    choice = place(need(home="gone"))
    assert choice.engine == place(need()).engine
    assert choice.reason == "rehome:gone"


def test_home_is_left_when_waiting_there_costs_more_than_computing_the_prefix_again() -> None:
    def at(wait_s: float) -> Choice:
        home = option("r0", warm_tokens=19_000, wait_s=wait_s)
        return place(need(home="r0"), home, option("r1"))

    # 19 s of prefill again, and what that costs others.
    again_s = 19.0 * (1 + KNOBS.leave_price) + KNOBS.leave_s
    assert at(again_s - 1.0).reason == "home"
    choice = at(again_s + 1.0)
    assert (choice.engine.replica, choice.reason) == ("r1", "spill:load")


def test_a_slow_replica_is_left_sooner_and_gets_fewer_new_sessions() -> None:
    slow = option("slow", rate=100.0)
    assert {place(need(s), slow, *FLEET).engine.replica for s in range(50)} <= {
        o.engine.replica for o in FLEET
    }


def test_a_new_session_goes_where_what_it_shares_with_others_is_warm() -> None:
    fleet = [replace(o, warm_tokens=15_000 if o.engine.replica == "r2" else 0) for o in FLEET]
    assert {place(need(s), *fleet).engine.replica for s in range(20)} == {"r2"}


def test_a_head_that_all_share_does_not_pile_new_sessions_on_the_replica_that_has_it() -> None:
    placed: Counter[str] = Counter()
    for session in range(200):
        fleet = [
            replace(
                o,
                warm_tokens=2000 if o.engine.replica == "r2" else 0,
                placed=float(placed[o.engine.replica]),
            )
            for o in FLEET
        ]
        placed[place(need(session), *fleet).engine.replica] += 1
    assert max(placed.values()) <= 1.1 * 50


def test_one_that_would_drive_out_others_everywhere_had_better_wait() -> None:
    full = [replace(o, room_tokens=5000) for o in FLEET]
    assert choose(need(), full, KNOBS) is None
    assert choose(need(tokens=3000), full, KNOBS) is not None


def test_one_that_has_its_prefix_there_need_not_wait_for_room() -> None:
    full = [option("r0", warm_tokens=15_000, room_tokens=0), option("r1", room_tokens=0)]
    assert place(need(home="r0"), *full).engine.replica == "r0"


def test_where_another_front_door_has_taken_it_further_it_goes_on() -> None:
    fleet = [option("r0", warm_tokens=10_000), option("r1", warm_tokens=19_000)]
    choice = place(need(home="r0"), *fleet)
    assert (choice.engine.replica, choice.reason) == ("r1", "warm")


def test_room_decides_before_home_does() -> None:
    fleet = [option("r0", room_tokens=100), option("r1")]
    choice = place(need(home="r0"), *fleet)
    assert (choice.engine.replica, choice.reason) == ("r1", "rehome:room")


def test_weights_depend_on_key_and_replica() -> None:
    assert len({weight(key(k), f"r{r}") for k in range(50) for r in range(50)}) == 2500
