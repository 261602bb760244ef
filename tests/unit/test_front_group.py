"""Front doors in a cluster: what is refused before Ray is asked, and where they are looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import deploy, front_group
from serving.config.stack import StackConfig
from serving.errors import ConfigError

ROOT = Path(__file__).parents[2]


def stack(**front: Any) -> StackConfig:
    return StackConfig.model_validate({"models": {"m": {"engine": "simulated"}}, "front": front})


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8400/health"),
        ("0.0.0.0", "http://127.0.0.1:8400/health"),
        ("::", "http://[::1]:8400/health"),
        ("10.0.0.7", "http://10.0.0.7:8400/health"),
    ],
)
def test_a_front_door_is_asked_at_an_address_of_its_own_node(host: str, url: str) -> None:
    assert front_group.health_url(stack(host=host)) == url


def test_in_a_cluster_a_front_door_needs_a_port_that_others_know() -> None:
    with pytest.raises(ConfigError, match=r"front.port: 0 cannot be found by others"):
        front_group.health_url(stack(port=0))


def test_a_model_may_not_have_the_front_doors_name(tmp_path: Path) -> None:
    config = tmp_path / "stack.yaml"
    config.write_text("models: {front: {engine: simulated}}\n")
    with pytest.raises(ConfigError, match=r"models.front: the front doors have this name"):
        deploy.deploy(config, "auto", 1)


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "stack.yaml"
    config.write_text("models: {m: {engine: simulated}}\n")
    line = [sys.executable, "-m", "orchestrator.deploy", "--config", str(config)]
    done = subprocess.run(
        [*line, "--address", "nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "warmloop: --address: no Ray at 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr
