"""The tools of the agents' benchmark: confined to their folder, and never more than functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import agents_folder, agents_tools
from benchmarks.agents_folder import Folder
from benchmarks.agents_tasks import held
from benchmarks.agents_tools import Told, call, definitions
from serving import schemas


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder with neighbours that must stay unseen."""
    root = tmp_path / "inside"
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "a.txt").write_text("apple\nbanana\n")
    (root / "stock.csv").write_text("item,count\nbell,3\nBell,4\npump,x\n")
    (root / "site.json").write_text('{"a": {"b": [10, {"c": "deep"}]}}')
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "inside-too").mkdir()
    (tmp_path / "inside-too" / "b.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "linked").symlink_to(tmp_path / "inside-too")
    return root


PATHS = [
    "../secret.txt",
    "notes/../../secret.txt",
    "notes/../stock.csv",
    "/etc/passwd",
    "//etc/passwd",
    "link.txt",
    "linked/b.txt",
    "linked/new.txt",
    "..",
    "~/x/../../../secret.txt",
    "..\\secret.txt",
    "a\x00b",
    "a\nb",
    "",
    "x/" * 40 + "y",
    "a/b/c/d/e/f/g.txt",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_tool_reads_or_writes_outside_of_the_folder(path: str, inside: Path) -> None:
    around = {p: p.read_bytes() for p in inside.parent.rglob("*") if p.is_file()}
    folder = Folder(inside)
    calls: list[tuple[str, Mapping[str, str]]] = [
        ("read_file", {"path": path}),
        ("write_file", {"path": path, "text": "x"}),
        ("replace_text", {"path": path, "old": "secret", "new": "x"}),
        ("copy_file", {"path": path, "to": "copy.txt"}),
        ("copy_file", {"path": "notes/a.txt", "to": path}),
        ("move_file", {"path": path, "to": "moved.txt"}),
        ("move_file", {"path": "notes/a.txt", "to": path}),
        ("delete_file", {"path": path}),
        ("csv_rows", {"path": path, "column": "item", "value": "bell"}),
        ("csv_stats", {"path": path, "column": "item", "where": "", "value": ""}),
        ("json_get", {"path": path, "key": ""}),
    ]
    for name, arguments in calls:
        told = call(folder, name, arguments)
        assert told.refused, (name, told)
        assert "secret\n" not in told.text
    if path:
        assert call(folder, "list_files", {"folder": path}).refused
    assert {p: p.read_bytes() for p in inside.parent.rglob("*") if p.is_file()} == around


def test_searching_and_listing_do_not_follow_links(inside: Path) -> None:
    folder = Folder(inside)
    assert call(folder, "search", {"text": "secret"}).text == "no line holds that text"
    listed = call(folder, "list_files", {"folder": "."}).text.splitlines()
    assert listed == ["notes/a.txt", "site.json", "stock.csv"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from([each["name"] for each in definitions()]),
    texts=st.lists(
        st.text(max_size=30) | st.sampled_from([".", "notes/a.txt", "stock.csv", "item", *PATHS]),
        min_size=4,
        max_size=4,
    ),
)
def test_whatever_is_written_a_call_is_answered_and_nothing_outside_changes(
    name: str, texts: list[str], inside: Path
) -> None:
    parameters = next(d for d in definitions() if d["name"] == name)["parameters"]["required"]
    told = call(Folder(inside), name, dict(zip(parameters, texts, strict=False)))
    assert told.text
    assert (inside.parent / "secret.txt").read_text() == "secret"
    assert {p.name for p in inside.parent.iterdir()} == {"inside", "inside-too", "secret.txt"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("run", {}),
        ("__init__", {}),
        ("read_file", {}),
        ("read_file", {"path": 3}),
        ("read_file", {"path": "notes/a.txt", "mode": "w"}),
        ("read_file", {"path": ["notes/a.txt"]}),
    ],
)
def test_a_call_that_no_tool_has_is_refused_in_words(
    name: str, arguments: Mapping[str, object], inside: Path
) -> None:
    told = call(Folder(inside), name, arguments)
    assert told.refused
    assert told.text.startswith("error: ")


@pytest.mark.parametrize("expression", ["__import__('os').getcwd()", "9 ** 9 ** 9", "1 / 0", "x"])
def test_the_calculator_computes_and_executes_nothing(expression: str, inside: Path) -> None:
    assert call(Folder(inside), "calculate", {"expression": expression}).refused
    assert call(Folder(inside), "calculate", {"expression": "2 * (3 + 4.5)"}) == Told("15")


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("csv_rows", ("stock.csv", "item", "BELL"), "item: bell, count: 3\nitem: Bell, count: 4"),
        ("csv_rows", ("stock.csv", "item", "sofa"), "no row; item is one of: bell, Bell, pump"),
        ("csv_stats", ("stock.csv", "count", "item", "bell"), "rows: 2, sum: 7, smallest: 3"),
        ("csv_stats", ("stock.csv", "count", "", ""), "rows: 3, sum: 7"),
        ("json_get", ("site.json", "a.b[1].c"), "deep"),
        ("json_get", ("site.json", "a.b[0]"), "10"),
        ("json_get", ("site.json", "a.x"), "error: key: there is no 'x'; there is keys: b"),
        ("json_get", ("notes/a.txt", ""), "error: path: 'notes/a.txt' is no JSON file"),
        ("csv_rows", ("stock.csv", "price", "1"), "error: column: no column 'price'"),
        ("read_file", ("notes/b.txt",), "error: path: there is no file 'notes/b.txt'"),
        ("read_file", ("notes",), "error: path: 'notes' is a folder"),
        ("replace_text", ("notes/a.txt", "an", "x"), "error: old: 'notes/a.txt' holds that text 2"),
        ("replace_text", ("notes/a.txt", "cherry", "x"), "error: old: 'notes/a.txt' does not hold"),
        ("copy_file", ("notes/a.txt", "stock.csv"), "error: to: 'stock.csv' is there already"),
        ("write_file", ("notes", "x"), "error: path: 'notes' is a folder"),
        ("write_file", ("stock.csv/x", "x"), "error: path: 'stock.csv' is a file, not a folder"),
    ],
)
def test_tools_say_what_they_found_or_what_is_wrong(
    name: str, arguments: tuple[str, ...], said: str, inside: Path
) -> None:
    parameters = next(d for d in definitions() if d["name"] == name)["parameters"]["required"]
    before = held(inside)
    told = call(Folder(inside), name, dict(zip(parameters, arguments, strict=True)))
    assert told.text.startswith(said)
    assert told.refused is said.startswith("error: ")
    assert held(inside) == before


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("csv_rows", "a,b\r1,2\n", ("a", "1")),
        ("csv_stats", "a\n9e999999\n9e999999\n", ("a", "", "")),
        ("csv_stats", "a\nsNaN\nInfinity\n", ("a", "", "")),
        ("csv_stats", "a,a\n1,2,3,4\n", ("a", "", "")),
        ("csv_rows", "\n\n", ("a", "1")),
        ("csv_rows", "\x00,a\n1\n", ("a", "")),
        ("json_get", "[1]", ("\u00b2",)),
        ("json_get", "[1]", ("9" * 5000,)),
        ("json_get", "[" * 100_000, ("0",)),
        ("json_get", "1" * 5000, ("",)),
        ("search", "\ufeff\x85", ("\u0130",)),
    ],
)
def test_odd_files_and_arguments_are_answered_in_words(
    name: str, text: str, arguments: tuple[str, ...], inside: Path
) -> None:
    (inside / "odd.csv").write_text(text)
    sent = arguments if name == "search" else ("odd.csv", *arguments)
    parameters = next(d for d in definitions() if d["name"] == name)["parameters"]["required"]
    assert call(Folder(inside), name, dict(zip(parameters, sent, strict=True))).text


def test_files_are_written_changed_moved_and_deleted(inside: Path) -> None:
    folder = Folder(inside)
    for name, *arguments in (
        ("write_file", "new/b.txt", "one\ntwo\n"),
        ("replace_text", "new/b.txt", "two", "2"),
        ("copy_file", "new/b.txt", "c.txt"),
        ("move_file", "c.txt", "deep/er/c.txt"),
        ("delete_file", "new/b.txt"),
    ):
        parameters = next(d for d in definitions() if d["name"] == name)["parameters"]["required"]
        told = call(folder, name, dict(zip(parameters, arguments, strict=True)))
        assert not told.refused, told
    assert (inside / "deep" / "er" / "c.txt").read_text() == "one\n2\n"
    assert "new/b.txt" not in held(inside)
    assert "c.txt" not in held(inside)


def test_sizes_and_counts_are_bounded(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(inside)
    big = "x" * agents_tools.MAX_TEXT
    assert call(folder, "write_file", {"path": "big.txt", "text": big + "x"}).refused
    assert not call(folder, "write_file", {"path": "big.txt", "text": big}).refused
    shown = call(folder, "read_file", {"path": "big.txt"}).text
    assert len(shown) < agents_tools.MAX_SHOWN + 100
    assert "(cut: 5000 more characters" in shown
    many = "apple\n" * 50
    call(folder, "write_file", {"path": "many.txt", "text": many})
    assert call(folder, "search", {"text": "apple"}).text.count("\n") == agents_tools.MAX_HITS
    monkeypatch.setattr(agents_folder, "MAX_FILES", len(held(inside)) - 2)  # but for the links
    assert call(folder, "write_file", {"path": "one-more.txt", "text": ""}).refused
    assert not call(folder, "write_file", {"path": "big.txt", "text": "again"}).refused


def test_each_schema_is_accepted_as_a_grammar_as_it_is() -> None:
    for each in definitions():
        found = schemas.register(each["parameters"])
        assert not found.unchecked, each["name"]
