"""The capacity benchmark: formulas by cases computed by hand, and small simulations beside them."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from pathlib import Path

import pytest

from benchmarks import capacity, capacity_rates
from benchmarks.capacity_demand import Ask, Demand, demand
from benchmarks.capacity_fleet import Plan, play, small_agents
from benchmarks.capacity_meter import TIMERS, Meter, held_bytes, metered
from benchmarks.capacity_model import Goal, Load, Model
from benchmarks.capacity_rates import Rates
from benchmarks.capacity_residency import Residency
from benchmarks.capacity_sweep import Check, Most, Swept
from benchmarks.routing_workload import Message, Recorder, Workload
from benchmarks.virtual_time import in_virtual_time
from serving.errors import ConfigError

FRONT = {"turn_ms": 2.0, "decision_us": 4.0, "home_us": 0.5, "steps_per_s": 1000}


def _rates(**changed: object) -> Rates:
    usual = {
        "name": "an engine",
        "date": "2026-11-28",
        "measured": False,
        "source": "a test",
        "prefill": 1000,
        "cached": 1e12,
        "decode": {1: 60, 256: 15360},
        "shared": False,
        "kv_tokens": 1_000_000_000,
        "context_tokens": 10_000,
        "front": FRONT,
    }
    return Rates.model_validate(usual | changed)


def _demand(*asks: Ask, tasks: int = 1, left: float = 0.0) -> Demand:
    return Demand("a test", tasks, asks, 0, left)


def _alike(n: int = 10) -> Demand:
    """Each turn computes a second, answers for a second, and pauses for eight."""
    return _demand(*[Ask(1000, 1000, 0, 60, 8.0, 0)] * n)


# What is asked


def test_of_a_prompt_is_new_what_no_session_has_had_and_head_what_several_begin_with() -> None:
    first, second = Recorder("a", 10), Recorder("b", 10)
    for recorder, own in ((first, 100), (second, 200)):
        turn = recorder.program(Message("head", 20))
        turn(0.0, 35, 5, [1, 2, own])
        turn(4.0, 55, 7, [1, 2, own, own + 1, own + 2])
    found = demand(Workload("w", (first.session(), second.session()), 10))
    assert [(a.prompt, a.fresh, a.head) for a in found.asks] == [
        (35, 35, 20),  # nobody was there before
        (55, 25, 20),
        (35, 15, 20),  # its head is the first session's
        (55, 25, 20),
    ]
    assert [a.kept for a in found.asks] == [0, 35 - 20 + 5, 0, 35 - 20 + 5]
    assert found.left == 55 - 20 + 7
    assert found.heads == 20
    assert found.turns == 2
    assert found.think_s == 2.0


def test_what_is_left_of_a_cold_turn_is_its_head() -> None:
    assert Ask(1000, 100, 300, 50, 0.0).cold == 700
    assert Ask(1000, 900, 300, 50, 0.0).cold == 900  # a head that nobody had computed before


# Rates


def test_decode_speeds_lie_on_straight_lines_and_end_with_the_last() -> None:
    rates = _rates(decode={2: 100, 6: 180})
    assert rates.decoded(1) == 50
    assert rates.decoded(2) == 100
    assert rates.decoded(4) == 140
    assert rates.decoded(100) == 180


@pytest.mark.parametrize(
    "decode", [{1: 100, 8: 90}, {1: 100, 8: 900}], ids=["slower", "faster each"]
)
def test_speeds_that_no_batch_has_are_refused_by_name(decode: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="from 1 to 8 sequences"):
        _rates(decode=decode)


def test_rates_that_are_not_there_are_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'simulated'"):
        capacity_rates.read("simulatd")


def test_a_file_with_a_wrong_figure_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(_rates().model_dump(mode="json") | {"prefill": 0}))
    with pytest.raises(ConfigError, match=r"mine\.json: prefill: .*greater than 0"):
        capacity_rates.read(str(path))


@pytest.mark.parametrize("path", sorted(capacity_rates.FOLDER.glob("*.json")), ids=str)
def test_rates_that_were_not_measured_say_so_where_they_come_from(path: Path) -> None:
    rates = capacity_rates.read(path.stem)
    assert rates.measured or "ASSUMED" in rates.source


# Which turns are warm


def _residency(asks: Demand) -> Residency:
    return Residency(asks, lambda prompt, fresh: fresh / 1000)


def test_a_cache_keeps_prefixes_as_long_as_its_room_lasts() -> None:
    # A turn a second, each of 100 tokens kept through a pause of 10 s and an answer of 1 s (60
    # tokens of 1/60 s): 1,000 + 100 tokens at any moment. Half of the pauses' room: T = 5 s.
    ask = Ask(100, 0, 0, 0, 10.0, 100)
    found = _residency(_demand(*[ask] * 970))
    assert found.lasts_s(500, 1.0, 1 / 60) == pytest.approx(5.0, rel=0.01)
    assert found.means(5.0).warm == 0.0
    assert found.means(11.0).warm == 1.0
    assert found.lasts_s(2000, 1.0, 1 / 60) == math.inf


def test_what_ended_tasks_leave_takes_room_too() -> None:
    ask = Ask(100, 0, 0, 0, 10.0, 100)
    # 100 tokens x T of pauses, and of each task's end (a tenth of the turns) as many again.
    found = _residency(_demand(*[ask] * 970, tasks=97, left=1000.0))
    assert found.lasts_s(1000, 1.0, 0.0) == pytest.approx(5.0, rel=0.01)


def test_of_turns_that_find_nothing_all_but_the_head_is_computed() -> None:
    ask = Ask(1000, 200, 300, 10, 5.0, 500)
    means = _residency(_demand(*[ask] * 10)).means(100.0, broken=0.5)
    assert means.warm == 0.5
    assert means.hit_rate == pytest.approx((800 + 300) / 2000)
    assert means.prefill_s == pytest.approx((0.2 + 0.7) / 2)
    assert means.prefill_s2 == pytest.approx((0.04 + 0.49) / 2)


# How many agents


def test_one_agent_goes_around_its_cycle() -> None:
    load = Model(_alike(), _rates(), Goal(5.0)).load(1)
    # 8 s of pause, 1 of prefill, 1 of answer, and W = l / 2 (1 - l), since s = 1.
    wait = load.turns_per_s / (2 * (1 - load.turns_per_s))
    assert load.cycle_s == pytest.approx(8 + 1 + 1 + wait, rel=1e-6)
    assert load.turns_per_s * load.cycle_s == pytest.approx(1.0, rel=1e-6)
    assert load.busy == pytest.approx(load.turns_per_s)
    assert load.decoding == pytest.approx(load.turns_per_s)


def test_a_crowd_keeps_the_engine_busy_and_waits_for_the_rest() -> None:
    load = Model(_alike(), _rates(), Goal(5.0)).load(1000)
    assert load.busy == pytest.approx(1.0, abs=0.01)
    assert load.turns_per_s == pytest.approx(1.0, abs=0.01)


def test_where_an_engine_does_both_decoding_keeps_it_busy_too() -> None:
    shared = _rates(shared=True, decode={1: 60}, max_running=1)
    apart = Model(_alike(), _rates(), Goal(5.0)).load(0.1)
    both = Model(_alike(), shared, Goal(5.0)).load(0.1)
    assert both.busy == pytest.approx(2 * apart.busy, rel=0.01)


def test_turns_that_take_longer_than_the_objective_are_late_by_themselves() -> None:
    slow = [Ask(3000, 3000, 0, 60, 8.0, 0)] * 2
    quick = [Ask(100, 100, 0, 60, 8.0, 0)] * 8
    load = Model(_demand(*slow, *quick), _rates(), Goal(2.0)).load(1e-6)
    assert load.late == pytest.approx(0.2, abs=1e-3)


def test_the_most_agents_are_those_at_which_just_so_many_are_late() -> None:
    model = Model(_alike(), _rates(), Goal(5.0, share=0.9))
    most = model.most()
    assert model.load(most * 0.99).late <= 0.1
    assert model.load(most * 1.02).late > 0.1


def test_more_cache_never_serves_fewer_and_a_lower_hit_rate_never_more() -> None:
    asks = _demand(*[Ask(2000, 200, 0, 60, 8.0, 1800)] * 100, tasks=10, left=2000.0)
    by_cache = [
        Model(asks, _rates(kv_tokens=kv), Goal(3.0)).most()
        for kv in (4_000, 8_000, 16_000, 1_000_000)
    ]
    assert by_cache == sorted(by_cache)
    assert by_cache[0] < by_cache[-1]
    by_share = [Model(asks, _rates(), Goal(3.0), share).most() for share in (0.0, 0.1, 0.5)]
    assert by_share == sorted(by_share, reverse=True)


def test_a_task_costs_its_share_of_the_replicas_day() -> None:
    model = Model(_alike(), _rates(), Goal(5.0))
    found = model.capacity(3, 2.0)
    assert found.tasks_a_day * found.usd_a_task == pytest.approx(3 * 24 * 2.0)
    assert found.tasks_a_day == pytest.approx(found.load.turns_per_s * 3 / 10 * 86_400)
    assert found.agents == int(model.most() * 3)
    assert found.binds == "prefill"


def test_a_slow_front_door_binds_a_large_cluster_and_a_second_one_helps() -> None:
    slow = _rates(front=FRONT | {"turn_ms": 100.0, "home_us": 0.0, "decision_us": 0.0})
    model = Model(_alike(), slow, Goal(5.0))
    one, two = model.capacity(1000, 1.0), model.capacity(1000, 1.0, doors=2)
    assert one.binds == two.binds == "front door"
    # 0.7 of a core is 7 turns a second of 100 ms.
    assert one.load.turns_per_s * 1000 == pytest.approx(7.0, rel=0.05)
    assert two.agents == pytest.approx(2 * one.agents, abs=2)
    assert one.doors == pytest.approx(1.0, rel=0.05)


def test_a_turns_cpu_grows_with_the_replicas_that_are_weighed() -> None:
    model = Model(_alike(), _rates(), Goal(5.0))
    # 2 ms, 0.5 us for each replica, and 4 us more for one turn in ten.
    assert model.turn_s(1000) == pytest.approx(2e-3 + 1000 * (0.5e-6 + 0.4e-6))


# The simulation


def test_a_fleet_plays_its_tasks_and_tells_what_the_router_did() -> None:
    heard: list[int] = []
    found = play(Plan(3, 12, 400, 200_000), small_agents(400), heard.append)
    assert heard == [200, 400, 400]
    assert found.turns > 500
    assert sum(found.reasons.values()) == found.turns
    assert found.known_sessions == 400
    assert found.known_boundaries > 0
    assert found.router_bytes > 400 * 100
    assert {"identify", "place", "books"} <= set(found.cpu_us)
    assert all(each > 0 for each in found.place_us.values())


def test_the_same_tasks_find_the_same_prefixes() -> None:
    plays = [play(Plan(2, 8, 100, 50_000), small_agents(100)) for _ in range(2)]
    assert plays[0].hit_rate == plays[1].hit_rate
    assert plays[0].reasons == plays[1].reasons
    assert plays[0].turns_per_s == plays[1].turns_per_s


def test_formulas_and_simulation_agree_below_capacity() -> None:
    rates = capacity_rates.read("simulated").model_copy(update={"kv_tokens": 110_000})
    asked = demand(Workload("short", tuple(small_agents(400, seed=2)), 128))
    told = Model(asked, rates, Goal(2.0)).load(25)
    played = play(Plan(2, 50, 600, 110_000), small_agents(600))
    assert told.turns_per_s == pytest.approx(played.each_per_s, rel=0.1)
    assert told.hit_rate == pytest.approx(played.hit_rate, abs=0.05)


def test_too_few_tasks_to_fill_the_fleet_are_said() -> None:
    with pytest.raises(ValueError, match="1 tasks are too few for 8 agents"):
        play(Plan(1, 8, 1, 50_000), small_agents(1))


# The meter


def test_time_that_others_take_while_a_turn_waits_is_not_counted() -> None:
    meter = Meter()

    async def waits(until: asyncio.Event) -> str:
        await until.wait()
        return "done"

    async def both() -> None:
        until = asyncio.Event()
        waiting = asyncio.ensure_future(meter.through("place", waits(until)))
        await asyncio.sleep(0)
        sum(range(3_000_000))  # somebody else's work
        until.set()
        result, seconds = await waiting
        assert result == "done"
        assert seconds == meter.seconds["place"]

    in_virtual_time(both(), metered(meter))
    with meter("work"):
        sum(range(3_000_000))
    assert meter.seconds["place"] < meter.seconds["work"]
    assert TIMERS not in meter.seconds  # none of these was the router's


def test_what_a_metered_turn_raises_comes_out_of_it() -> None:
    meter = Meter()

    async def cancelled() -> None:
        task = asyncio.ensure_future(meter.through("place", asyncio.sleep(100)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_virtual_time(cancelled(), metered(meter))
    assert "place" in meter.seconds


def test_what_two_tables_share_is_held_once() -> None:
    shared = bytes(10_000)
    assert held_bytes([{1: shared}, {2: shared}]) < 11_000
    assert held_bytes([{1: bytes(10_000)}, {2: bytes(10_000)}]) > 20_000


# Bars and the command


def _load(agents: float, turns_per_s: float, hit_rate: float) -> Load:
    return Load(agents, 1.0, hit_rate, turns_per_s, 10.0, 0.5, 1.0, 0.1, 0.0)


def test_bars_judge_only_what_the_formulas_say_goes_well() -> None:
    played = play(Plan(2, 8, 100, 50_000), small_agents(100))
    same = _load(4, played.each_per_s, played.hit_rate)
    wrong = _load(9, 2 * played.each_per_s, 0.0)
    checks = [Check("short", same, played), Check("short", wrong, played)]
    found = Swept(checks=checks, most=[Most("short", 5.0, 5.5)])
    assert not any(bar.missed for bar in found.bars())
    worse = Swept(checks=checks, most=[Most("short", 10.0, 5.5)])
    assert all(bar.missed for bar in worse.bars())
    assert Swept().bars() == []


def _trace(folder: Path) -> Path:
    """Twenty recorded sessions of three turns."""
    path = folder / "traces.jsonl"
    turns = []
    for n in (1, 2, 3):
        sizes = {"in": 640 * n, "out": 60, "hash_ranges": [[0, 10 * n]]}
        turns.append({"type": "s", "think_time": 5.0, **sizes})
    lines = [{"id": f"s{i}", "block_size": 64, "requests": turns} for i in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_formulas_alone_are_written_for_a_trace_and_for_figures_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--no-simulation", "--kv-tokens", "20000", "--replicas", "1", "8"]
    trace = str(_trace(tmp_path))
    assert capacity.main([*given, "--traces", trace, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "capacity.json").read_text())
    assert [each["replicas"] for each in written["figures"]["clusters"]] == [1, 8]
    assert "kv_tokens GIVEN" in written["figures"]["rates"]["source"]
    assert written["figures"]["demand"]["tasks"] == 20
    assert (tmp_path / "capacity.png").stat().st_size > 10_000
    assert "KV memory" in capsys.readouterr().out


def test_a_part_of_the_simulation_is_shown_written_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--parts", "calm", "scarce", "--largest", "1", "--traces", str(_trace(tmp_path))]
    assert capacity.main([*wanted, "--out", str(tmp_path)]) == 0
    simulated = json.loads((tmp_path / "capacity.json").read_text())["figures"]["simulation"]
    assert [each["plan"]["replicas"] for each in simulated["calm"]] == [1]
    assert simulated["scarce"][0]["waited"] > simulated["calm"][0]["waited"]
    assert (simulated["checks"], simulated["tasks"]) == ([], [])
    assert "of a core for decisions alone" in capsys.readouterr().out


def test_the_router_s_memory_is_drawn_also_alone(tmp_path: Path) -> None:
    wanted = ["--parts", "tasks", "--tasks", "500", "--traces", str(_trace(tmp_path))]
    assert capacity.main([*wanted, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "capacity.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rates", "nonsense"], "rates: 'nonsense' is no file"),
        (["--prefill", "-5", "--no-simulation"], "--prefill: "),
    ],
)
def test_what_cannot_be_computed_is_said_and_ends_with_an_error(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert capacity.main([*arguments, "--out", str(tmp_path)]) != 0
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--share", "1"], "--share: between 0 and 1"),
        (["--replicas", "0"], "--replicas: at least 1 each"),
        (["--ttft-s", "0"], "--ttft-s: more than 0"),
        (["--decode", "fast"], "is not like 1=60,8=400"),
        (["--traces", "nowhere.gz"], "there is no such file"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        capacity.main(arguments)
    assert says in capsys.readouterr().err


def test_small_agents_are_the_same_for_the_same_seed() -> None:
    first, again = (list(itertools.islice(small_agents(5), 5)) for _ in range(2))
    assert first == again
