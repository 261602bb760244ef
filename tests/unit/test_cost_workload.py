"""The cost benchmark's tasks grow as agents' prompts do, and compression takes out what it says."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost_workload
from benchmarks.cost_workload import SIZES, TURNS, AgentTurn, compressed, recorded, synthetic
from serving.errors import ConfigError


@pytest.mark.parametrize("profile", SIZES)
def test_a_task_of_15_turns_fits_the_context_and_only_grows(profile: str) -> None:
    size = SIZES[profile]
    tasks = synthetic(size, 20, seed=3)
    assert tasks == synthetic(size, 20, seed=3)
    for task in tasks:
        assert len(task) == TURNS
        assert task[0].prompt_tokens > size.head
        assert task[-1].prompt_tokens + task[-1].output_tokens <= size.context
        for before, now in pairwise(task):
            assert now.shared_tokens == before.prompt_tokens
            added = before.output_tokens + now.result_tokens
            assert now.prompt_tokens == before.prompt_tokens + added


def turns(*results: int) -> tuple[AgentTurn, ...]:
    made, prompt, shared = [], 1000, 0
    for number, result in enumerate(results):
        prompt += result
        made.append(AgentTurn(prompt, shared, 10, str(number), result))
        shared = prompt
        prompt += 10
    return tuple(made)


def test_what_is_cut_is_missing_in_every_prompt_that_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost_workload, "READ_ON_SHARE", 0.0)
    task = turns(0, 500, 20, 300)
    short = compressed(task, 100, seed=1)
    left_out = [a.prompt_tokens - b.prompt_tokens for a, b in zip(task, short, strict=True)]
    assert left_out == [0, 400, 400, 600]
    assert [turn.result_tokens for turn in short] == [0, 100, 20, 100]
    for before, now in pairwise(short):
        assert now.shared_tokens == before.prompt_tokens


def test_reading_on_is_one_more_turn_that_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_workload, "READ_ON_SHARE", 1.0)
    short = compressed(turns(0, 500, 20), 100, seed=1)
    assert [turn.checked for turn in short] == [True, False, True, True]
    assert [turn.key for turn in short] == ["0", "1+", "1", "2"]
    for before, now in pairwise(short):
        assert now.shared_tokens == before.prompt_tokens < now.prompt_tokens
    # 500 tokens came, 100 were shown, 100 more were read, and 40 are the call that read them.
    assert short[-1].prompt_tokens == turns(0, 500, 20)[-1].prompt_tokens - 400 + 140


def test_a_history_that_was_rewritten_has_nothing_left_to_leave_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost_workload, "READ_ON_SHARE", 0.0)
    *task, last = turns(0, 500, 0)
    rewritten = AgentTurn(700, 300, 10, last.key, 0)
    short = compressed((*task, rewritten), 100, seed=1)
    assert short[-1] == rewritten


def test_nothing_is_cut_where_the_limit_is_not_passed() -> None:
    task = turns(0, 90, 80)
    assert compressed(task, 100, seed=1) == task


def trace(path: Path, *sessions: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as out:
        for requests in sessions:
            out.write(json.dumps({"block_size": 64, "requests": requests}) + "\n")
    return path


def requests(count: int, result: int) -> list[dict[str, Any]]:
    made = []
    for n in range(count):
        prompt = 6400 + n * (result + 64)
        kinds = ["tool_result"] if n else ["text"]
        made.append(
            {"in": prompt, "out": 64, "input_types": kinds, "hash_ranges": [[0, prompt // 64]]}
        )
    return made


def test_recorded_tasks_are_those_that_fit_and_say_what_their_tools_brought(
    tmp_path: Path,
) -> None:
    path = trace(tmp_path / "t.gz", requests(15, 128), requests(4, 128), requests(15, 64_000))
    [task] = recorded(path, SIZES["gpu"], 10)
    assert [turn.result_tokens for turn in task] == [0] + [128] * 14
    assert task[3].shared_tokens == task[2].prompt_tokens


def test_a_trace_without_such_tasks_says_what_to_do(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.gz", requests(4, 128))
    with pytest.raises(ConfigError, match="--profile gpu"):
        recorded(path, SIZES["cpu"], 10)
    (tmp_path / "no.gz").write_text("text")
    with pytest.raises(ConfigError, match="is no gzipped file of traces"):
        recorded(tmp_path / "no.gz", SIZES["cpu"], 10)
