"""When turns go, and where: the scheduler over engines that a test plays."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from router.identity import Identity
from router.placing.claim import Claim, Placed
from router.placing.health import Health
from router.placing.scheduler import Scheduler
from router.placing.slot import Slot
from router.tenancy.tenants import Tenant
from router.turn import NO_TIME
from serving.config.router import RouterConfig
from serving.errors import RateLimited, Unavailable
from serving.protocol import Usage
from serving.tables.base import Engine, EngineLoad
from tests.unit.fakes import FakeClock, engine

BYTES = 4
"""A token."""


class Floor:
    """A scheduler, and turns that go through it by hand."""

    def __init__(
        self,
        *replicas: str,
        capacity: int = 0,
        limit: int = 100,
        slots: int = 256,
        **queue: Any,
    ) -> None:
        self.clock = FakeClock()
        self.engines: Sequence[Engine] = [
            engine(name, capacity_tokens=capacity) for name in replicas
        ]
        knobs = RouterConfig.model_validate({"queue": queue})
        self.health = Health(knobs.eject_s, self.clock)
        self.scheduler = Scheduler(
            knobs, limit, lambda _: self.engines, self.health, self.clock, slots=lambda _: slots
        )

    def claim(self, session: str, *tokens: int, **fields: Any) -> Claim:
        """A prompt of so many messages, each of so many tokens."""
        hashes, ends = [b"root"], [0]
        for i, count in enumerate(tokens):
            hashes.append(hashlib.sha1(f"{session}/{i}".encode()).digest())  # noqa: S324
            ends.append(ends[-1] + count * BYTES)
        key = hashlib.sha1(session.encode()).digest()  # noqa: S324
        identity = Identity(key, "caller", None, None, hashes, ends, ends[-1])
        return Claim("big", identity, ends[-1], **fields)

    def turn(self, session: str, *tokens: int, **fields: Any) -> Turn:
        return Turn(self, self.claim(session, *tokens, **fields))

    async def run(self, session: str, *tokens: int) -> Placed:
        """A turn from its beginning to its end, with nobody beside it."""
        turn = self.turn(session, *tokens)
        await settle()
        placed = turn.placed
        turn.begins()
        turn.ends(sum(tokens))
        return placed


class Turn:
    """One turn: it asks for a place in a task of its own, as a request does."""

    def __init__(self, floor: Floor, claim: Claim) -> None:
        self.floor = floor
        self.slot: Slot = floor.scheduler.enter(claim)
        self.slot.__enter__()
        self.task = asyncio.ensure_future(self.slot.place())

    @property
    def goes(self) -> bool:
        return self.task.done()

    @property
    def placed(self) -> Placed:
        placed = self.task.result()
        assert placed is not None
        return placed

    def begins(self) -> None:
        """Its prompt is computed, at the rate that is guessed where nothing was measured."""
        booking = self.slot._booking
        assert booking is not None
        self.floor.clock.advance(max(1, booking.backlog) / 8000)
        self.slot.began()

    def ends(self, prompt: int | None = None, cached: int = 0, output: int = 10) -> None:
        if prompt is not None:
            self.slot.ended(Usage(prompt, cached, output))
        self.slot.__exit__(None, None, None)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_turn_that_finds_room_goes_without_waiting_for_anything() -> None:
    floor = Floor("r0", "r1")
    with floor.scheduler.enter(floor.claim("s", 100)) as slot:
        going = slot.place()
        with pytest.raises(StopIteration) as result:
            going.send(None)
        assert result.value.value.reason == "hash"
        assert floor.scheduler.admission.total == 1
    assert floor.scheduler.admission.total == 0


async def test_a_session_stays_and_is_told_what_of_it_is_warm() -> None:
    floor = Floor(*(f"r{i}" for i in range(8)))
    first = await floor.run("s", 1000, 500)
    again = await floor.run("s", 1000, 500, 10, 200)
    assert again.engine is first.engine
    assert (first.reason, again.reason) == ("hash", "home")
    assert first.predicted_cached_tokens == 0
    assert again.predicted_cached_tokens == pytest.approx(1510, abs=5)


async def test_an_engine_gets_only_so_much_to_compute_and_the_rest_waits_here() -> None:
    floor = Floor("r0", backlog_s=0.5)
    long = floor.turn("long", 20_000)
    others = [floor.turn(f"s{i}", 1000) for i in range(3)]
    await settle()
    assert long.goes
    assert not any(turn.goes for turn in others)
    assert floor.scheduler.queued == 3
    queue = floor.scheduler.queues()["big"]
    assert queue.turns == 3
    assert queue.tokens == pytest.approx(3000, abs=15)
    assert queue.prefill_s == pytest.approx(
        queue.tokens / floor.scheduler.rates.prefill("r0", "big")
    )
    long.begins()
    await settle()
    assert [turn.goes for turn in others] == [True, True, True]
    assert floor.scheduler.queued == 0
    assert floor.scheduler.queues() == {}


async def test_those_that_wait_go_shortest_first_but_nothing_is_overtaken_for_ever() -> None:
    floor = Floor("r0", overtake=1.0, backlog_s=0.01)
    busy = floor.turn("busy", 20_000)
    long = floor.turn("long", 40_000)
    floor.clock.advance(1.0)
    early = floor.turn("early", 500)
    floor.clock.advance(30.0)
    late = floor.turn("late", 500)
    order = []
    running = busy
    for _ in range(3):
        await settle()
        running.begins()
        await settle()
        [running] = [t for t in (long, early, late) if t.goes and t not in order]
        order.append(running)
    # The long one is 5 s of prefill: what came 1 s later goes before it, what came 31 s later not.
    assert order == [early, long, late]


async def test_interactive_turns_go_before_batch_turns() -> None:
    floor = Floor("r0", backlog_s=0.01)
    busy = floor.turn("busy", 20_000)
    batch = floor.turn("batch", 500, urgency="batch")
    floor.clock.advance(10)
    interactive = floor.turn("interactive", 500)
    await settle()
    busy.begins()
    await settle()
    assert (interactive.goes, batch.goes) == (True, False)


async def test_a_tenant_that_floods_does_not_keep_another_waiting() -> None:
    floor = Floor("r0", backlog_s=0.01, limit=1000)
    flood = Tenant("flood")
    busy = floor.turn("busy", 20_000, tenant=flood)
    many = [floor.turn(f"f{i}", 1000, tenant=flood) for i in range(50)]
    one = floor.turn("one", 1000, tenant=Tenant("quiet"))
    await settle()
    busy.begins()
    await settle()
    assert one.goes
    assert not any(turn.goes for turn in many)


async def test_weights_share_a_busy_replica() -> None:
    floor = Floor("r0", backlog_s=0.01, limit=1000)
    heavy, light = Tenant("heavy", weight=3.0), Tenant("light")
    running = floor.turn("busy", 20_000)
    turns = [floor.turn(f"{t.name}{i}", 1000, tenant=t) for i in range(40) for t in (heavy, light)]
    await settle()
    went: list[Turn] = []
    while len(went) < 40:
        running.begins()
        await settle()
        running = next(t for t in turns if t.goes and t not in went)
        went.append(running)
    share = sum(t.slot._claim.tenant is heavy for t in went)
    assert share == pytest.approx(30, abs=2)


async def test_who_hangs_up_while_waiting_or_running_leaves_nothing_behind() -> None:
    floor = Floor("r0", backlog_s=0.01)
    busy = floor.turn("busy", 20_000)
    waiting = [floor.turn(f"s{i}", 1000) for i in range(3)]
    await settle()
    waiting[0].task.cancel()
    await settle()
    waiting[0].ends()
    assert floor.scheduler.queued == 2
    busy.ends()
    await settle()
    # It was sent and not yet received: cancelled at that very moment.
    goes = next(turn for turn in waiting if turn.goes and not turn.task.cancelled())
    goes.ends()
    for turn in waiting:
        turn.task.cancel()
    await settle()
    for turn in waiting[1:]:
        if turn is not goes:
            turn.ends()
    [desk] = floor.scheduler.pool("big")._desks.values()
    assert (desk.running, desk.unbegun, desk.backlog_tokens, desk.pinned_tokens) == (0, 0, 0, 0)
    assert floor.scheduler.queued == floor.scheduler.admission.total == 0


async def test_a_turn_cancelled_in_the_moment_it_is_placed_frees_its_place() -> None:
    floor = Floor("r0", backlog_s=0.01)
    busy = floor.turn("busy", 20_000)
    next_one = floor.turn("next", 1000)
    await settle()
    busy.ends()  # places the next one; its task has not run yet
    next_one.task.cancel()
    await settle()
    next_one.ends()
    [desk] = floor.scheduler.pool("big")._desks.values()
    assert (desk.running, desk.backlog_tokens) == (0, 0)


async def test_an_idle_replica_takes_what_waits_at_a_busy_one() -> None:
    floor = Floor("r0", "r1", backlog_s=0.01)
    one, two = floor.turn("a", 60_000), floor.turn("b", 60_000)
    await settle()
    assert one.placed.engine is not two.placed.engine
    more = [floor.turn(f"s{i}", 8000) for i in range(4)]
    await settle()
    two.begins()
    await settle()
    [went] = [turn for turn in more if turn.goes]
    assert went.placed.engine is two.placed.engine
    at_two = [went]
    while floor.scheduler.queued:
        at_two[-1].begins()
        await settle()
        at_two.append(next(t for t in more if t.goes and t not in at_two))
        assert at_two[-1].placed.engine is two.placed.engine
    assert any(turn.placed.reason == "steal" for turn in at_two)


async def test_a_stranger_waits_while_it_would_drive_out_those_that_are_coming_back() -> None:
    floor = Floor("r0", capacity=100_000, stranger_share=0.1)
    await floor.run("a", 40_000)
    await floor.run("b", 40_000)
    first = floor.turn("first stranger", 40_000)
    second = floor.turn("second stranger", 40_000)
    await settle()
    # The first may, since nobody may starve; the next only when that has been paid for.
    assert (first.goes, second.goes) == (True, False)
    assert first.placed.reason == "forced"
    back = floor.turn("b", 40_000, 10, 100)
    first.begins()
    await settle()
    assert back.placed.reason == "home"
    back.begins()
    back.ends(40_110)
    first.ends(40_000)
    assert not second.goes
    # Programs that do not come back are not waited for.
    floor.clock.advance(1000)
    floor.scheduler.pool("big")._tick()
    await settle()
    assert second.placed.reason == "room"


async def test_a_turn_that_has_waited_too_long_is_told_when_to_come_back() -> None:
    floor = Floor("r0", max_wait_s=30.0, backlog_s=0.01)
    floor.turn("busy", 80_000)
    late = floor.turn("late", 40_000)
    await settle()
    floor.clock.advance(31)
    floor.scheduler.pool("big")._tick()
    await settle()
    refused = late.task.exception()
    assert isinstance(refused, Unavailable)
    assert refused.retry_after_s == pytest.approx(10.0)
    late.ends()


async def test_what_waited_for_a_replica_that_left_is_placed_again() -> None:
    floor = Floor("r0", backlog_s=0.01)
    floor.turn("busy", 20_000)
    waiting = floor.turn("s", 1000)
    await settle()
    floor.engines = [engine("r1")]
    floor.scheduler.keep_only({"r1"})
    await settle()
    assert waiting.placed.engine.replica == "r1"


async def test_no_engine_no_place() -> None:
    floor = Floor()
    with floor.scheduler.enter(floor.claim("s", 10)) as slot:
        assert await slot.place() is None


async def test_a_whole_answer_lets_the_next_prefill_in_after_the_time_its_own_takes() -> None:
    floor = Floor("r0", backlog_s=0.01)
    whole = floor.turn("whole", 400, streams=False)  # 0.05 s by the rate that is guessed
    second = floor.turn("next", 400)
    await settle()
    assert (whole.goes, second.goes) == (True, False)
    await asyncio.wait_for(second.task, 20)


async def test_an_engine_whose_counters_fall_holds_nothing() -> None:
    floor = Floor("r0")
    floor.engines = [replace(floor.engines[0], load=EngineLoad(queried_tokens=5000))]
    await floor.run("s", 1000)
    floor.engines = [replace(floor.engines[0], load=EngineLoad(queried_tokens=10))]
    assert (await floor.run("s", 1000, 10)).predicted_cached_tokens == 0


async def test_a_snapshot_that_is_read_again_is_heard_once_and_the_next_one_anew() -> None:
    floor = Floor()
    floor.engines = (engine("r0"), engine("r1", load=EngineLoad(queried_tokens=5000)))
    placed = [await floor.run("s", 1000, *[10] * n) for n in range(3)]
    assert [each.predicted_cached_tokens > 0 for each in placed] == [False, True, True]
    at = placed[0].engine
    floor.engines = tuple(replace(e, load=EngineLoad(queried_tokens=9000)) for e in floor.engines)
    assert (await floor.run("s", 1000, 10, 10, 10)).predicted_cached_tokens > 0
    floor.engines = tuple(replace(e, load=EngineLoad(queried_tokens=10)) for e in floor.engines)
    begun_anew = await floor.run("s", 1000, 10, 10, 10, 10)
    assert (begun_anew.engine.replica, begun_anew.predicted_cached_tokens) == (at.replica, 0)


async def test_replicas_that_were_forgotten_are_met_again_in_the_snapshot_that_had_them() -> None:
    floor = Floor()
    floor.engines = (engine("r0"), engine("r1"))
    await floor.run("s", 1000)
    floor.scheduler.keep_only([])
    assert (await floor.run("s", 1000, 10)).predicted_cached_tokens == 0


async def test_one_more_than_allowed_is_refused() -> None:
    floor = Floor("r0", limit=1)
    floor.turn("s", 10)
    with pytest.raises(RateLimited):
        floor.scheduler.enter(floor.claim("t", 10))


async def test_rates_are_measured_and_slow_replicas_show() -> None:
    floor = Floor("slow", "fast")
    for i in range(40):
        turn = floor.turn(f"s{i}", 1000)
        await settle()
        floor.clock.advance(2.0 if turn.placed.engine.replica == "slow" else 0.1)
        turn.slot.began()
        turn.ends(1000)
    slow = floor.scheduler.rates.prefill("slow", "big")
    assert slow < floor.scheduler.rates.prefill("fast", "big") / 3


async def test_memory_is_bounded_by_what_is_configured() -> None:
    floor = Floor("r0", "r1")
    knobs = RouterConfig.model_validate({"max_sessions": 100, "warmth": {"max_nodes": 50}})
    floor.scheduler = Scheduler(knobs, 10, lambda _: floor.engines, floor.health, floor.clock)
    for i in range(1000):
        await floor.run(f"s{i}", 100, 100)
    scheduler = floor.scheduler
    assert len(scheduler.programs) == 100
    assert len(scheduler.warmth) <= 2 * 50
    assert sum(len(scheduler.programs.active(r)) for r in ("r0", "r1")) <= 100


async def test_an_engines_own_queue_is_told_the_order_where_something_is_before_a_turn() -> None:
    floor = Floor("r0", backlog_s=10)
    first = floor.turn("first", 8000)
    short, long = floor.turn("short", 800), floor.turn("long", 8000)
    batch = floor.turn("batch", 800, urgency="batch")
    await settle()
    assert first.placed.due_in_s is None, "it begins at once"
    due = [turn.placed.due_in_s for turn in (short, long, batch)]
    assert all(moment is not None for moment in due)
    assert due == sorted(due), "short before long, batch last"


async def test_where_other_front_doors_wait_in_the_engine_a_turn_has_its_place_among_theirs() -> (
    None
):
    floor = Floor("r0")
    floor.engines = [replace(floor.engines[0], load=EngineLoad(waiting=3))]
    turn = floor.turn("s", 100)
    await settle()
    assert turn.placed.due_in_s is not None


async def test_a_session_leaves_a_home_whose_slots_are_all_taken_for_one_that_has_some() -> None:
    floor = Floor("r0", "r1", slots=2)
    first = await floor.run("s", 100)
    others = [floor.turn(f"o{i}", 100) for i in range(8)]
    for other in others:
        await settle()
        other.begins()
    at_home = [o for o in others if o.placed.engine is first.engine]
    assert len(at_home) == 4, "they are spread"
    floor.clock.advance(10)
    for other in others:
        if other not in at_home:
            other.ends(100)
    turn = floor.turn("s", 100, 10, 20)
    await settle()
    assert turn.placed.engine is not first.engine
    assert turn.placed.reason == "spill:load"


async def test_the_sessions_of_a_replica_that_left_are_shared_among_the_others() -> None:
    floor = Floor("r0")
    names = [f"s{i}" for i in range(30)]
    for name in names:
        await floor.run(name, 100)
    floor.engines = [engine(f"r{i}") for i in (1, 2, 3)]
    floor.scheduler.keep_only({"r1", "r2", "r3"})
    went = [(await floor.run(name, 100, 10, 20)).engine.replica for name in names]
    assert {went.count(name) for name in ("r1", "r2", "r3")} <= {9, 10, 11}


# -- turns that nobody waits for --


async def refused(turn: Turn) -> bool:
    await settle()
    error = turn.task.exception()
    turn.ends()
    return isinstance(error, Unavailable) and error.code == NO_TIME


async def test_a_spare_turn_goes_at_once_to_where_its_session_is() -> None:
    floor = Floor(*(f"r{i}" for i in range(8)))
    home = (await floor.run("s", 1000, 500)).engine.replica
    spare = floor.turn("s", 1000, 500, spare=True)
    await settle()
    assert spare.placed.engine.replica == home
    assert spare.placed.predicted_cached_tokens == 1499
    spare.begins()
    spare.ends(1500, 1500, output=1)


async def test_a_spare_turn_is_refused_where_anything_is_before_it() -> None:
    floor = Floor("r0")
    await floor.run("s", 1000)
    other = floor.turn("other", 1000)
    await settle()
    assert await refused(floor.turn("s", 1000, spare=True))  # a prompt is being computed
    other.begins()
    other.ends(1000)
    floor.engines[0] = replace(floor.engines[0], load=EngineLoad(waiting=1))
    assert await refused(floor.turn("s", 1000, spare=True))  # somebody else's waits there
    floor.engines[0] = replace(floor.engines[0], load=EngineLoad())
    spare = floor.turn("s", 1000, spare=True)
    await settle()
    assert spare.placed.engine.replica == "r0"
    spare.ends(1000, 1000)


async def test_a_spare_turn_is_refused_while_anybody_waits_in_the_router() -> None:
    floor = Floor("r0", backlog_s=0.01)
    busy = [floor.turn(f"s{i}", 1000) for i in range(3)]
    await settle()
    assert [turn.goes for turn in busy] == [True, False, False]
    busy[0].begins()
    assert await refused(floor.turn("s0", 1000, spare=True))
    for turn in busy:
        await settle()
        turn.ends(1000)


async def test_a_spare_turn_does_not_leave_its_home() -> None:
    floor = Floor("r0", "r1")
    home = (await floor.run("s", 1000)).engine.replica
    at = next(i for i, each in enumerate(floor.engines) if each.replica == home)
    floor.engines[at] = replace(floor.engines[at], load=EngineLoad(waiting=500))
    assert await refused(floor.turn("s", 1000, spare=True))
    del floor.engines[at]
    spare = floor.turn("s", 1000, spare=True)  # its next turn goes to the other one as well
    await settle()
    assert spare.placed.engine.replica != home
    spare.ends(1000)


async def test_what_a_spare_turn_answers_is_no_measure_of_others() -> None:
    floor = Floor("r0")
    await floor.run("s", 1000)
    rates = floor.scheduler.rates
    before = rates.answer_tokens("big"), rates.turn_s("big")
    for _ in range(20):
        spare = floor.turn("s", 1000, spare=True)
        await settle()
        spare.begins()
        spare.ends(1000, 999, output=1)
    assert (rates.answer_tokens("big"), rates.turn_s("big")) == before


async def test_a_spare_turn_ends_when_somebody_comes_while_its_prompt_is_computed() -> None:
    floor = Floor("r0", backlog_s=0.01)
    ended: list[str] = []
    spare = floor.turn("s", 2000, spare=True)
    spare.slot.give_way = lambda: ended.append("s")
    await settle()
    assert spare.goes
    other = floor.turn("other", 2000)
    await settle()
    assert ended == ["s"]
    assert other.goes  # it does not wait for what has ended
    spare.ends()
    other.begins()
    other.ends(2000)
    # What was computed of it before is not counted on.
    assert floor.scheduler.warmth.at("r0").find(floor.claim("s", 2000).identity.hashes)[0] <= 0


async def test_a_spare_turn_ends_also_where_somebody_goes_who_leaves_his_home() -> None:
    floor = Floor("r0", "r1")
    home = (await floor.run("s", 1000)).engine.replica
    floor.health.eject(home, "connect")
    ended: list[str] = []
    spare = floor.turn("t", 200, spare=True)
    spare.slot.give_way = lambda: ended.append("t")
    await settle()
    other = floor.turn("s", 1000, 10)
    await settle()
    assert home != spare.placed.engine.replica == other.placed.engine.replica
    assert ended == ["t"]
    for turn in (spare, other):
        turn.ends()


async def test_a_spare_turn_whose_prompt_is_computed_is_in_nobody_s_way() -> None:
    floor = Floor("r0")
    ended: list[str] = []
    spare = floor.turn("s", 2000, spare=True)
    spare.slot.give_way = lambda: ended.append("s")
    await settle()
    spare.begins()
    other = floor.turn("other", 2000)
    await settle()
    assert ended == []
    for turn in (spare, other):
        turn.ends(2000)
