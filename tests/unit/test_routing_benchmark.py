"""The routing benchmark: virtual time, and rankings that cannot flake since seeds are fixed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import routing
from benchmarks.routing_policies import CacheAwareTree, LeastLoaded, Sticky
from benchmarks.routing_scenarios import SCENARIOS, Run, play, quick
from benchmarks.routing_synthetic import one_long_head, synthetic
from benchmarks.routing_workload import Recorder, agent_sessions, common_prefix, oracle_tokens
from benchmarks.routing_world import Plan, Stage, World
from benchmarks.virtual_time import VirtualLoop, in_virtual_time
from serving.config.model import SimulatorConfig

BY_NAME = {s.name: s for s in SCENARIOS}


def _world(replicas: int = 2) -> World:
    return World(replicas, SimulatorConfig(capacity_tokens=300_000, block_tokens=64))


def test_time_jumps_to_the_next_timer() -> None:
    async def a_day() -> float:
        await asyncio.gather(asyncio.sleep(86_400), asyncio.sleep(10))
        return asyncio.get_running_loop().time()

    assert in_virtual_time(a_day()) == pytest.approx(86_400)


def test_waiting_for_nothing_is_said_and_not_waited_out() -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner, pytest.raises(RuntimeError):
        runner.run(asyncio.Event().wait())  # type: ignore[arg-type]


def test_the_oracle_counts_every_block_once() -> None:
    recorder = Recorder("s", 10)
    turn = recorder.program()
    turn(0, 25, 5, [1, 2])
    turn(0, 45, 5, [1, 2, 3, 4])
    turn(0, 20, 5, [1, 2])  # all of it is known, but the last token is always computed
    assert oracle_tokens([recorder.session()], 10) == 20 + 10


def test_a_prompt_that_grows_adds_a_message_and_one_that_was_rewritten_drops_some() -> None:
    recorder = Recorder("s", 10)
    turn = recorder.program()
    turn(0, 25, 5, [1, 2])
    turn(0, 45, 5, [1, 2, 3, 4])
    turn(0, 60, 5, [1, 2, 7, 8, 9, 10])
    session = recorder.session()
    assert [t.messages for t in session.turns] == [(0,), (0, 1), (2,)]
    assert common_prefix(session.turns[1].blocks, session.turns[2].blocks) == 2
    for t in session.turns:
        assert sum(session.messages[i].tokens for i in t.messages) == t.prompt_tokens


def test_recorded_sessions_end_where_the_context_does(tmp_path: Path) -> None:
    requests = [
        {"type": "n", "in": 130, "out": 9, "think_time": 0.0, "hash_ranges": [[1, 2]]},
        {"type": "subagent", "agent_id": "a", "requests": [
            {"type": "n", "in": 64, "out": 9, "think_time": 0.0, "hash_ranges": [[50, 1]]}]},
        {"type": "n", "in": 200, "out": 9, "think_time": 900.0, "hash_ranges": [[1, 3]]},
        {"type": "n", "in": 600, "out": 9, "think_time": 1.0, "hash_ranges": [[1, 9]]},
    ]  # fmt: skip
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps({"id": "one", "block_size": 64, "requests": requests}) + "\n")
    workload = agent_sessions(path, context_tokens=500, most_think_s=60)
    turns = workload.sessions[0].turns
    assert [t.prompt_tokens for t in turns] == [130, 64, 200]
    assert turns[2].think_s == 60
    assert turns[2].blocks[:2] == turns[0].blocks
    assert turns[2].messages == (0, 2)


def test_the_synthetic_workload_is_the_same_each_time() -> None:
    assert synthetic(5, seed=3) == synthetic(5, seed=3)
    assert synthetic(5, seed=3) != synthetic(5, seed=4)


@pytest.mark.parametrize("part", ["replica", "door"])
def test_all_turns_end_although_a_part_dies_half_way(part: str) -> None:
    workload = synthetic(6, seed=1, turns_scale=0.3)
    world = _world(3)
    plan = Plan(live=6, lose_replica=part == "replica", lose_door=part == "door")
    doors = [Sticky(world), Sticky(world)]
    outcome = in_virtual_time(Stage(workload, world, doors, plan).play())
    assert len(outcome.ttfts_s) == sum(outcome.turns_at) == workload.turns
    assert len(outcome.session_s) == 6
    assert len(world.alive) == (2 if part == "replica" else 3)
    assert all(n == 0 for door in doors[:1] for n in door.inflight)


def test_a_long_shared_head_piles_everybody_on_one_replica_of_a_tree() -> None:
    workload = one_long_head(12, seed=1)
    found = {}
    for policy in (CacheAwareTree, LeastLoaded):
        world = _world(4)
        outcome = in_virtual_time(Stage(workload, world, [policy(world)], Plan(live=12)).play())
        found[policy] = max(outcome.turns_at) / workload.turns
    assert found[CacheAwareTree] == 1.0
    assert found[LeastLoaded] < 0.5


def test_a_run_gives_the_same_figures_again() -> None:
    scenario = replace(quick(BY_NAME["tight-48"]), sessions=6, orders=1)
    run = Run(scenario, "ours", 1, (), True)
    assert play(run) == play(run)


def test_the_command_ranks_the_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What no change may turn around; the bars themselves are for whole runs."""
    file, picture = tmp_path / "r.json", tmp_path / "r.png"
    more = ["--sweep", "fits,tight-48", "--json", str(file), "--png", str(picture), "--jobs", "1"]
    routing.main(["--quick", *more])
    rows = {
        (r["scenario"], r["policy"]): r for r in json.loads(file.read_text())["figures"]["rows"]
    }
    for scenario in ("fits", "tight-48"):
        scattered = rows[scenario, "round-robin"]
        for warm in ("sticky", "consistent-hash", "cache-aware-tree", "ours", "ours-no-ids"):
            assert rows[scenario, warm]["hits"] > scattered["hits"]
            assert rows[scenario, warm]["mean_ttft_s"] < scattered["mean_ttft_s"]
            assert rows[scenario, warm]["hits"] <= 1
    assert rows["fits", "ours"]["hits"] > 0.98
    assert rows["fits", "sticky"]["moves"] == 0
    assert picture.stat().st_size > 10_000
    assert "KV fits: hits ÷ oracle ≥ 0.99" in capsys.readouterr().out


def test_a_wrong_name_or_file_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--sweep", "tihgt"], ["--policies", "best"], ["--traces", "/no/such/file"]):
        with pytest.raises(SystemExit):
            routing.main(wrong)
        assert wrong[1] in capsys.readouterr().err
