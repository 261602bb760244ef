"""The directory's leases and versions, and the actor's long poll, without Ray."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from serving.cluster.directory import Directory, DirectoryActor, Snapshot, decode, encode, failed
from serving.cluster.front_queues import FrontQueues, Queue
from serving.tables.base import Engine, EngineLoad

ENGINE = Engine("small-1", "small", "http://127.0.0.1:1", "small", kind="simulated")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(clock: Clock) -> Directory:
    return Directory(clock=clock)


def names(directory: Directory) -> list[str]:
    return [engine.replica for engine in directory.snapshot().engines]


def test_an_engine_stays_while_it_renews_and_goes_when_its_lease_runs_out(
    directory: Directory, clock: Clock
) -> None:
    directory.register(ENGINE, lease_s=3)
    for _ in range(5):
        clock.now_s += 2
        directory.register(ENGINE, lease_s=3)
    assert names(directory) == ["small-1"]
    clock.now_s += 3
    assert names(directory) == []


def test_an_engine_that_only_renews_does_not_drive_out_what_failed_since(
    directory: Directory,
) -> None:
    directory.register(ENGINE)
    directory.register(failed(replace(ENGINE, replica="small-2"), "out of memory"))
    directory.register(ENGINE)
    assert names(directory) == ["small-1", "small-2"]


def test_the_version_changes_with_membership_and_state_but_not_with_load(
    directory: Directory, clock: Clock
) -> None:
    versions = [directory.snapshot().version]
    directory.register(ENGINE)
    versions.append(directory.snapshot().version)
    directory.register(replace(ENGINE, state="draining"))
    versions.append(directory.snapshot().version)
    directory.leave("small-1")
    directory.leave("small-1")
    versions.append(directory.snapshot().version)
    assert versions == [0, 1, 2, 3]
    directory.register(ENGINE, lease_s=3)
    version = directory.snapshot().version
    directory.register(replace(ENGINE, load=EngineLoad(running=4)), lease_s=3)
    assert directory.snapshot().version == version
    assert directory.snapshot().engines[0].load.running == 4
    clock.now_s += 4
    assert directory.snapshot().version == version + 1


def test_a_failed_start_is_remembered_until_the_model_runs(directory: Directory) -> None:
    directory.register(failed(ENGINE, "no such weights"))
    assert directory.snapshot().engines[0].reason == "no such weights"
    directory.register(replace(ENGINE, replica="small-2", state="starting"))
    assert len(names(directory)) == 2
    directory.register(replace(ENGINE, replica="other-1", model="other"))
    assert len(names(directory)) == 3
    directory.register(replace(ENGINE, replica="small-2"))
    assert names(directory) == ["other-1", "small-2"]


def test_only_so_many_failures_are_remembered(directory: Directory) -> None:
    for n in range(50):
        directory.register(failed(replace(ENGINE, replica=f"small-{n:02d}"), "out of memory"))
    assert len(names(directory)) == 20
    assert names(directory)[-1] == "small-49"


def test_a_snapshot_survives_the_wire() -> None:
    engine = replace(ENGINE, load=EngineLoad(1, 2, 0.5, 3, 4), adapters=("a", "b"))
    assert decode(encode(Snapshot(7, (engine,)))) == Snapshot(7, (engine,))


async def test_a_watcher_hears_of_a_change_at_once() -> None:
    actor = DirectoryActor()
    before = await actor.snapshot()
    watcher = asyncio.create_task(actor.watch(before.version, wait_s=60))
    await asyncio.sleep(0)
    await actor.register(ENGINE)
    async with asyncio.timeout(5):
        heard = await watcher
    assert heard.engines == (ENGINE,)


async def test_a_watcher_gets_fresh_loads_though_nothing_else_changed() -> None:
    actor = DirectoryActor()
    await actor.register(ENGINE)
    version = (await actor.snapshot()).version
    await actor.register(replace(ENGINE, load=EngineLoad(running=2)))
    heard = await actor.watch(version, wait_s=0.01)
    assert heard.version == version
    assert heard.engines[0].load.running == 2


async def test_a_lease_that_runs_out_is_news_too() -> None:
    actor = DirectoryActor()
    await actor.register(ENGINE, 0.1)
    version = (await actor.snapshot()).version
    async with asyncio.timeout(10):
        assert (await actor.watch(version, wait_s=60)).engines == ()


async def test_a_restarted_actor_never_repeats_a_version() -> None:
    old, new = DirectoryActor(), DirectoryActor()
    await old.register(ENGINE)
    assert (await old.snapshot()).version != (await new.snapshot()).version


async def test_a_replica_that_drains_can_ask_whether_every_front_door_has_heard() -> None:
    actor = DirectoryActor()
    version = await actor.register(ENGINE)
    assert await actor.heard(version), "there is nobody to hear"
    await actor.watch(version, 0, "front-1")
    await actor.watch(version, 0, "front-2")
    await actor.watch(-1, 0)  # without a name: no front door
    drained = await actor.register(replace(ENGINE, state="draining"))
    assert not await actor.heard(drained)
    await actor.watch(drained, 0, "front-1")
    assert not await actor.heard(drained)
    await actor.watch(drained, 0, "front-2")
    assert await actor.heard(drained)


async def test_a_front_door_that_is_gone_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actor = DirectoryActor()
    await actor.watch(0, 0, "front-1")
    monkeypatch.setattr("serving.cluster.directory.WATCHER_LEASE_S", -1.0)
    assert await actor.heard(10**18)


async def test_the_end_of_the_cluster_limits_every_drain_and_waits_for_no_front_door() -> None:
    actor = DirectoryActor()
    assert await actor.left_s() == math.inf
    await actor.watch(0, 0, "front-1")
    await actor.close_within(5)
    assert 0 < await actor.left_s() <= 5
    assert await actor.heard(10**18)


async def test_front_doors_find_each_other_and_one_that_is_silent_is_forgotten(
    directory: Directory, clock: Clock
) -> None:
    before = directory.version
    directory.watched("a", "http://10.0.0.1:8400", lease_s=5)
    directory.watched("b", "http://10.0.0.2:8400", lease_s=5)
    assert directory.snapshot().fronts == ("http://10.0.0.1:8400", "http://10.0.0.2:8400")
    assert directory.version == before + 2
    clock.now_s += 4
    directory.watched("b", "http://10.0.0.2:8400", lease_s=5)
    assert directory.version == before + 2
    clock.now_s += 2
    assert directory.snapshot().fronts == ("http://10.0.0.2:8400",)
    assert directory.version == before + 3


async def test_a_watcher_hears_at_once_of_a_front_door_that_has_come() -> None:
    actor = DirectoryActor()
    first = await actor.watch(-1, 60, "a", "http://a")
    waiting = asyncio.create_task(actor.watch(first.version, 60, "a", "http://a"))
    await asyncio.sleep(0)
    await actor.watch(-1, 60, "b", "http://b")
    snapshot = await waiting
    assert decode(encode(snapshot)).fronts == ("http://a", "http://b")


def test_what_waits_is_the_sum_of_all_front_doors_and_a_dead_ones_word_runs_out(
    clock: Clock,
) -> None:
    queues = FrontQueues(clock)
    queues.told("a", {"small": Queue(3, 3000, 1.5), "big": Queue(1, 10, 0.1)}, lease_s=5)
    queues.told("b", {"small": Queue(2, 1000, 0.5)}, lease_s=5)
    assert queues.of("small") == Queue(5, 4000, 2.0)
    assert queues.of("big") == Queue(1, 10, 0.1)
    clock.now_s = 4
    queues.told("b", {"small": Queue(1, 500, 0.25)}, lease_s=5)
    clock.now_s = 6
    assert queues.of("small") == Queue(1, 500, 0.25)
    queues.told("b", {}, lease_s=5)
    assert queues.of("small") == queues.of("unheard of") == Queue()


async def test_a_front_door_says_with_each_watch_what_waits_there() -> None:
    actor = DirectoryActor()
    await actor.watch(-1, 0, "a", queues={"small": Queue(2, 900, 0.9)})
    await actor.watch(-1, 0, "b", queues={"small": Queue(1, 100, 0.1)})
    assert await actor.waiting("small") == Queue(3, 1000, 1.0)
    await actor.watch(-1, 0, "a")
    assert await actor.waiting("small") == Queue(1, 100, 0.1)
