"""The page of all runs: what it says first, what is missing or old; no file can spoil it."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.report_list import ENTRIES
from benchmarks.report_read import age, read
from orchestrator.commands import bench
from serving.errors import ConfigError
from tests.unit.report_runs import Seen, cost_figures, envelope, latency_figures, page, write

HOSTILE = "<script>alert('$x$')</script><img src=x onerror=\"y\">"


@pytest.fixture
def both(tmp_path: Path) -> Path:
    write(tmp_path, "cost.json", envelope("cost", cost_figures()))
    write(tmp_path, "latency.json", envelope("latency", latency_figures()))
    return tmp_path


def test_the_first_lines_say_what_a_task_costs_why_and_what_to_change(both: Path) -> None:
    text = Seen(page(both)).text
    head = text[: text.index("under which prices")]
    assert (
        "A thousand tasks cost 2.00 USD on your own machine instead of 20.00 USD: 10 times less"
        in head
    )
    assert "a card at 2.00 USD an hour" in head
    assert "15 turns" in head
    assert "prefix cache \N{MINUS SIGN}75%, routing \N{MINUS SIGN}60%" in head
    assert "28 of 30 answers are right (97%); naively 29" in head
    assert "Measured: real engines ran every call" in head
    assert (
        "Of a warm turn of 1 s: 75% it writes the answer, 20% the engine reads the prompt" in head
    )
    assert "60% of what is left is for prompt tokens that are computed anew" in head


def test_the_same_runs_make_the_same_page(both: Path) -> None:
    assert page(both) == page(both)


def test_the_page_needs_no_network_and_no_script(both: Path) -> None:
    html = page(both)
    seen = Seen(html)
    assert "svg" in seen.tags
    assert not {"script", "link", "img", "iframe", "object", "embed", "image"} & {*seen.tags}
    assert not [name for name, _ in seen.attributes if name == "src" or name.startswith("on")]
    assert "@import" not in html
    assert "url(http" not in html
    links = [value for name, value in seen.attributes if name.endswith("href")]
    assert all(value and value.startswith("#") for value in links)
    assert {value.removeprefix("#") for value in links if value} <= {*seen.ids}
    assert len(seen.ids) == len({*seen.ids})


def test_each_figure_has_its_command_commit_machine_and_day(both: Path) -> None:
    text = Seen(page(both)).text
    for name in ("cost", "latency"):
        assert (
            f"python -m benchmarks.{name} · 2026-11-20 10:00 UTC, 12.5 s · commit c0ffeec0ff"
            in text
        )
    assert "2 cores of A processor, 24 GiB" in text


def test_what_was_not_run_is_named_with_the_command_that_makes_it(both: Path) -> None:
    absent = page(both).partition("Not run")[2]
    present = {"cost", "latency"}
    for entry in ENTRIES:
        assert (f"<code>{entry.command}</code>" in absent) == (entry.name not in present)


def test_each_benchmark_that_measures_something_is_in_the_list() -> None:
    measured = {*bench.found(bench.folder())} - {"report"}
    assert measured == {entry.benchmark for entry in ENTRIES}


def test_without_cost_and_latency_the_page_says_what_to_run(tmp_path: Path) -> None:
    write(tmp_path, "guard.json", envelope("guard", {"warm": 0.1}, bars=[]))
    text = Seen(page(tmp_path)).text
    assert "What a task costs has not been measured. warmloop bench cost makes it." in text
    assert "Nothing was measured that a rule goes by." in text
    assert "No run here has a bar." in text


def test_without_a_run_on_engines_the_one_by_a_trace_counts_and_that_is_said(
    tmp_path: Path,
) -> None:
    figures = cost_figures(machine={"name": "x", "usd_per_hour": 1.0, "measured": False})
    found = envelope("cost", figures, configuration={"offline": True})
    write(tmp_path, "cost.json", found)
    text = Seen(page(tmp_path)).text
    assert "No engine ran: the machine's speed, and how often models are right, are assumed" in text
    assert "Run warmloop bench cost on the machine that you would pay for" in text


@pytest.mark.parametrize("place", ["processor", "command", "way", "list", "part", "bar", "case"])
def test_what_files_say_stays_text(tmp_path: Path, place: str) -> None:
    cost, latency = envelope("cost", cost_figures()), envelope("latency", latency_figures())
    other = envelope("other", {HOSTILE: {"value": HOSTILE}})
    if place == "processor":
        cost["machine"]["processor"] = HOSTILE
    elif place == "command":
        cost["command"] = HOSTILE
    elif place == "way":
        cost["figures"]["accounts"][0]["ways"][1]["name"] = HOSTILE
    elif place == "list":
        cost["figures"]["break_even"][0]["hosted"] = HOSTILE  # drawn by matplotlib
    elif place == "part":
        other["part"] = HOSTILE
    elif place == "bar":
        cost["bars"][1]["what"] = HOSTILE
    elif place == "case":
        latency["figures"]["cases"][0]["parts"] = {HOSTILE: {"p50": 1.0, "p99": 1.0}}
    for whole in (cost, latency, other):
        write(tmp_path, f"{whole['benchmark']}.json", whole)
    seen = Seen(page(tmp_path))
    assert not {"script", "img"} & {*seen.tags}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert HOSTILE in seen.text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w: w.pop("machine"), "machine: Field required"),
        (lambda w: w.update(format=2), "format: 2; this report reads 1"),
        (lambda w: w.pop("benchmark"), "names no benchmark"),
        (lambda w: w.update(began="yesterday"), "began: "),
        (lambda w: w.update(bars=[{}]), "bars.0.what: Field required"),
        (lambda w: w.update(figures=None), "figures: "),
        (lambda w: w["figures"].update(accounts=[]), "figures.accounts: "),
        (lambda w: w["figures"]["accounts"][0]["ways"][0].update(usd=-1), "ways.0.usd: "),
        (lambda w: w["figures"]["accounts"][0]["ways"][0].update(fresh="x"), "ways.0.fresh: "),
    ],
)
def test_an_odd_envelope_is_an_error_that_names_file_and_field(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    whole = copy.deepcopy(envelope("cost", cost_figures()))
    spoil(whole)
    path = write(tmp_path, "cost.json", whole)
    with pytest.raises(ConfigError) as raised:
        read([path])
    assert str(path) in str(raised.value)
    assert said in str(raised.value)
    assert said in read([tmp_path]).left_out[0]  # in a folder it is left out, and said


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"x"', "[" * 100_000])
def test_a_file_that_is_no_envelope_at_all_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json: is no "):
        read([path])


def test_of_two_runs_of_the_same_thing_the_newer_one_counts(tmp_path: Path) -> None:
    old = envelope("cost", cost_figures(), began="2026-11-19T10:00:00Z", command="the old one")
    write(tmp_path, "a.json", envelope("cost", cost_figures()))
    write(tmp_path, "b.json", old)
    results = read([tmp_path])
    assert [run.envelope.command for run in results.runs] == ["python -m benchmarks.cost"]
    [left_out] = results.left_out
    assert left_out.endswith(f"an older run of cost than {tmp_path / 'a.json'}")
    assert left_out in Seen(page(tmp_path)).text


def test_bars_that_were_missed_come_first(both: Path) -> None:
    text = Seen(page(both)).text
    held = text[text.index("2 of 4 reached.") :]
    places = [held.index(each) for each in ("missed", "reached", "not judged")]
    assert held.index("missed") < held.index("5reached")
    assert places[2] > places[0]


def test_a_busy_machine_is_said_where_its_figures_stand(tmp_path: Path) -> None:
    whole = envelope("latency", latency_figures())
    whole["machine"]["load_before"] = 7.5
    write(tmp_path, "latency.json", whole)
    text = Seen(page(tmp_path)).text
    assert "Others used the machine when it began (load 7.5 on 2 cores)" in text
    assert "Measured on a busy machine: measure again first." in text


def test_what_a_busy_machine_does_not_change_is_not_doubted(tmp_path: Path) -> None:
    whole = envelope("cost", cost_figures(), configuration={"offline": True})
    whole["machine"]["load_before"] = 7.5
    write(tmp_path, "cost.json", whole)
    text = Seen(page(tmp_path)).text
    assert "90% of the prompt tokens are found" in text
    assert "busy machine" not in text
    assert "Others used the machine" not in text


def test_figures_older_than_their_code_are_said_to_be(both: Path) -> None:
    html = report.whole(read([both]), {"cost": "Older than the code it measures: x."})
    text = Seen(html).text
    assert (
        text.count("Older than the code it measures: x.") == 2
    )  # at the head, and beside its tables


def test_how_old_a_figure_is_the_checkout_tells(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        argv = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    first = git("rev-parse", "HEAD")
    (tmp_path / "README").write_text("not code")
    git("add", ".")
    git("commit", "-q", "-m", "second")
    assert age(first, ["router"], tmp_path) == ""
    (tmp_path / "router" / "code.py").write_text("2")
    assert "uncommitted changes changed router" in age(first, ["router"], tmp_path)
    git("commit", "-q", "-am", "third")
    assert "since then 1 commit changed router" in age(first, ["router"], tmp_path)
    assert age(first, ["serving"], tmp_path) == ""
    assert "not in this checkout" in age("c0ffee" * 6 + "c0ff", ["router"], tmp_path)
    assert "outside a checkout" in age("", ["router"], tmp_path)


def test_figures_of_an_unknown_form_are_shown_as_they_are(tmp_path: Path) -> None:
    named = {"ours": {"p50_ms": 1.5, "said": "so"}, "theirs": {"p50_ms": None, "said": True}}
    write(tmp_path, "a.json", envelope("one", named))
    write(tmp_path, "b.json", envelope("two", {"deep": {"er": [1, {"x": 12345.6}]}}))
    write(tmp_path, "c.json", envelope("three", 7))
    text = Seen(page(tmp_path)).text
    for each in ("p50 ms", "ours", "1.50", "deep", "er", "x 12,346", "12,346", "7"):
        assert each in text


def test_records_of_a_list_are_named_by_their_words_and_drawn_where_that_is_asked(
    tmp_path: Path,
) -> None:
    rows = [
        {"scenario": "fits", "policy": "ours", "hits": 0.9, "mean_ttft_s": 1.0},
        {"scenario": "fits", "policy": "sticky", "hits": 0.45, "mean_ttft_s": 2.0},
    ]
    write(tmp_path, "routing.json", envelope("routing", {"rows": rows}))
    html = page(tmp_path)
    assert "<th>fits ours</th>" in html
    assert '<i class="ours" style="width:100.00%"></i>' in html
    assert '<i class="others" style="width:50.00%"></i>' in html


def test_the_command_writes_the_page_and_says_what_is_missing(
    both: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (both / "notes.json").write_text("[]")
    assert report.main([str(both), "--out", str(both / "made")]) == 0
    written = both / "made" / "report.html"
    assert written.read_text(encoding="utf-8").startswith("<!doctype html>")
    out, err = capsys.readouterr()
    assert f"{written}: 2 runs, {len(ENTRIES) - 2} missing" in out
    assert "left out: " in err
    assert "notes.json" in err


def test_without_any_run_the_command_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "warmloop bench cost --offline" in capsys.readouterr().err
    assert report.main([str(tmp_path / "absent.json"), "--out", str(tmp_path)]) == 2
    assert "absent.json: cannot be read: No such file" in capsys.readouterr().err
