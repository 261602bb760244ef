"""What the local cluster says of its engines, from snapshots of the directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serving.cluster.directory import failed
from serving.cluster.local_cluster import LocalCluster
from serving.cluster.run import Events, Progress
from serving.cluster.run_file import EVENTS, NAME
from serving.config.model import ModelConfig
from serving.errors import EngineError
from serving.tables.base import Engine

SMALL = Engine("small-1", "small", "http://127.0.0.1:1", "small", kind="simulated")
FRONTIER = Engine("frontier-1", "frontier", "http://127.0.0.1:2", "frontier", kind="simulated")


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    two = ModelConfig(engine="simulated", replicas=2)
    return Progress({"small": two, "frontier": ModelConfig(engine="simulated")}, Events(tmp_path))


def said(folder: Path) -> list[tuple[str, str | None]]:
    lines = (folder / EVENTS).read_text().splitlines()
    return [(e["event"], e.get("state")) for e in map(json.loads, lines)]


def test_it_is_ready_when_every_replica_of_every_model_is(
    progress: Progress, tmp_path: Path
) -> None:
    progress.take((SMALL, FRONTIER))
    assert ("ready", None) not in said(tmp_path)
    second = replace(SMALL, replica="small-2")
    progress.take((SMALL, FRONTIER, second))
    progress.take((SMALL, FRONTIER, second))
    assert said(tmp_path) == [("engine", "ready")] * 3 + [("ready", None)]


def test_a_first_start_that_fails_is_said_and_ends_it(progress: Progress, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="out of luck"):
        progress.take((failed(SMALL, "out of luck"),))
    assert said(tmp_path) == [("engine", "dead"), ("failed", None)]


def test_an_engine_that_dies_later_is_only_said(progress: Progress, tmp_path: Path) -> None:
    progress.take((FRONTIER,))
    progress.take((failed(FRONTIER, "killed"),))
    progress.take(())
    assert [state for _, state in said(tmp_path)] == ["ready", "dead", "gone"]


def test_the_owner_hears_each_event_once_and_only_whole_ones(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "stack.yaml", tmp_path)
    assert cluster.new_events() == []
    events = Events(tmp_path)
    events.say("starting", pid=1)
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"event": "rea')
    assert [event.kind for event in cluster.new_events()] == ["starting"]
    assert cluster.new_events() == []


def test_what_a_killed_run_left_is_forgotten_by_the_next(tmp_path: Path) -> None:
    # Its readers would try to reach a Ray that is gone.
    (tmp_path / NAME).write_text("{}")
    cluster = LocalCluster(tmp_path / "none.yaml", tmp_path)
    cluster.start()
    try:
        assert not (tmp_path / NAME).exists()
    finally:
        cluster.stop(0)
