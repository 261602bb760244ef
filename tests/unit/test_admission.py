"""How many requests may be on their way."""

from __future__ import annotations

import asyncio

import pytest

from router.placing.admission import Admission
from serving.errors import RateLimited


def test_one_more_than_allowed_is_refused_with_a_time_to_come_back() -> None:
    admission = Admission(2)
    with admission.admit(), admission.admit():
        with pytest.raises(RateLimited) as refused:
            admission.admit()
        assert refused.value.headers() == {"retry-after": "1"}
    assert admission.total == 0
    with admission.admit():
        assert admission.total == 1


def test_a_permit_is_counted_where_it_is_used_and_only_there() -> None:
    admission = Admission(10)
    with admission.admit() as permit:
        assert dict(admission.by_replica) == {}
        permit.use("a")
        with admission.admit() as other:
            other.use("a")
            assert dict(admission.by_replica) == {"a": 2}
        permit.use("b")
        assert dict(admission.by_replica) == {"b": 1}
    assert dict(admission.by_replica) == {}


def test_an_error_frees_the_permit() -> None:
    admission = Admission(1)

    def fail() -> None:
        with admission.admit() as permit:
            permit.use("a")
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert admission.total == 0
    assert not admission.by_replica


async def test_cancelling_frees_the_permit() -> None:
    admission = Admission(1)
    holding = asyncio.Event()

    async def hold() -> None:
        with admission.admit() as permit:
            permit.use("a")
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert admission.total == 0
    assert not admission.by_replica


def test_one_tenant_leaves_room_for_the_next() -> None:
    admission = Admission(8)
    flood = [admission.admit("flooder") for _ in range(4)]
    with pytest.raises(RateLimited, match="yours"):
        admission.admit("flooder")
    with admission.admit("ann"), admission.admit("ann"), pytest.raises(RateLimited):
        admission.admit("flooder")
    for permit in flood:
        permit.__exit__(None, None, None)
    assert admission.total == 0
    assert admission._by_tenant == {}


def test_a_refusal_says_how_long_the_queue_takes() -> None:
    admission = Admission(1)
    with admission.admit(), pytest.raises(RateLimited) as refused:
        admission.admit("ann", lambda: 7.2)
    assert refused.value.headers()["retry-after"] == "8"
