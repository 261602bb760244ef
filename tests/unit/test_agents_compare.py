"""Two runs of the agents' benchmark: what is said to be better or worse, and what is not."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import agents, agents_report
from benchmarks.agents_attempt import Attempt
from benchmarks.agents_compare import compare, read
from benchmarks.harness.run import ROOT, Run
from benchmarks.harness.stats import sign_test, wilson
from serving.config import stack_file
from serving.errors import ConfigError

NAMES = [f"task-{number}" for number in range(30)]


def attempt(task: str, *, solved: bool = True, model: str = "auto", **more: object) -> Attempt:
    made = Attempt(
        model=model,
        task=task,
        kind="look_up",
        round=0,
        fingerprint="f",
        error="" if solved else "wrong answer",
        why="",
        turns=3,
        tool_calls=2,
        tool_errors=0,
        fresh=200,
        cached=1800,
        output=60,
        cost_usd=0.0002,
        seconds=2.0,
        answered_by={"frontier": 3},
        conversation="conv_1",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def run_of(lost: int = 0, **more: object) -> list[Attempt]:
    """Thirty tasks, the first of them not solved."""
    return [attempt(name, solved=at >= lost, **more) for at, name in enumerate(NAMES)]


def test_the_same_run_is_neither_better_nor_worse() -> None:
    found = compare(run_of(5), run_of(5))
    assert found.worse == []
    assert {each.says for each in found.solved} == {"same"}
    assert {each.ratio.value for each in found.measured} == {1.0}
    assert found.left_out == ()


def test_as_many_tasks_won_as_lost_say_nothing_however_many_they_are() -> None:
    before = run_of(10)
    now = [attempt(name, solved=at < 20) for at, name in enumerate(NAMES)]
    (solved,) = compare(before, now).solved
    assert (len(solved.gained), len(solved.lost), solved.says) == (10, 10, "same")


@pytest.mark.parametrize(("lost", "says"), [(1, "same"), (5, "same"), (6, "worse"), (12, "worse")])
def test_losing_is_significant_from_six_tasks_on_when_none_is_won(lost: int, says: str) -> None:
    found = compare(run_of(), run_of(lost))
    assert found.solved[0].says == says
    assert found.solved[0].lost == tuple(sorted(NAMES[:lost]))
    change = found.solved[0].change
    assert change.value == pytest.approx(-lost / 30)
    assert change.low <= change.value <= change.high
    assert found.worse == (["auto: solved"] if says == "worse" else [])
    assert compare(run_of(lost), run_of()).solved[0].says == says.replace("worse", "better")


@pytest.mark.parametrize(
    ("factor", "says"), [(1.5, "worse"), (1.02, "same"), (0.98, "same"), (0.5, "better")]
)
def test_a_dearer_task_is_worse_when_the_margin_is_passed(factor: float, says: str) -> None:
    chance = random.Random(3)
    before = [attempt(name, cost_usd=chance.uniform(1, 5)) for name in NAMES]
    now = [replace(each, cost_usd=factor * (each.cost_usd or 0)) for each in before]
    found = {each.measure: each for each in compare(before, now).measured}
    assert found["cost_usd"].says == says
    assert found["cost_usd"].ratio.value == pytest.approx(factor)
    assert found["turns"].says == "same"


def test_one_task_that_went_astray_is_not_significant() -> None:
    now = [attempt(name, turns=30 if name == NAMES[0] else 3) for name in NAMES]
    turns = next(each for each in compare(run_of(), now).measured if each.measure == "turns")
    assert turns.ratio.value > 1.2
    assert turns.says == "same"


def test_what_a_task_takes_is_compared_only_where_both_solved_it() -> None:
    now = [replace(each, turns=1, cost_usd=0.0) if each.error else each for each in run_of(8)]
    found = compare(run_of(), now)
    assert {each.tasks for each in found.measured} == {22}
    assert {each.ratio.value for each in found.measured} == {1.0}
    assert found.worse == ["auto: solved"]


def test_seconds_and_cached_tokens_are_said_and_not_judged() -> None:
    found = compare(run_of(), run_of(seconds=20.0, cached=9))
    says = {each.measure: each.says for each in found.measured}
    assert says["seconds"] == says["cached"] == "not judged"
    assert found.worse == []


def test_a_handful_of_tasks_is_not_judged() -> None:
    found = compare(run_of()[:5], run_of(turns=9)[:5])
    assert {each.says for each in found.measured} == {"not judged"}


def test_tasks_that_changed_and_models_of_one_run_are_left_out_and_named() -> None:
    now = [attempt(NAMES[0], fingerprint="changed"), *run_of()[1:], attempt("task-1", model="new")]
    found = compare(run_of(), now)
    assert found.solved[0].tasks == 29
    assert found.left_out == (
        "model new: in one run only",
        "auto: 1 tasks, new or changed: task-0",
    )
    with pytest.raises(ConfigError, match="no task of the same model in common"):
        compare(run_of(), [attempt("task-1", model="new")])


def test_where_no_costs_are_named_none_are_compared() -> None:
    found = compare(run_of(cost_usd=None), run_of(cost_usd=None))
    assert "cost_usd" not in {each.measure for each in found.measured}


def test_rounds_of_a_task_count_as_one_pair() -> None:
    before = [replace(each, round=n) for n in range(3) for each in run_of()]
    now = [replace(e, round=n) for n in range(3) for e in run_of(6 if n == 0 else 0)]
    (solved,) = compare(before, now).solved
    assert solved.tasks == 30
    assert solved.now == pytest.approx(28 / 30)
    assert solved.says == "worse"


def report(path: Path, attempts: list[Attempt]) -> Path:
    figures = {"models": agents_report.summarise(attempts), "attempts": attempts}
    Run("agents", argparse.Namespace()).write(path, figures)
    return path


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    attempts = run_of(3)
    assert read(report(tmp_path / "a.json", attempts)) == attempts


@pytest.mark.parametrize(
    "text", ["", "{}", '{"benchmark": "gateway"}', '{"benchmark": "agents", "figures": {}}', "[]"]
)
def test_what_is_no_report_of_agents_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"base.json: is (no|a) report"):
        read(path)


def test_two_reports_are_compared_and_the_exit_code_says_whether_it_got_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = report(tmp_path / "good.json", run_of()), report(tmp_path / "bad.json", run_of(9))
    assert agents.main(["--against", str(good), "--recorded", str(bad)]) == 1
    said = capsys.readouterr().out
    assert "significantly worse: auto: solved" in said
    assert "auto lost: task-0, task-1, task-2" in said
    assert agents.main(["--against", str(bad), "--recorded", str(good)]) == 0
    assert "significantly worse: nothing" in capsys.readouterr().out
    assert agents.main(["--against", str(tmp_path / "none"), "--recorded", str(good)]) == 2
    assert "is no report of this benchmark" in capsys.readouterr().err


def test_a_summary_says_what_was_solved_where_it_failed_and_what_it_cost(tmp_path: Path) -> None:
    attempts = [*run_of(6), *(replace(each, model="small", cost_usd=None) for each in run_of(30))]
    auto, small = agents_report.summarise(attempts)
    assert (auto.solved.value, auto.tasks, auto.by_kind) == (0.8, 30, {"look_up": (24, 30)})
    assert auto.solved == wilson(24, 30)
    assert auto.errors == {"wrong answer": 6}
    assert auto.usd_a_solved_task == pytest.approx(30 * 0.0002 / 24)
    assert auto.answered_by == {"frontier": 90}
    assert (small.solved.value, small.cost_usd, small.usd_a_solved_task) == (0.0, None, None)
    assert json.dumps(report(tmp_path / "r.json", attempts).read_text())
    agents_report.picture(attempts, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("successes", "tries", "low", "high"),
    [(8, 10, 0.490, 0.943), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (21, 42, 0.355, 0.645)],
)
def test_wilsons_interval_is_the_one_in_the_books(
    successes: int, tries: int, low: float, high: float
) -> None:
    found = wilson(successes, tries)
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)
    assert found.low <= found.value <= found.high
    with pytest.raises(ValueError, match="no tries"):
        wilson(0, 0)


@pytest.mark.parametrize(
    ("better", "worse", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 6, 0.03125), (3, 3, 1)]
)
def test_the_sign_test_is_exact_and_two_sided(better: int, worse: int, p: float) -> None:
    assert sign_test(better, worse) == p


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of --url"),
        (["--url", "http://x", "--config", "c"], "one of --url"),
        (["--recorded", "r.json"], "goes with --against"),
        (["--url", "http://x", "--policies", "race"], "--policies: goes with --config"),
        (["--config", "c", "--policies", "race,lazy"], "--policies: 'lazy'; valid: auto, small"),
        (["--url", "http://x", "--rounds", "0"], "--rounds: 0; more than 0"),
        (["--url", "http://x", "--at-once", "-1"], "--at-once: -1; more than 0"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        agents.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cpu", "cpu-small", "simulated"])
def test_a_stack_with_policies_is_the_same_stack_with_an_agent_for_each(
    name: str, tmp_path: Path
) -> None:
    stack = stack_file.load(ROOT / "configs" / f"{name}.yaml")
    written = tmp_path / "stack.yaml"
    written.write_text(yaml.safe_dump(agents.with_policies(stack, ["small", "race"])))
    made = stack_file.load(written)
    assert {n: agent.tier.policy for n, agent in made.agents.items() if n not in stack.agents} == {
        "auto-small": "small",
        "auto-race": "race",
    }
    assert made.model_copy(update={"agents": stack.agents}) == stack
    assert all(made.agents[each] == stack.agents[each] for each in stack.agents)


def test_tasks_are_chosen_by_pattern_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert agents.main(["--list"]) == 0
    assert "price-of-helmet" in capsys.readouterr().out
    assert agents.main(["--url", "http://127.0.0.1:9", "--tasks", "nonsense*"]) == 2
    assert "no task fits 'nonsense*'" in capsys.readouterr().err


def test_a_stack_that_is_not_there_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert agents.main(["--url", "http://127.0.0.1:9"]) == 2
    assert "http://127.0.0.1:9 does not answer as a stack" in capsys.readouterr().err


def test_an_interrupted_run_reports_what_had_ended_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure(*_: object, ended: list[Attempt]) -> list[Attempt]:
        ended += run_of(3)[:4]
        raise KeyboardInterrupt

    monkeypatch.setattr(agents, "measure", measure)
    assert agents.main(["--url", "http://127.0.0.1:9", "--out", str(tmp_path / "out")]) == 130
    assert "interrupted after 4 attempts" in capsys.readouterr().out
    assert read(tmp_path / "out" / "agents.json") == run_of(3)[:4]
