"""The cost benchmark without engines: five ways by the router's own code, the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cost
from benchmarks.cost_ledger import WAYS, Account, Way
from benchmarks.cost_offline import BLOCK, Play, five_ways, with_adapter
from benchmarks.cost_prices import Speed, hosted
from benchmarks.cost_workload import SIZES, synthetic
from benchmarks.tiers_sessions import AGENTS

SIZE = SIZES["cpu"]
SPEED = Speed(1000, 100_000, 100)
PLAY = Play(
    synthetic(SIZE, 6, seed=1),
    synthetic(SIZE, 30, seed=2),
    SIZE.head,
    SIZE.limit,
    {"frontier": SPEED, "small": SPEED},
)
PRICES = hosted()[0]


@pytest.fixture(scope="module")
def ways() -> tuple[Way, ...]:
    return five_ways(PLAY, PRICES)


def test_five_ways_are_played_and_the_same_each_time(ways: tuple[Way, ...]) -> None:
    assert tuple(way.name for way in ways) == WAYS
    assert five_ways(PLAY, PRICES) == ways


def test_every_task_is_asked_and_checked_in_every_way(ways: tuple[Way, ...]) -> None:
    for way in ways:
        assert way.tasks == 6
        assert way.checked == 6 * 15


def test_the_cache_changes_what_is_fresh_and_nothing_else(ways: tuple[Way, ...]) -> None:
    naive, cached = ways[:2]
    assert naive.per_task("cached") == 0
    both = cached.per_task("fresh") + cached.per_task("cached")
    assert naive.per_task("fresh") == pytest.approx(both)
    assert naive.right == cached.right
    assert naive.per_task("seconds") > cached.per_task("seconds")
    for step in cached.steps:
        assert step.cached % BLOCK == 0


def test_an_agents_tasks_find_the_head_that_another_one_left(ways: tuple[Way, ...]) -> None:
    first = {step.task: step.cached for step in ways[1].steps if step.turn == "0"}
    assert [first[n] for n in range(len(AGENTS))] == [0] * len(AGENTS)
    assert first[len(AGENTS)] == SIZE.head // BLOCK * BLOCK


def test_naive_and_cached_ask_the_frontier_alone_and_routing_does_not(
    ways: tuple[Way, ...],
) -> None:
    assert [way.small_share() for way in ways[:2]] == [0, 0]
    assert ways[4].small_share() > 0
    account = Account(PRICES, ways)
    assert account.factor > 1
    assert all(drop.before > 0 for drop in account.drops())


def test_an_adapter_makes_small_better_and_never_better_than_the_frontier() -> None:
    for agent in AGENTS:
        tuned = with_adapter(agent)
        assert agent.small < tuned.small <= agent.frontier
        assert tuned.unsure < agent.unsure


def test_the_command_writes_figures_bars_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--offline", "--tasks", "3", "--lessons", "3", "--out", str(tmp_path)]
    assert cost.main(arguments) in (0, 1)
    report = json.loads((tmp_path / "cost.json").read_text())
    names = [each["prices"]["name"] for each in report["figures"]["accounts"]]
    assert names[0] == "self-hosted"
    assert len(report["figures"]["break_even"]) == 2 * (len(names) - 1)
    assert [bar["limit"] for bar in report["bars"]] == [5.0, 5.0, 0.95]
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "ASSUMED" in said
    assert "anthropic" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "0"], "--tasks: at least 1"),
        (["--traces", "x.gz"], "--traces: needs --offline"),
        (["--usd-per-hour", "0"], "--usd-per-hour: more than 0"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cost.main(arguments)
    assert said in capsys.readouterr().err


def test_a_folder_without_price_lists_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cost.main(["--offline", "--prices", str(tmp_path)]) != 0
    assert "has no *.json" in capsys.readouterr().err
