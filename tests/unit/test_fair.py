"""Shares of tenants: in tokens, by weight, and who goes before whom."""

from __future__ import annotations

from router.placing.waiting import Fair, Line, Waiting


def served(fair: Fair, wants: dict[str, float], turns: int) -> dict[str, int]:
    """How often each is served when all always want more; each turn costs what is said."""
    count = dict.fromkeys(wants, 0)
    for _ in range(turns):
        name = min(wants, key=fair.next_start)
        fair.serve(name, wants[name])
        count[name] += 1
    return count


def test_those_who_always_want_more_get_shares_by_weight() -> None:
    count = served(Fair(credit=500.0), {"two": 50.0, "one": 100.0}, 3000)
    assert abs(count["two"] - 2000) < 20


def test_who_asked_for_little_goes_first_even_twice_in_a_row() -> None:
    fair = Fair(credit=1000.0)
    served(fair, {"flooder": 100.0}, 50)
    for _ in range(2):
        assert fair.next_start("quiet") < fair.next_start("flooder")
        fair.serve("quiet", 100.0)


def test_the_reserve_is_bounded() -> None:
    fair = Fair(credit=1000.0)
    served(fair, {"flooder": 100.0}, 5000)
    for _ in range(11):
        fair.serve("sleeper", 100.0)
    assert fair.next_start("sleeper") >= fair.next_start("flooder") - 200


def test_output_is_paid_for_as_well() -> None:
    fair = Fair()
    fair.serve("talker", 10.0)
    fair.serve("reader", 10.0)
    fair.owe("talker", 500.0)
    assert fair.next_start("reader") < fair.next_start("talker")


def test_a_turn_waits_for_its_own_and_for_those_who_had_less() -> None:
    fair = Fair(credit=1000.0)
    line: Line[Waiting] = Line(fair)
    served(fair, {"flooder": 100.0}, 50)
    for i in range(10):
        line.add(Waiting(float(i), "flooder", 100))
    assert line.before("flooder") == 1000
    assert line.before("quiet") == 0
    line.add(Waiting(0.0, "quiet", 30))
    line.add(Waiting(99.0, "quiet", 70))
    assert line.before("quiet") == 100
    assert line.before("quiet", order_s=50.0) == 30
    assert line.before("flooder") == 1100
