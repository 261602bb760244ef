"""Which logs of a model's engines are kept, found and shown."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.commands import engine_logs as view
from serving.cluster import engine_logs
from serving.config.model import EngineLogsConfig
from serving.engines.guardian import BoundedLog
from serving.errors import ConfigError


def written(folder: Path, name: str, age_s: float, text: str = "words\n") -> Path:
    path = folder / name
    path.write_text(text)
    now = 1_700_000_000 - age_s
    os.utime(path, (now, now))
    return path


@contextmanager
def living(path: Path) -> Iterator[BoundedLog]:
    log = BoundedLog(path)
    try:
        yield log
    finally:
        log.close()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_only_this_models_logs_are_found_the_living_last(tmp_path: Path) -> None:
    written(tmp_path, "small-00000002.log", 10)
    written(tmp_path, "small-00000001.log", 99)
    old = written(tmp_path, "small-00000003.log", 500)
    for other in ("small-x-00000001.log", "front.log", "small-1.log", "small-00000001.log.1"):
        written(tmp_path, other, 1)
    with living(old):
        found = engine_logs.find(tmp_path, "small")
    assert [(log.replica[-1], log.living) for log in found] == [
        ("1", False),
        ("2", False),
        ("3", True),
    ]
    assert found[0].size_bytes == 12, "its predecessor included"


def test_the_oldest_of_the_dead_go_first_and_the_living_never(tmp_path: Path) -> None:
    paths = [written(tmp_path, f"small-0000000{n}.log", 100 - n) for n in range(8)]
    written(tmp_path, "small-00000001.log.1", 99)
    with living(paths[0]):
        engine_logs.prune(tmp_path, "small", EngineLogsConfig(keep=4))
    left = ["small-00000000.log", "small-00000006.log", "small-00000007.log"]
    assert names(tmp_path) == left, "with room for one more"
    with living(tmp_path / left[0]), living(tmp_path / left[1]), living(tmp_path / left[2]):
        engine_logs.prune(tmp_path, "small", EngineLogsConfig(keep=1))
    assert names(tmp_path) == left


def test_bytes_are_bounded_as_files_are(tmp_path: Path) -> None:
    for n in range(4):
        written(tmp_path, f"small-0000000{n}.log", 100 - n, "x" * 2**19)
    engine_logs.prune(tmp_path, "small", EngineLogsConfig(keep=100, keep_mib=1))
    assert names(tmp_path) == ["small-00000002.log", "small-00000003.log"]


def test_a_log_that_was_full_and_begun_anew_still_counts_as_living(tmp_path: Path) -> None:
    path = tmp_path / "small-00000001.log"
    log = BoundedLog(path, limit=10)
    log.write(b"12345678\n")
    log.write(b"more\n")
    assert engine_logs.find(tmp_path, "small")[0].living
    log.close()
    assert not engine_logs.find(tmp_path, "small")[0].living
    with path.open() as file:  # and nothing is left of the look itself
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def shown(tmp_path: Path, lines: int) -> list[str]:
    out = io.StringIO()
    view.show(Console(file=out, width=200), tmp_path, "small", lines)
    return out.getvalue().splitlines()


def test_the_living_and_the_last_dead_are_shown_with_their_names(tmp_path: Path) -> None:
    written(tmp_path, "small-00000001.log", 300, "long ago\n")
    written(tmp_path, "small-00000002.log", 200, "one\n\x1b[36mtwo\x1b[0m\nlast [words]\n")
    with living(written(tmp_path, "small-00000003.log", 100, "hello\n")):
        lines = shown(tmp_path, 2)
    assert [line[:22] for line in lines[:3]] == [
        "  small-00000001  ende",
        "▶ small-00000002  ende",
        "▶ small-00000003  runn",
    ]
    assert lines[0].endswith(str(tmp_path / "small-00000001.log"))
    assert [line for line in lines[3:] if line] == [
        "small-00000002 | two",
        "small-00000002 | last [words]",
        "small-00000003 | hello",
    ]


def test_a_single_log_needs_no_names_and_its_predecessor_helps_out(tmp_path: Path) -> None:
    written(tmp_path, "small-00000001.log", 1, "c\n")
    written(tmp_path, "small-00000001.log.1", 2, "a\nb\n")
    assert shown(tmp_path, 2)[-2:] == ["b", "c"]


def test_a_model_without_a_log_is_said_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no engine of it has a log in {tmp_path}"):
        shown(tmp_path, 5)


def test_following_shows_new_lines_new_engines_and_survives_a_full_log(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "small-00000001.log", limit=24)
    log.write(b"before\n")
    later = iter(
        [
            lambda: log.write(b"first\nhal"),
            lambda: log.write(b"f\n"),
            lambda: log.write(b"a longer line\n"),
            lambda: written(tmp_path, "small-00000002.log", 0, "another\n"),
            lambda: log.write(b"last\n"),
            lambda: None,
        ]
    )
    going = [True]

    def sleep(_: float) -> None:
        step = next(later, None)
        if step is None:
            going[0] = False
        else:
            step()

    out = io.StringIO()
    view.follow(
        Console(file=out, width=200), tmp_path, "small", goes_on=lambda: going[0], sleep=sleep
    )
    log.close()
    said = [line for line in out.getvalue().splitlines() if " | " in line]
    assert said == [
        "small-00000001 | first",
        "small-00000001 | half",
        "small-00000001 | a longer line",
        "small-00000002 | another",
        "small-00000001 | last",
    ]
