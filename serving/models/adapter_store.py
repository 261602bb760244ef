"""Adapters as they were when they were accepted: copies that nothing changes any more.

    FOLDER/adapter_config.json, adapter_model.safetensors  ──▶  STORE/NAME-DIGEST/

Engines read an adapter's folder again and again: at a restart, and whenever its turn comes to be
resident once more. What they computed with it they keep under its name and folder. A trainer that
writes into the same folder anew would give replicas different weights, and old caches to new
weights (seen: all of a prompt's blocks hit after a reload). So engines get a copy whose folder's
name says what is in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from serving.config.model import ModelConfig
from serving.errors import AdapterError
from serving.models.adapters import CONFIG, WEIGHTS, base_of, check

DIGEST_CHARS = 16
YOUNG_S = 600.0
STORE = "adapters"
"""In the stack's folder; below it one store for each way in which adapters come."""


def configured(config: ModelConfig, weights: Path | None, store: Path) -> dict[str, Path]:
    """A model's adapters of the configuration, checked and copied: name → folder for engines.

    Raises AdapterError that begins with the field. `weights` is the base's folder, if it is known.
    """
    base = base_of(weights) if weights is not None else None
    kept = {}
    for name, folder in config.adapters.items():
        try:
            kept[name] = accept(name, folder, store, config.lora.max_rank, base)
        except AdapterError as error:
            raise AdapterError(f"adapters.{name}: {error}") from None
    return kept


def accept(
    name: str, folder: Path, store: Path, max_rank: int, base: Mapping[str, Any] | None
) -> Path:
    """Check the adapter in `folder` and copy it; returns the copy. Raises AdapterError. Blocks."""
    check(folder, max_rank=max_rank, base=base)
    kept = keep(name, folder, store)
    check(kept, max_rank=max_rank, base=base)  # what was copied is what was looked at
    return kept


def keep(name: str, folder: Path, store: Path) -> Path:
    """Copy the adapter in `folder` into `store`; returns the copy's folder, which may be there.

    Blocks for as long as reading it takes. Raises AdapterError when it cannot be read or written.
    """
    try:
        digest = _digest(folder)
        final = store / f"{name}-{digest}"
        if final.is_dir():
            os.utime(final)  # young again, for `sweep`
            return final
        store.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Of our own, so that a second process that does the same does not meet half of it.
        work = store / f".{name}-{digest}.{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / file, work / file)
        if _digest(work) != digest:
            shutil.rmtree(work, ignore_errors=True)
            raise AdapterError(f"{folder}: changed while it was read; try again when it is written")
        _settle(work, final)
    except OSError as error:
        at = error.filename or folder
        raise AdapterError(
            f"{at}: {error.strerror}; check the rights of {folder} and the space in {store}"
        ) from None
    return final


def _settle(work: Path, final: Path) -> None:
    try:
        work.rename(final)
    except OSError:  # another process was faster
        shutil.rmtree(work, ignore_errors=True)
        if not final.is_dir():
            raise


def sweep(store: Path, needed: Collection[Path], older_than_s: float = YOUNG_S) -> None:
    """Remove the copies that nobody needs any more; young ones may be about to be needed."""
    if not store.is_dir():
        return
    for folder in store.iterdir():
        if folder not in needed and time.time() - folder.stat().st_mtime > older_than_s:
            shutil.rmtree(folder, ignore_errors=True)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in (CONFIG, WEIGHTS):
        with (folder / file).open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()[:DIGEST_CHARS]
