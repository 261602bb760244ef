"""Deadlines and urgency: what a client may write, and what happens when time is up."""

from __future__ import annotations

import asyncio
import time

import pytest

from router.tenancy.deadlines import seconds_of, until, urgency_of
from router.tenancy.tenants import OPEN, Tenant
from serving.errors import BadRequest, DeadlineExceeded


def test_the_header_wins_over_the_default() -> None:
    assert seconds_of({}, None) is None
    assert seconds_of({}, 20.0) == 20.0
    assert seconds_of({"x-warmloop-deadline-s": "1.5"}, 20.0) == 1.5


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1e9", "10s"])
def test_a_deadline_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadRequest, match="x-warmloop-deadline-s"):
        seconds_of({"x-warmloop-deadline-s": text}, None)


def test_urgency_is_what_is_asked_within_what_is_allowed() -> None:
    batch = Tenant("acme", batch_only=True)
    header = "x-warmloop-urgency"
    assert urgency_of({}, OPEN) == "interactive"
    assert urgency_of({header: "batch"}, OPEN) == "batch"
    assert urgency_of({header: "interactive"}, batch) == "batch"
    with pytest.raises(BadRequest, match=header):
        urgency_of({header: "urgent"}, OPEN)


async def test_what_runs_at_the_deadline_is_cancelled_and_says_so() -> None:
    freed = False

    async def work() -> None:
        nonlocal freed
        async with until(time.monotonic() + 0.01, time.monotonic):
            try:
                await asyncio.Event().wait()
            finally:
                freed = True

    with pytest.raises(DeadlineExceeded) as error:
        await work()
    assert freed
    assert (error.value.status, error.value.code) == (504, "deadline_exceeded")


async def test_a_deadline_that_has_passed_lets_nothing_begin() -> None:
    with pytest.raises(DeadlineExceeded):
        until(time.monotonic() - 1, time.monotonic)


async def test_without_a_deadline_and_before_it_nothing_happens() -> None:
    for deadline in (None, time.monotonic() + 1000):
        async with until(deadline, time.monotonic):
            await asyncio.sleep(0)


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def work() -> None:
        async with until(time.monotonic() + 1000, time.monotonic):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
