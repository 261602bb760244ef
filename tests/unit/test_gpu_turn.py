"""Engines that share a GPU start one after another; all others do not wait."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cluster import gpu_turn
from serving.config.model import ModelConfig

HALF = ModelConfig(engine="simulated", gpus=0.5)
WHOLE = ModelConfig(engine="simulated", gpus=1)
HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


async def overlap(tmp_path: Path, first: ModelConfig, second: ModelConfig, gpus: str) -> int:
    """How many of two starts were under way at once, at most."""
    under_way = most = 0

    async def start(config: ModelConfig, gpu: str) -> None:
        nonlocal under_way, most
        async with gpu_turn.starting(config, {"CUDA_VISIBLE_DEVICES": gpu}, tmp_path):
            under_way += 1
            most = max(most, under_way)
            for _ in range(100):  # long enough for the other one to come in if it may
                await asyncio.sleep(0)
            under_way -= 1

    await asyncio.gather(start(first, gpus[0]), start(second, gpus[-1]))
    return most


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_turn, "POLL_S", 0.001)


async def test_two_shares_of_one_gpu_start_one_after_the_other(tmp_path: Path) -> None:
    assert await overlap(tmp_path, HALF, HALF, "00") == 1


async def test_shares_of_different_gpus_start_at_the_same_time(tmp_path: Path) -> None:
    assert await overlap(tmp_path, HALF, HALF, "01") == 2


async def test_whoever_has_whole_gpus_waits_for_nobody(tmp_path: Path) -> None:
    assert await overlap(tmp_path, HALF, WHOLE, "00") == 2
    assert await overlap(tmp_path, WHOLE, WHOLE, "00") == 2


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock of GPU 0."""
    line = [sys.executable, "-c", HOLDER, str(tmp_path / "gpu-0.lock")]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


async def test_the_lock_of_a_process_that_was_killed_is_free(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    async def start() -> None:
        async with gpu_turn.starting(HALF, {"CUDA_VISIBLE_DEVICES": "0"}, tmp_path):
            pass

    waiting = asyncio.create_task(start())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    holder.kill()
    await asyncio.wait_for(waiting, 20)


async def test_a_start_that_fails_lets_the_next_one_in(tmp_path: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "GPU-1234/5"}
    with pytest.raises(RuntimeError, match="no"):
        async with gpu_turn.starting(HALF, env, tmp_path):
            raise RuntimeError("no")
    async with asyncio.timeout(20), gpu_turn.starting(HALF, env, tmp_path):
        pass
    assert names(tmp_path) == ["gpu-GPU-1234_5.lock"]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
