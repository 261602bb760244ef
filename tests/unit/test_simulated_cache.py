"""The simulated engine's cache and queue, in virtual time."""

from __future__ import annotations

import asyncio
import heapq

import pytest

from serving.config.model import SimulatorConfig
from serving.simulator.cache import BlockCache, chain, count_tokens
from serving.simulator.engine import Job, SimulatedEngine


class VirtualClock:
    """Time that passes only when everyone waits."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, self._count, future))
        await future

    async def run(self, until: float = float("inf")) -> None:
        """Let time pass until nobody sleeps, or until `until`."""
        while True:
            for _ in range(20):  # everyone who can go on does, before time does
                await asyncio.sleep(0)
            if not self._sleepers or self._sleepers[0][0] > until:
                return
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


def spend(cache: BlockCache, blocks: list[int], total: int | None = None) -> int:
    """Run one sequence from start to end; returns its hits."""
    hits = cache.match(blocks)
    pins = cache.acquire(blocks, total or len(blocks))
    assert pins is not None
    cache.commit(pins, blocks)
    cache.release(pins)
    return hits


def test_text_that_begins_alike_shares_its_whole_blocks_only() -> None:
    one = chain(b"a" * 64 + b"b" * 63, block_tokens=4)
    two = chain(b"a" * 64 + b"c" * 200, block_tokens=4)
    assert len(one) == 7
    assert one[:4] == two[:4]
    assert one[4] != two[4]
    assert count_tokens(b"12345") == 2


def test_another_salt_shares_nothing() -> None:
    assert not set(chain(b"a" * 64, 4, b"one")) & set(chain(b"a" * 64, 4, b"two"))


def test_a_finished_sequence_stays_warm_for_the_next_turn() -> None:
    cache = BlockCache(10)
    assert spend(cache, [1, 2, 3]) == 0
    assert spend(cache, [1, 2, 3, 4]) == 3
    assert cache.used_blocks == 0
    assert cache.resident_blocks == 4


def test_the_least_recently_used_goes_first_and_its_tail_before_its_head() -> None:
    cache = BlockCache(6)
    spend(cache, [1, 2, 3])
    spend(cache, [11, 12, 13])
    spend(cache, [1, 2, 3])
    spend(cache, [21, 22])
    assert cache.match([1, 2, 3]) == 3
    assert cache.match([11, 12, 13]) == 1


def test_a_running_sequence_is_never_evicted_and_what_does_not_fit_waits() -> None:
    cache = BlockCache(4)
    pins = cache.acquire([1, 2, 3], 3)
    assert pins is not None
    cache.commit(pins, [1, 2, 3])
    assert cache.acquire([7, 8], 2) is None
    assert cache.acquire([1, 2, 3, 4], 4) is not None
    cache.release(pins)
    assert cache.match([1, 2, 3]) == 3


def test_what_was_reserved_but_never_computed_is_not_a_hit() -> None:
    cache = BlockCache(4)
    pins = cache.acquire([1, 2, 3], 4)
    assert pins is not None
    assert cache.used_blocks == 4
    cache.release(pins)
    assert cache.used_blocks == 0
    assert cache.match([1, 2, 3]) == 0


def test_twins_that_compute_the_same_block_hold_it_once() -> None:
    cache = BlockCache(6)
    one, two = cache.acquire([1, 2], 2), cache.acquire([1, 2], 2)
    assert one is not None
    assert two is not None
    cache.commit(one, [1, 2])
    cache.commit(two, [1, 2])
    assert cache.used_blocks == 2
    cache.release(one)
    assert cache.used_blocks == 2
    cache.release(two)
    assert cache.resident_blocks == 2


def engine(clock: VirtualClock, **options: float) -> SimulatedEngine:
    config = SimulatorConfig.model_validate(
        {
            "prefill_tokens_per_s": 100,
            "decode_tokens_per_s": 10,
            "capacity_tokens": 1000,
            "block_tokens": 10,
            **options,
        }
    )
    return SimulatedEngine(config, clock=clock)


def job(first: int, prompt_tokens: int, output_tokens: int) -> Job:
    whole = prompt_tokens // 10
    blocks = list(range(first, first + (prompt_tokens + output_tokens) // 10))
    return Job(blocks[:whole], prompt_tokens, output_tokens, blocks)


async def finish(engine: SimulatedEngine, job: Job) -> tuple[float, float, int]:
    """Times of the first token and of the end, and the cached tokens."""
    async with engine.run(job) as running:
        first_s = engine.clock.now()
        await running.decode(job.output_tokens)
        return first_s, engine.clock.now(), running.cached_tokens


async def test_prompts_wait_for_each_other_and_answers_do_not() -> None:
    clock = VirtualClock()
    simulated = engine(clock)
    tasks = [asyncio.create_task(finish(simulated, job(i * 100, 100, 10))) for i in range(3)]
    await clock.run()
    assert [t.result() for t in tasks] == [(1.0, 2.0, 0), (2.0, 3.0, 0), (3.0, 4.0, 0)]


async def test_a_warm_prompt_costs_only_its_new_tokens() -> None:
    clock = VirtualClock()
    simulated = engine(clock)
    first = asyncio.create_task(finish(simulated, job(0, 100, 20)))
    await clock.run()
    started_s = clock.now()
    second = asyncio.create_task(finish(simulated, job(0, 150, 10)))
    await clock.run()
    assert first.result()[2] == 0
    assert second.result()[2] == 120  # the first answer is part of the second prompt
    assert second.result()[0] - started_s == pytest.approx(0.3)
    load = simulated.load()
    assert (load.queried_tokens, load.hit_tokens) == (250, 120)


async def test_the_same_prompt_again_still_computes_its_last_block() -> None:
    clock = VirtualClock()
    simulated = engine(clock)
    for _ in range(2):
        task = asyncio.create_task(finish(simulated, job(0, 100, 10)))
        await clock.run()
    assert task.result()[2] == 90


async def test_cancelling_frees_the_slot_and_the_queue_moves_on() -> None:
    clock = VirtualClock()
    simulated = engine(clock)
    tasks = [asyncio.create_task(finish(simulated, job(i * 100, 100, 10))) for i in range(3)]
    await clock.run(until=0.5)
    assert (simulated.load().running, simulated.load().waiting) == (1, 2)
    tasks[0].cancel()
    tasks[1].cancel()
    await clock.run()
    assert tasks[2].result() == (1.0, 2.0, 0)
    assert simulated.load().running == simulated.load().waiting == 0
    assert simulated.load().kv_usage == 0


async def test_a_job_that_does_not_fit_beside_the_others_waits_for_room() -> None:
    clock = VirtualClock()
    simulated = engine(clock, capacity_tokens=150)
    tasks = [asyncio.create_task(finish(simulated, job(i * 100, 90, 10))) for i in range(2)]
    await clock.run()
    assert [t.result()[1] for t in tasks] == pytest.approx([1.9, 3.8])


async def test_a_job_that_could_never_fit_is_refused() -> None:
    simulated = engine(VirtualClock(), capacity_tokens=50)
    with pytest.raises(ValueError, match="needs 11 blocks of 5"):
        await finish(simulated, job(0, 100, 10))
