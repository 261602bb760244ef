"""`warmloop bench`: every benchmark is found, and runs as `python -m benchmarks.NAME` would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.commands import bench
from serving.errors import ConfigError

ROOT = Path(__file__).parents[2]


def warmloop(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
    )


def test_each_benchmark_is_listed_with_a_line_and_no_part_of_one_is() -> None:
    found = bench.found(bench.folder())
    assert {"gateway", "orchestrator", "routing", "warmth", "grammar_cost", "tool_validity"} <= {
        *found
    }
    assert not {"gateway_engine", "kills_ledger", "orchestrator_step"} & {*found}
    assert found["gateway"] == "Our front door beside other routers"
    for name, about in found.items():
        assert 10 < len(about) < 100, name
        assert "`" not in about, name


def test_docs_name_each_of_them() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = text.partition("### benchmarks")[2]
    for name in bench.found(bench.folder()):
        assert f"| `{name}`" in listed, name


@pytest.mark.parametrize("asked", [(), ("--help",)])
def test_without_a_name_the_list_is_shown(asked: tuple[str, ...]) -> None:
    said = warmloop(*asked)
    assert said.returncode == 0, said.stderr
    assert "orchestrator" in said.stdout
    assert "Our agent loop beside others" in said.stdout


def test_a_misspelt_name_is_a_line_with_the_nearest_one() -> None:
    said = warmloop("gatway", "--rounds", "3")
    assert said.returncode == 2
    assert "'gatway' is no benchmark; did you mean 'gateway'?" in said.stderr
    assert "Traceback" not in said.stderr


def test_what_follows_the_name_is_the_benchmarks_own() -> None:
    said = warmloop("gateway", "--help")
    assert said.returncode == 0, said.stderr
    assert "usage: python -m benchmarks.gateway" in said.stdout
    wrong = warmloop("gateway", "nonsense", "--rounds", "1")
    assert wrong.returncode == 2
    assert "unknown: nonsense" in wrong.stderr


def test_a_folder_with_parts_and_helpers_has_one_benchmark(tmp_path: Path) -> None:
    runs = '"""About it: `python -m benchmarks.one [x]`."""\nif __name__ == "__main__":\n    pass\n'
    for name in ("one", "one_part", "one_part_more"):
        (tmp_path / f"{name}.py").write_text(runs)
    (tmp_path / "helper.py").write_text('"""Helps."""\n')
    assert bench.found(tmp_path) == {"one": "About it"}


def test_where_benchmarks_are_not_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="not installed"):
        bench.folder()
