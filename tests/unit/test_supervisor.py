"""The supervisor's run file, and what it says of a child that ended."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import psutil
import pytest

from orchestrator import supervisor
from orchestrator.supervisor import RunFile, Supervisor
from serving.config.stack import StackConfig
from serving.errors import ConfigError, EngineError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stack's folder."""
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    path = tmp_path / "stacks" / "mine"
    (path / "logs").mkdir(parents=True)
    return path


def held(folder: Path) -> Supervisor:
    models = {"m": {"engine": "external", "urls": ["http://127.0.0.1:9"]}}
    config = StackConfig.model_validate({"name": "mine", "models": models, "front": {"port": 0}})
    return Supervisor(config, folder / "stack.yaml", say=lambda _: None)


def noted(folder: Path, created: float) -> None:
    run = RunFile("mine", os.getpid(), "http://127.0.0.1:9", "stack.yaml", "ready", created)
    supervisor.run_file_path(folder).write_bytes(msgspec.json.encode(run))


def test_a_stack_runs_as_long_as_its_supervisor(folder: Path) -> None:
    noted(folder, psutil.Process().create_time())
    assert [run.name for run in supervisor.running()] == ["mine"]


def test_another_process_with_the_dead_supervisors_id_is_not_the_stack(folder: Path) -> None:
    # `warmloop down` would end it.
    noted(folder, psutil.Process().create_time() - 3600)
    assert supervisor.running() == []


def test_a_folder_that_cannot_be_made_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"stacks/mine cannot be written: .*WARMLOOP_HOME"):
        held(tmp_path).run(lambda _: None)


def test_a_childs_own_sentence_is_the_reason_and_its_status_the_kind(folder: Path) -> None:
    (folder / "logs" / "front.log").write_text(
        "noise\nwarmloop: agents.x.tools: 'a' is not a tool; write module:function\n"
    )
    bad_input = held(folder)._ended("the front door cannot start", "front", 2)
    assert isinstance(bad_input, ConfigError)
    assert str(bad_input) == "agents.x.tools: 'a' is not a tool; write module:function"
    assert isinstance(held(folder)._ended("the front door cannot start", "front", 1), EngineError)


def test_a_child_without_a_sentence_is_told_by_its_last_words_and_no_lines_of_json(
    folder: Path,
) -> None:
    (folder / "logs" / "cluster.log").write_text('{"event": "ready"}\nout of luck\n')
    said = str(held(folder)._ended("Ray ended unexpectedly", "cluster"))
    assert said.startswith("Ray ended unexpectedly\n    out of luck\n(whole log: ")
