"""What benchmarks share: figures that are the same each time, bars, reports that say of what."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.harness.bars import Bar
from benchmarks.harness.run import Run, code, conclude, out_folder
from benchmarks.harness.show import ours_in_colour, picture, table
from benchmarks.harness.stats import by_turns, interval, paired, percentile

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(NUMBERS, st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_and_no_more_than_that_share_lies_below(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value < found for value in values) <= share * len(values)


def test_of_no_values_the_percentile_is_not_a_number() -> None:
    assert math.isnan(percentile([], 0.5))


@settings(max_examples=25, deadline=None)  # 2,000 medians each
@given(NUMBERS)
def test_an_interval_holds_its_figure_and_is_the_same_each_time(values: list[float]) -> None:
    found = interval(values)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)
    assert found == interval(values)


def test_more_samples_make_a_narrower_interval() -> None:
    few, many = interval([1.0, 2.0, 3.0, 4.0, 5.0]), interval([1.0, 2.0, 3.0, 4.0, 5.0] * 40)
    assert many.high - many.low < few.high - few.low


def test_pairs_are_compared_one_by_one_so_that_drift_does_not_show() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = paired([1.5 * each for each in drift], drift)
    assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="longer"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="no values"):
        paired([], [])


def test_arms_take_turns_and_change_their_order() -> None:
    played = [*by_turns(3, ("a", "b", "c"))]
    assert [arm for _, arm in played] == [*"abc", *"cba", *"abc"]
    assert [number for number, _ in played] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("bar", "said"),
    [
        (Bar("x", 1.1, 1.1), "bar: x ≤ 1.1: 1.10 reached"),
        (Bar("x", 1.2, 1.1), "bar: x ≤ 1.1: 1.20 MISSED"),
        (Bar("x", 0.9, 0.9, at_most=False), "bar: x ≥ 0.9: 0.90 reached"),
        (Bar("x", 0.8, 0.9, at_most=False), "bar: x ≥ 0.9: 0.80 MISSED"),
        (Bar("x", math.nan, 0.9), "bar: x ≤ 0.9: nan MISSED"),
        (Bar("x", None, 0.9), "bar: x ≤ 0.9: not judged, the other is not installed"),
    ],
)
def test_a_bar_says_whether_it_is_reached(bar: Bar, said: str) -> None:
    assert str(bar) == said
    assert bar.missed == ("MISSED" in said)


@dataclass
class Figures:
    rate: float
    worst: float


def test_a_report_says_what_ran_where_and_how_and_is_plain_json(tmp_path: Path) -> None:
    run = Run("some", argparse.Namespace(rounds=3, out=tmp_path))
    run.write(tmp_path / "some.json", {"ours": Figures(2.5, math.nan)}, [Bar("x", 2.0, 1.0)])
    found = json.loads((tmp_path / "some.json").read_text())
    assert found["figures"] == {"ours": {"rate": 2.5, "worst": None}}
    assert found["configuration"] == {"rounds": 3, "out": str(tmp_path)}
    assert found["bars"] == [
        {"what": "x", "value": 2.0, "limit": 1.0, "at_most": True, "missed": True}
    ]
    assert found["benchmark"] == "some"
    assert found["command"]
    assert found["machine"]["cores"] > 0
    assert found["machine"]["memory_gib"] > 0


def test_the_code_is_named_by_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert (code(tmp_path).commit, code(tmp_path).changed) == ("", False)
    me = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "one"]):
        (tmp_path / "file").write_text("one")
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert len(code(tmp_path).commit) == 40
    assert not code(tmp_path).changed
    (tmp_path / "file").write_text("two")
    assert code(tmp_path).changed


def test_a_missed_bar_makes_the_exit_code_and_all_bars_are_shown(tmp_path: Path) -> None:
    console = Console(record=True, width=100, file=(tmp_path / "log").open("w"))
    assert conclude(console, [Bar("x", 1.0, 2.0)], tmp_path) == 0
    assert conclude(console, [Bar("x", 1.0, 2.0), Bar("y", 3.0, 2.0)], tmp_path) == 1
    assert conclude(console, [Bar("z", None, 2.0)], tmp_path) == 0
    said = console.export_text()
    console.file.close()
    assert "bar: y ≤ 2: 3.00 MISSED" in said
    assert str(tmp_path) in said.replace("\n", "")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures_are_drawn_without_a_screen(kind: str, tmp_path: Path) -> None:
    names = ["ours", "theirs"]
    with picture(tmp_path / f"a.{kind}", 1, 2, size=(4, 2), title="both") as panels:
        for panel in panels:
            panel.bar(names, [1, 2], color=ours_in_colour(names, "ours"))
    assert (tmp_path / f"a.{kind}").stat().st_size > 1000


def test_a_table_has_its_words_left_and_its_figures_right() -> None:
    made = table("t", ("name", "kind", "figure"), [("a", "b", "1")], left=2)
    assert [column.justify for column in made.columns] == ["left", "left", "right"]


def test_no_password_of_a_url_or_a_query_gets_into_a_report() -> None:
    url = "postgresql://me:s3cret@localhost/db?sslmode=off&password=s3cret"
    report = Run("x", argparse.Namespace(url=url)).report({"asked": [url], "at": "10:30 a@b"})
    assert "s3cret" not in json.dumps(report)
    assert report["figures"] == {
        "asked": ["postgresql://me:***@localhost/db?sslmode=off&password=***"],
        "at": "10:30 a@b",
    }


@pytest.mark.parametrize("beneath", ["", "deeper/still"])
def test_a_file_in_the_place_of_the_folder_of_reports_is_told_before_the_work(
    tmp_path: Path, beneath: str
) -> None:
    file = tmp_path / "there"
    file.touch()
    with pytest.raises(argparse.ArgumentTypeError, match="there' is a file; give a folder"):
        out_folder(str(file / beneath))
    assert out_folder(str(tmp_path / "new" / beneath)) == tmp_path / "new" / beneath
