"""What stands before an MCP server: its breaker, its rate, its slots."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.mcp.failures import Declined, NotSent, OutcomeOpen
from orchestrator.mcp.gate import Breaker, Gate, Rate
from serving.config.mcp import BreakerConfig, McpServerConfig, RateConfig

CONFIG = BreakerConfig(failures=2, pause_s=10, max_pause_s=15)


def test_a_breaker_opens_after_failures_in_a_row_and_says_when_to_come_back() -> None:
    breaker = Breaker(CONFIG)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(0)
    assert breaker.condition(0) == "closed"
    breaker.failed(0)
    assert breaker.condition(9) == "open"
    with pytest.raises(NotSent, match="failed 2 times in a row") as refused:
        breaker.enter(4)
    assert refused.value.retry_after_s == 6


def test_a_half_open_breaker_lets_one_call_through_and_its_success_closes_it() -> None:
    breaker = Breaker(CONFIG)
    breaker.failed(0)
    breaker.failed(0)
    breaker.enter(10)
    with pytest.raises(NotSent):
        breaker.enter(10)
    breaker.succeeded()
    breaker.enter(10)
    breaker.enter(10)


def test_a_try_that_fails_doubles_the_pause_up_to_its_limit() -> None:
    breaker = Breaker(CONFIG)
    breaker.failed(0)
    breaker.failed(0)
    breaker.enter(10)
    breaker.failed(10)
    assert breaker.condition(24) == "open"
    assert breaker.condition(25) == "half_open"


def test_calls_that_fail_together_lengthen_the_pause_only_once() -> None:
    breaker = Breaker(BreakerConfig(failures=2, pause_s=10, max_pause_s=300))
    for _ in range(16):
        breaker.failed(0)
    assert breaker.condition(9) == "open"
    assert breaker.condition(10) == "half_open"
    breaker.enter(10)
    breaker.failed(10)
    assert breaker.condition(29) == "open"
    assert breaker.condition(30) == "half_open"


def test_a_rate_gives_a_burst_and_then_so_many_a_minute() -> None:
    rate = Rate(RateConfig(per_minute=60, burst=2), 0)
    rate.enter(0)
    rate.enter(0)
    with pytest.raises(NotSent, match="60 calls a minute") as refused:
        rate.enter(0.25)
    assert refused.value.retry_after_s == 0.75
    rate.enter(1)


async def test_what_a_tool_itself_answers_does_not_open_the_breaker() -> None:
    gate = Gate(McpServerConfig(command=("x",), breaker=CONFIG), lambda: 0.0)
    for failure in (Declined("no"), NotSent("later", retry_after_s=1)):
        for _ in range(3):
            with pytest.raises(type(failure)):
                async with gate.call():
                    raise failure
    assert gate.breaker.condition(0) == "closed"
    for _ in range(2):
        with pytest.raises(OutcomeOpen):
            async with gate.call():
                raise OutcomeOpen("lost")
    assert gate.breaker.condition(0) == "open"


async def test_a_try_that_is_cancelled_leaves_the_breaker_half_open() -> None:
    gate = Gate(McpServerConfig(command=("x",), breaker=CONFIG), lambda: 0.0)
    for _ in range(2):
        gate.breaker.failed(-10)
    with pytest.raises(asyncio.CancelledError):
        async with gate.call():
            raise asyncio.CancelledError
    gate.breaker.enter(0)


async def test_calls_above_the_limit_wait_for_their_turn() -> None:
    gate = Gate(McpServerConfig(command=("x",), max_concurrent=1), lambda: 0.0)
    order = []

    async def second() -> None:
        async with gate.call():
            order.append("second")

    async with gate.call():
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        order.append("first")
    await waiting
    assert order == ["first", "second"]
