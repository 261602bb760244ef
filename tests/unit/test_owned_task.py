from __future__ import annotations

import asyncio

import pytest

from serving.owned_task import OwnedTask


async def test_it_is_begun_once_and_is_gone_when_it_was_stopped() -> None:
    begun, ended = [], []

    async def run() -> None:
        begun.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    task = OwnedTask()
    await task.stop()
    task.start(run, "a")
    task.start(run, "a")
    assert task.started
    await asyncio.sleep(0)
    await task.stop()
    await task.stop()
    assert (begun, ended) == ([1], [1])
    assert not task.started


async def test_what_it_died_of_is_told_to_who_stops_it() -> None:
    async def run() -> None:
        raise ValueError("broken")

    task = OwnedTask()
    task.start(run, "a")
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await task.stop()
