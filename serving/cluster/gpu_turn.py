"""Engines that share one GPU start one after another.

While vLLM starts it measures how much of the GPU it has taken itself: free memory at its beginning
less free memory after a trial run. What another engine takes or gives back in between is counted
as its own: its KV cache becomes too small, or it refuses to start ("Error in memory profiling").
Once an engine runs its share is fixed, and disturbs nobody's measuring. So whoever has a share of
a GPU holds that GPU's lock from its launch until it is ready. The kernel frees the lock when its
holder dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from serving.config.home import home
from serving.config.model import ModelConfig

POLL_S = 0.2


@asynccontextmanager
async def starting(
    config: ModelConfig, environ: Mapping[str, str] = os.environ, folder: Path | None = None
) -> AsyncIterator[None]:
    """Hold the lock of the GPU that Ray gave to this process, if the model has a share of one.

    `folder` is where the locks lie; default: `locks` in Warmloop's own folder.
    """
    if not 0 < config.gpus < 1:
        yield
        return
    gpu = re.sub(r"[^\w-]", "_", environ.get("CUDA_VISIBLE_DEVICES") or "any")
    folder = folder or home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"gpu-{gpu}.lock").open("a") as lock:
        # Not a blocking call in a thread: that one could not be cancelled.
        while not _taken(lock.fileno()):  # noqa: ASYNC110 another process holds it
            await asyncio.sleep(POLL_S)
        yield


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
