"""The cost benchmark on engines asks the same in all ways, checks by code, counts every try."""

from __future__ import annotations

import socket
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import cost_live
from benchmarks.cost_busy import Busy
from benchmarks.cost_desk import SHOWN_BYTES, Asked, handbook, tasks
from benchmarks.cost_live import Wanted
from benchmarks.cost_stage import taken
from benchmarks.everyday_questions import QUESTIONS, Question
from router.logs import TurnRecord
from serving.errors import ConfigError


def test_each_question_is_asked_once_and_a_conversation_only_grows() -> None:
    conversations = tasks(2, 15, 10, cut=False)
    asked = [each.question for task in conversations for each in task]
    assert sorted(asked, key=lambda each: each.text) == sorted(
        QUESTIONS, key=lambda each: each.text
    )
    for task in conversations:
        for before, now in pairwise(task):
            assert now.messages[: len(before.messages)] == before.messages
        assert {each.messages[0]["content"] for each in task} == {handbook(10)}


def test_compression_cuts_results_and_touches_nothing_else() -> None:
    whole, short = tasks(1, 15, 10, cut=False)[0], tasks(1, 15, 10, cut=True)[0]
    for before, after in zip(whole[-1].messages, short[-1].messages, strict=True):
        if before["role"] == "tool":
            assert len(after["content"]) <= SHOWN_BYTES < len(before["content"])
        else:
            assert before == after


def test_more_tasks_than_there_are_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 tasks of 15 turns: there are 30 questions"):
        tasks(3, 15, 10, cut=False)


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("message", "right"),
    [
        (call("set_timer", '{"minutes": 12}'), True),
        (call("set_timer", '{"minutes": 30}'), False),
        (call("get_weather", '{"minutes": 12}'), False),
        ({"content": "I set it."}, False),
        ({}, False),
    ],
)
def test_an_answer_is_right_by_its_tool_and_its_arguments(
    message: dict[str, Any], *, right: bool
) -> None:
    timer = Asked((), Question("Set a timer for 12 minutes.", "set_timer", {"minutes": "12"}))
    assert timer.right(message) is right


def test_where_no_tool_helps_words_are_right_and_calls_are_not() -> None:
    hello = Asked((), Question("Hello!", None))
    assert hello.right({"content": "Hello!"})
    assert not hello.right({"content": ""})
    assert not hello.right(call("get_weather", "{}"))


def record(model: str, prompt: int | None, **fields: Any) -> TurnRecord:
    return TurnRecord("", "r", "/", 200, model=model, prompt_tokens=prompt, **fields)


def test_a_turn_that_was_asked_again_is_two_steps() -> None:
    log = [
        record("tuned", 900, cached_tokens=640, output_tokens=20, total_s=0.5),
        record("frontier", 900, cached_tokens=0, output_tokens=25, total_s=2.0),
    ]
    small, frontier = taken(3, "7", log, {})
    assert (small.tier, small.fresh, small.cached) == ("small", 260, 640)
    assert (frontier.tier, frontier.fresh) == ("frontier", 900)
    assert frontier.seconds == frontier.clock_s == 2.0


def test_an_engines_busy_seconds_are_shared_by_its_tries_as_the_clock_has_them() -> None:
    log = [
        record("small", 900, total_s=3.0),
        record("small", 900, total_s=1.0),
        record("frontier", 900, total_s=2.0),
    ]
    steps = taken(0, "0", log, {"small": 0.8, "frontier": 1.5})
    assert [step.seconds for step in steps] == pytest.approx([0.6, 0.2, 1.5])
    assert [step.clock_s for step in steps] == [3.0, 1.0, 2.0]


def test_an_engine_that_no_process_of_ours_serves_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="no process of ours listens there"):
        Busy("http://127.0.0.1:1")


def test_what_a_processor_worked_counts_as_busy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = Busy(f"http://127.0.0.1:{server.getsockname()[1]}")
        before, until = busy.seconds(), time.process_time() + 0.05
        while time.process_time() < until:
            pass
        assert busy.seconds() - before >= 0.03


def test_a_turn_that_reached_no_engine_is_no_result() -> None:
    with pytest.raises(RuntimeError, match="task 3, turn 7: no engine answered"):
        taken(3, "7", [record("frontier", None)], {})


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted("gpu", 2, 15), "give --adapter FOLDER"),
        (Wanted("cpu", 2, 15, adapter=Path("nowhere")), "has no adapter_config.json"),
        (Wanted("cpu", 4, 15), "take fewer"),
        (Wanted("cpu", 1, 15), "take 2 at least"),
    ],
)
def test_what_cannot_be_played_is_refused_before_an_engine_starts(
    wanted: Wanted, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        cost_live.run(wanted, Console())
