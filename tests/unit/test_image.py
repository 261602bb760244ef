"""The image's recipe, as far as it can be checked unbuilt, and its two small programs."""

from __future__ import annotations

import fnmatch
import http.server
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cluster.run_file import ray_env
from serving.config.stack_file import load

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "docker" / "entrypoint"
HEALTH = ROOT / "docker" / "health.py"


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, in order: (name, arguments on one line)."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    split = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [(name.upper(), rest) for name, rest in split]


RECIPE = instructions((ROOT / "Dockerfile.cuda").read_text())


def all_of(name: str) -> list[str]:
    return [rest for found, rest in RECIPE if found == name]


def sent_to_the_build(path: str) -> bool:
    """Whether .dockerignore lets a path through; the last pattern that matches counts."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        takes_back = pattern.startswith("!")
        pattern = pattern.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        if any(fnmatch.fnmatch(part, pattern) for part in parts) or pattern == path:
            kept = takes_back
    return kept


def test_the_base_is_pinned_to_a_cuda_release_that_the_requirements_name() -> None:
    (base,) = [rest for rest in all_of("ARG") if rest.startswith("BASE=")]
    tag = re.fullmatch(r"BASE=nvidia/cuda:(\d+\.\d+\.\d+)-devel-ubuntu24\.04", base)
    assert tag is not None
    pinned = (ROOT / "requirements" / "engine-vllm-cuda.txt").read_text()
    assert f"\ncuda-toolkit=={tag.group(1)}.0\n" in pinned
    assert all_of("FROM") == ["${BASE}"]


def test_everything_that_is_copied_exists_and_reaches_the_build() -> None:
    sources = [source for rest in all_of("COPY") for source in rest.split()[:-1]]
    assert len(sources) > 8
    for source in sources:
        assert (ROOT / source).exists(), source
        assert sent_to_the_build(source), source


def test_nothing_else_reaches_the_build() -> None:
    copied = {Path(source).parts[0] for rest in all_of("COPY") for source in rest.split()[:-1]}
    sent = {path.name for path in ROOT.iterdir() if sent_to_the_build(path.name)}
    assert sent <= copied
    for path in (".git", ".venv", "tests", "model.safetensors", "examples/.env", "x.gguf"):
        assert not sent_to_the_build(path), path
    assert sent_to_the_build("examples/desk/agent.yaml")


def test_requirements_are_installed_before_any_source_is_copied() -> None:
    order = [(name, rest) for name, rest in RECIPE if name in ("COPY", "RUN")]
    installs = [i for i, (name, rest) in enumerate(order) if name == "RUN" and "-r req" in rest]
    source = order.index(("COPY", "serving serving"))
    assert len(installs) == 2
    assert max(installs) < source
    for i in installs:
        found = re.search(r"-r (requirements/\S+)", order[i][1])
        assert found is not None
        assert order[i - 1] == ("COPY", f"{found.group(1)} requirements/")
        assert "--no-deps" in order[i][1]


def test_it_does_not_run_as_root_and_owns_only_its_volume() -> None:
    assert all_of("USER") == ["10001:10001"]
    assert json.loads(all_of("VOLUME")[0]) == ["/var/lib/warmloop"]
    after = RECIPE[RECIPE.index(("USER", "10001:10001")) :]
    assert not {"RUN", "COPY", "ADD"} & {name for name, _ in after}
    assert "WARMLOOP_HOME=/var/lib/warmloop" in " ".join(all_of("ENV"))


def test_ray_is_told_the_same_as_on_one_machine() -> None:
    told = " ".join(all_of("ENV")).split()
    wanted = {name: v for name, v in ray_env("/none").items() if name.startswith("RAY_SERVE_")}
    assert len(wanted) >= 3
    for name, value in wanted.items():
        assert f"{name}={value}" in told


def test_no_secret_and_no_weights_are_in_it() -> None:
    assert all_of("ADD") == []
    for rest in (*all_of("ENV"), *all_of("ARG")):
        assert not re.search(r"token|password|secret|api_?key", rest, re.IGNORECASE), rest
    assert not any("hf download" in rest or "huggingface" in rest for rest in all_of("RUN"))


def test_the_default_command_starts_a_configuration_that_is_inside() -> None:
    command = json.loads(all_of("CMD")[0])
    assert command[:2] == ["up", "-c"]
    assert load(ROOT / command[2]).name == "single-gpu"
    assert json.loads(all_of("ENTRYPOINT")[0])[-1] == "/opt/warmloop/docker/entrypoint"
    assert "/opt/warmloop/docker/health.py" in all_of("HEALTHCHECK")[0]
    assert all_of("WORKDIR") == ["/opt/warmloop"]


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder with programs that only say how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("warmloop", "python", "ray", "nvidia-smi"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def entrypoint(stubs: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ENTRYPOINT), *args],
        env={"PATH": f"{stubs}:{os.environ['PATH']}", "TMPDIR": str(stubs), **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("args", "runs"),
    [
        ("up -c configs/single-gpu.yaml", "warmloop up -c configs/single-gpu.yaml"),
        ("front --config f.yaml", "python -m orchestrator.front --config f.yaml"),
        (
            "head --num-gpus=8",
            "ray start --head --block --port=6379 --num-cpus=0 --num-gpus=0 --num-gpus=8",
        ),
        ("worker --num-gpus=4", "ray start --address=h:6379 --block --num-cpus=0 --num-gpus=4"),
        ("nvidia-smi -L", "nvidia-smi -L"),
    ],
)
def test_the_command_chooses_the_role(args: str, runs: str, stubs: Path) -> None:
    done = entrypoint(stubs, *args.split(), WARMLOOP_RAY_ADDRESS="h:6379")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == runs
    assert (stubs / "warmloop-role").read_text().strip() == args.split(maxsplit=1)[0]


def test_a_worker_without_a_head_says_what_is_missing(stubs: Path) -> None:
    done = entrypoint(stubs, "worker")
    assert done.returncode == 2
    assert "worker needs WARMLOOP_RAY_ADDRESS, e.g. 10.0.0.5:6379" in done.stderr


@pytest.fixture
def front_door() -> Iterator[int]:
    """A server that says it is well; its port."""

    class Well(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Well) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def health(folder: Path, role: str, port: int) -> int:
    (folder / "warmloop-role").write_text(f"{role}\n")
    env = {**os.environ, "TMPDIR": str(folder), "WARMLOOP_PORT": str(port)}
    return subprocess.run([sys.executable, str(HEALTH)], env=env, check=False).returncode


def test_the_health_check_asks_the_front_door_of_this_role(tmp_path: Path, front_door: int) -> None:
    assert health(tmp_path, "up", front_door) == 0
    assert health(tmp_path, "front", front_door) == 0
    assert health(tmp_path, "front", 1) == 1
    assert health(tmp_path, "nvidia-smi", 1) == 0


def test_the_health_check_of_a_ray_node_asks_ray() -> None:
    spec = importlib.util.spec_from_file_location("health", HEALTH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for role in ("head", "worker"):
        assert module.url(role) == "http://127.0.0.1:52365/api/healthz"
