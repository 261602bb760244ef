"""How many replicas a load asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from serving.cluster.autoscale import Policy, ReplicaLoad, latest, stats, wanted
from serving.cluster.front_queues import Queue
from serving.config.model import AutoscaleConfig
from serving.tables.base import Engine, EngineLoad

KNOBS = AutoscaleConfig(
    min_replicas=1, max_replicas=8, target_waiting=2, target_wait_s=5, kv_high=0.9
)
MAX_RUNNING = 10


def load(
    running: float = 0,
    waiting: float = 0,
    kv: float = 0.0,
    *,
    ready: float = 1,
    queued: float = 0,
    queued_s: float = 0.0,
) -> ReplicaLoad:
    return ReplicaLoad(ready, running, waiting, kv, queued, queued_s)


@pytest.mark.parametrize(
    ("loads", "current", "count"),
    [
        ([load(10, 2)], 1, 1),  # as many wait as may
        ([load(10, 3)], 1, 2),
        ([load(10, 100)], 1, 2),  # at most twice as many at once
        ([load(10, 4), load(10, 2)], 2, 3),
        ([load(10, 100)] * 2, 4, 4),  # two are on their way
        ([load(10, 100)] * 6, 6, 8),  # max_replicas
        ([load(3, 0, 0.95)], 1, 2),  # the cache is nearly full
        ([load(3, 0, 0.95), load(1, 0, 0.5)], 2, 2),
        ([load(5), load(0)], 2, 1),  # fits into one with room
        ([load(5), load(2)], 2, 2),  # would fill one more than LOW: neither up nor down
        ([load(1, 0, 0.5), load(1, 0, 0.5)], 2, 2),  # its cache would not fit
        ([load(1, 1), load(0)], 2, 2),  # while something waits nobody goes
        ([load(1, queued=11)], 1, 2),  # engines queue nothing: front doors do
        ([load(1, 1, queued=3)] * 2, 2, 3),  # 2 in the engines, and 3 in front of both
        ([load(1, queued=4)] * 2, 2, 2),
        ([load(1, queued=1, queued_s=9)], 1, 2),  # one turn, but a long one
        ([load(1, queued=1, queued_s=4)], 1, 1),
        ([load(0, queued=1), load(0, queued=1)], 2, 2),  # while something waits nobody goes
        ([load(1, queued=8), load(1, queued=9)], 2, 4),  # the later word of the same queue
        ([load(0)], 1, 1),  # min_replicas
        ([load(0)], 2, 2),  # the second one is on its way; it will show
        ([], 3, 3),  # nobody says anything
        ([load(0, ready=0), load(0, ready=0)], 2, 2),  # engines that are dead have no say
        ([load(9, 5), load(0, ready=0)], 2, 2),  # one is down: it comes back by itself
    ],
)
def test_the_load_asks_for(loads: list[ReplicaLoad], current: int, count: int) -> None:
    assert wanted(loads, current, MAX_RUNNING, KNOBS) == count


def test_what_it_has_asked_for_it_does_not_take_back_at_the_same_load() -> None:
    for total in range(200):
        count = 1
        for _ in range(20):
            share = min(MAX_RUNNING, total / count)
            loads = [load(share, total / count - share)] * count
            before, count = count, wanted(loads, count, MAX_RUNNING, KNOBS)
            assert count >= before or total == 0, f"{total} requests"


def test_an_engine_that_is_not_ready_says_nothing_of_its_load() -> None:
    engine = Engine("a-1", "a", "", "a", state="ready", load=EngineLoad(3, 4, 0.5))
    queue = Queue(7, 4000, 2.5)
    assert stats(engine, queue) == {
        "ready": 1.0,
        "running": 3.0,
        "waiting": 4.0,
        "kv_usage": 0.5,
        "queued": 7.0,
        "queued_s": 2.5,
    }
    dead = Engine("a-1", "a", "", "a", state="dead", load=EngineLoad(3, 4, 0.5))
    assert set(stats(dead, queue).values()) == {0.0}


def test_serves_time_series_are_read_at_their_end() -> None:
    def series(*values: float) -> list[Any]:
        return [SimpleNamespace(timestamp=n, value=v) for n, v in enumerate(values)]

    raw = {
        "ready": {"r1": series(0, 1), "r2": series(1)},
        "running": {"r1": series(1, 4)},
        "waiting": {"r1": series(9, 9, 0), "r2": series(3)},
        "kv_usage": {},
        "queued": {"r1": series(8)},
        "queued_s": {"r1": series(3, 2)},
    }
    assert latest(raw) == [load(running=4, queued=8, queued_s=2), load(waiting=3)]
    context = SimpleNamespace(raw_metrics=raw, target_num_replicas=2)
    policy = Policy(MAX_RUNNING, **KNOBS.model_dump())
    assert policy(context) == (wanted(latest(raw), 2, MAX_RUNNING, KNOBS), {})
