"""The end of a replica that serves, in a time that only a test moves."""

from __future__ import annotations

import math
from collections.abc import Callable

from serving.cluster import drain
from tests.unit.fakes import FakeClock


class Line:
    """An engine and front doors as functions of the seconds since the drain began."""

    def __init__(
        self,
        busy: Callable[[float], bool] = lambda _: False,
        heard: Callable[[float], bool] = lambda _: True,
        left: Callable[[float], float] = lambda _: math.inf,
    ) -> None:
        self._of = (busy, heard, left)
        self._clock = FakeClock()
        self._began = self._clock()

    @property
    def now(self) -> float:
        return self._clock() - self._began

    async def busy(self) -> bool:
        return self._of[0](self.now)

    async def heard(self) -> bool:
        return self._of[1](self.now)

    async def left_s(self) -> float:
        return self._of[2](self.now)

    async def over(self, limit_s: float = 300) -> tuple[bool, float]:
        """Whether it ended well, and when."""

        async def sleep(seconds: float) -> None:
            self._clock.advance(seconds)

        well = await drain.until_quiet(self, limit_s, clock=self._clock, sleep=sleep)
        return well, self.now


async def test_an_idle_engine_still_lives_for_a_moment() -> None:
    well, took_s = await Line().over()
    assert well
    assert drain.QUIET_S <= took_s < drain.QUIET_S + 1


async def test_a_turn_that_comes_late_is_served_and_the_quiet_begins_anew() -> None:
    well, took_s = await Line(busy=lambda s: 0.7 < s < 40).over()
    assert well
    assert 40 + drain.QUIET_S - drain.POLL_S <= took_s < 42


async def test_it_waits_for_the_last_front_door_to_hear() -> None:
    well, took_s = await Line(heard=lambda s: s > 6).over()
    assert well
    assert 6 < took_s < 7


async def test_a_front_door_that_never_hears_does_not_hold_it_for_ever() -> None:
    well, took_s = await Line(heard=lambda _: False).over()
    assert well
    assert drain.HEARD_S <= took_s < drain.HEARD_S + 1


async def test_what_runs_longer_than_the_limit_is_cut() -> None:
    well, took_s = await Line(busy=lambda _: True).over(limit_s=20)
    assert not well
    assert 20 <= took_s < 21


async def test_the_end_of_the_whole_stack_shortens_a_drain_that_is_under_way() -> None:
    line = Line(busy=lambda _: True, left=lambda s: math.inf if s < 10 else 15 - s)
    well, took_s = await line.over()
    assert not well
    assert 15 <= took_s < 16
