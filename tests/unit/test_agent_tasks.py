"""The tasks of the agents' benchmark: each check takes what is right and refuses what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.agents_tasks import HOME, Answer, Task, held, judge, last_line, load, play
from benchmarks.agents_tools import call
from serving.errors import ConfigError

ASKED, EXAMPLES = load()
ALL = [*ASKED, *EXAMPLES]
LOOKS_AGAIN = "example-look-again"
each_task = pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)


def test_there_are_enough_tasks_of_each_kind() -> None:
    assert len(ASKED) >= 30
    kinds = [task.kind for task in ASKED]
    assert {kind: kinds.count(kind) >= 5 for kind in kinds} == dict.fromkeys(
        ("compute", "edit", "files", "look_up", "several"), True
    )
    assert all(len(task.wrong) >= 2 for task in ASKED)


def test_what_is_shown_solved_is_not_asked() -> None:
    assert EXAMPLES
    assert not {task.ask for task in EXAMPLES} & {task.ask for task in ASKED}


@each_task
def test_the_reference_solution_is_accepted_and_no_tool_refuses_a_step(
    task: Task, tmp_path: Path
) -> None:
    done, answer = play(task.furnish(tmp_path), task.solution)
    refused = [told.text for _, _, told in done if told.refused]
    assert len(refused) == (task.name == LOOKS_AGAIN)
    assert judge(task, tmp_path, answer).wrong == ""


def test_an_example_shows_that_a_refusal_is_no_answer(tmp_path: Path) -> None:
    (task,) = (each for each in EXAMPLES if each.name == LOOKS_AGAIN)
    done, _ = play(task.furnish(tmp_path), task.solution)
    assert done[0][2].refused
    assert not done[-1][2].refused


@pytest.mark.parametrize(
    ("task", "number"),
    [(task, number) for task in ASKED for number in range(len(task.wrong))],
    ids=lambda each: each.name if isinstance(each, Task) else str(each),
)
def test_every_wrong_solution_is_refused(task: Task, number: int, tmp_path: Path) -> None:
    done, answer = play(task.furnish(tmp_path), task.wrong[number])
    assert [told.text for _, _, told in done if told.refused] == []  # wrong, but possible
    verdict = judge(task, tmp_path, answer)
    assert verdict.wrong in ("wrong answer", "wrong files")
    assert verdict.why


@each_task
@pytest.mark.parametrize("said", ["", "done", "I do not know."])
def test_doing_nothing_solves_no_task(task: Task, said: str, tmp_path: Path) -> None:
    task.furnish(tmp_path)
    assert judge(task, tmp_path, said).wrong


@each_task
def test_a_right_result_beside_a_stray_change_is_refused(task: Task, tmp_path: Path) -> None:
    folder = task.furnish(tmp_path)
    _, answer = play(folder, task.solution)
    call(folder, "write_file", {"path": "stray.txt", "text": "oops"})
    assert judge(task, tmp_path, answer).wrong == "wrong files"
    call(folder, "delete_file", {"path": "stray.txt"})
    assert not judge(task, tmp_path, answer).wrong
    untouched = next(path for path in sorted(held(tmp_path)) if path not in task.files)
    (tmp_path / untouched).write_bytes((tmp_path / untouched).read_bytes() + b" ")
    assert judge(task, tmp_path, answer).why == f"{untouched} should not have been written"
    (tmp_path / untouched).unlink()
    assert judge(task, tmp_path, answer).why == f"{untouched} is gone"


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("1,804.00 EUR", True),
        ("€1804", True),
        ("41 locks at 44 are 1804.", False),  # 44 is no number of the question
        ("The 41 locks are worth 1804 EUR.", True),
        ("1804.01", False),
        ("11804", False),
        ("-1804", False),
        ("BEL-1804", False),
        ("", False),
    ],
)
def test_a_number_is_named_alone_however_it_is_written(
    line: str, right: bool, tmp_path: Path
) -> None:
    task = _task(answer={"number": "1804"}, ask="What are the 41 locks worth?")
    task.furnish(tmp_path)
    assert (not judge(task, tmp_path, line).wrong) is right


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("it is ghent.", True),
        ("Ghent, not Aachen", False),
        ("Ghentbrugge", False),
        ("Aachen\nGhent", True),
        ("Ghent\nso Aachen", False),
    ],
)
def test_of_several_names_only_the_right_one_may_stand_in_the_last_line(
    line: str, right: bool, tmp_path: Path
) -> None:
    task = _task(answer={"names": ["Ghent"], "of": ["Ghent", "Aachen"]})
    task.furnish(tmp_path)
    assert (not judge(task, tmp_path, line).wrong) is right


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        ({"text": "a\nb"}, ["a\nb", "a  \nb\n\n"], ["a b", "a\n\nb", " ab", ""]),
        ({"json": {"n": 1}}, ['{"n": 1}', '{ "n": 1.0 }'], ['{"n": true}', '{"n": "1"}', "{", ""]),
        (
            {"rows": [["a", "1.5"]]},
            ["a,1.50", '"a", 1.5\n'],
            ["a,1.5\nb,2", "a", "1.5,a", "", "a,sNaN", "a,\r1.5"],
        ),
    ],
)
def test_a_file_may_be_written_in_other_ways_but_hold_nothing_else(
    wanted: object, right: list[str], wrong: list[str], tmp_path: Path
) -> None:
    task = _task(files={"made.txt": wanted})
    task.furnish(tmp_path)
    for text, good in [(each, True) for each in right] + [(each, False) for each in wrong]:
        (tmp_path / "made.txt").write_text(text)
        assert (not judge(task, tmp_path, "done").wrong) is good, text


def test_a_fingerprint_changes_with_what_is_asked_and_accepted_and_not_with_the_solution() -> None:
    task = ASKED[0]
    same = task.model_copy(update={"solution": (), "wrong": ()})
    other = task.model_copy(update={"answer": Answer(number=1)})
    elsewhere = task.model_copy(update={"world": "lab"})
    assert same.fingerprint() == task.fingerprint()
    assert len({t.fingerprint() for t in (task, other, elsewhere)}) == 3


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: a, world: shop, ask: x, solution: []}", "a: .*neither answer nor files"),
        ("{name: a, world: shop, ask: x, solution: [], answr: {}}", "a: answr"),
        ("{name: a, world: shop, ask: x, solution: [], answer: {names: [b]}}", "a: answer.*of:"),
        ("{name: a, world: s, ask: x, solution: [], files: {p: {text: a, json: 1}}}", "a: files.p"),
    ],
)
def test_a_mistake_in_a_task_is_said_with_its_file_and_its_name(
    entry: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "look_up.yaml").write_text(f"- {entry}\n")
    with pytest.raises(ConfigError, match=f"look_up.yaml: {said}"):
        load(tmp_path)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    entry = "- {name: a, world: shop, ask: x, solution: [], answer: {number: 1}}\n"
    (tmp_path / "look_up.yaml").write_text(entry * 2)
    with pytest.raises(ConfigError, match="two tasks are called 'a'"):
        load(tmp_path)


def test_worlds_hold_no_links_and_only_text() -> None:
    for path in (HOME / "worlds").rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            path.read_text(encoding="utf-8")


def test_the_last_line_is_the_last_that_says_something() -> None:
    assert last_line("a\n b \n\n  \n") == "b"
    assert last_line(" \n") == ""


def _task(ask: str = "Which?", **checks: object) -> Task:
    return Task.model_validate(
        {"name": "t", "kind": "k", "world": "lab", "ask": ask, "solution": [], **checks}
    )
