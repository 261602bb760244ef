"""The history of turns outlives its front door."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from router.tiers.history import History, Kind
from router.tiers.sessions import Chains
from router.tiers.store import TierStore
from serving.config.router import TiersConfig

KIND = Kind("agent:desk", "", "tool-call")
LONG_S = 3600.0


def taught(count: int = 30) -> History:
    history = History(TiersConfig())
    for i in range(count):
        history.came(KIND)
        history.learn(KIND, "small", good=i % 3 > 0)
    return history


def file_of(folder: Path, port: int = 8080) -> Path:
    [path] = folder.glob(f"*-{port}.json")
    return path


async def started(folder: Path, *, port: int = 8080) -> History:
    """What a front door knows after it has started."""
    history = History(TiersConfig())
    store = TierStore(history, Chains(100), folder, port, LONG_S)
    await store.start()
    await store.stop()
    return history


async def store(history: History, folder: Path, *, port: int = 8080) -> Path:
    """Stop a front door that knows this; its file."""
    await TierStore(history, Chains(100), folder, port, LONG_S).stop()
    return file_of(folder, port)


async def test_what_was_learnt_is_known_after_a_restart(tmp_path: Path) -> None:
    history = taught()
    await store(history, tmp_path / "tiers")
    again = await started(tmp_path / "tiers")
    assert again.standing(KIND) == history.standing(KIND)


async def test_without_a_file_nothing_is_known_and_nothing_is_written(tmp_path: Path) -> None:
    assert len(await started(tmp_path / "tiers")) == 0
    assert not (tmp_path / "tiers").exists()


async def test_it_is_stored_while_the_front_door_runs(tmp_path: Path) -> None:
    """A front door that is killed has lost what it learnt since the last time."""
    history = taught()
    running = TierStore(history, Chains(100), tmp_path, 8080, 0.001)
    await running.start()
    async with asyncio.timeout(20):
        while len(await started(tmp_path)) == 0:  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.001)
    assert len(await started(tmp_path)) == len(history)
    await running.stop()


async def test_each_front_door_has_a_file_and_a_new_one_begins_with_the_newest(
    tmp_path: Path,
) -> None:
    old = await store(taught(3), tmp_path, port=1)
    await store(taught(30), tmp_path, port=2)
    os.utime(old, (1, 1))
    assert (await started(tmp_path, port=3)).standing(KIND) == taught(30).standing(KIND)
    assert (await started(tmp_path, port=1)).standing(KIND) == taught(3).standing(KIND)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":1,"rows":[7]}', b"\xff"])
async def test_a_file_that_cannot_be_read_is_put_aside(tmp_path: Path, data: bytes) -> None:
    path = await store(taught(), tmp_path)
    path.write_bytes(data)
    assert len(await started(tmp_path)) == 0
    assert path.with_suffix(".broken").read_bytes() == data


async def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "tiers").write_text("a file where the folder should be")
    running = TierStore(taught(), Chains(100), tmp_path / "tiers", 8080, LONG_S)
    await running.start()
    await running.stop()


def spent(usd: float, *sessions: bytes) -> Chains:
    chains = Chains(100)
    for session in sessions:
        chain = chains.of("acme", session)
        chain.spent_usd, chain.turns, chain.current = usd, 3, "small"
    return chains


async def kept(folder: Path, chains: Chains, *, port: int = 8080) -> Chains:
    """What a front door knows of sessions after one that knew these has stopped."""
    await TierStore(taught(), chains, folder, port, LONG_S).stop()
    again = Chains(2)
    store = TierStore(History(TiersConfig()), again, folder, 8080, LONG_S)
    await store.start()
    await store.stop()
    return again


async def test_a_sessions_budget_and_its_model_survive_a_restart(tmp_path: Path) -> None:
    chain = (await kept(tmp_path, spent(0.25, b"one"))).of("acme", b"one")
    assert (chain.spent_usd, chain.turns, chain.current) == (0.25, 3, "small")


async def test_of_too_many_sessions_the_latest_are_kept_and_of_others_doors_none(
    tmp_path: Path,
) -> None:
    again = await kept(tmp_path, spent(0.25, b"one", b"two", b"three"))
    assert len(again) == 2
    assert again.of("acme", b"three").spent_usd == 0.25
    assert len(await kept(tmp_path / "other", spent(0.25, b"one"), port=9)) == 0


async def test_sessions_that_cannot_be_read_begin_anew(tmp_path: Path) -> None:
    await kept(tmp_path, spent(0.25, b"one"))
    path = file_of(tmp_path).with_suffix(".sessions")
    path.write_bytes(b"\xff")
    assert len(await kept(tmp_path, Chains(100))) == 0
