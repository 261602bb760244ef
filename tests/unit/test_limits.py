"""Limits of tenants, and whether what they say about waiting is true."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from router.tenancy.limits import BYTES_PER_TOKEN, LimitReached, Limits
from router.tenancy.tenants import OPEN, Tenant
from serving.config.tenancy import AdmissionConfig, TenantConfig
from serving.errors import UpstreamError
from serving.protocol import Usage
from tests.unit.fakes import FakeClock

ACME, BOLT = Tenant("acme"), Tenant("bolt")


class Gate:
    """Limits of one tenant under a clock that moves when told."""

    def __init__(self, session_idle_s: float = 60.0, **limits: Any) -> None:
        self.clock = FakeClock()
        tenants = {"acme": TenantConfig(**limits), "bolt": TenantConfig()}
        self.limits = Limits(tenants, AdmissionConfig(session_idle_s=session_idle_s), self.clock)

    def turn(self, *, tokens: int = 0, used: int | None = None, session: str = "s") -> None:
        """One that begins and ends at once."""
        with self.limits.enter(ACME, session.encode(), tokens * BYTES_PER_TOKEN) as hold:
            if used is not None:
                hold.used(Usage(used, 0, 0))

    def refused(self, **turn: Any) -> LimitReached:
        with pytest.raises(LimitReached) as found:
            self.turn(**turn)
        return found.value


def comes_back_in_time(gate: Gate, refused: LimitReached, **turn: Any) -> None:
    """It is still refused just before what it was told, and let in then."""
    assert refused.retry_after_s is not None
    gate.clock.advance(refused.retry_after_s - 0.01)
    gate.refused(**turn)
    gate.clock.advance(0.02)
    gate.turn(**turn)


def test_requests_a_minute_are_counted_and_told() -> None:
    gate = Gate(max_requests_per_minute=3)
    for _ in range(3):
        gate.turn()
    refused = gate.refused()
    assert (refused.status, refused.code, refused.kind) == (429, "rate_limit_exceeded", "requests")
    assert "3 requests a minute" in str(refused)
    assert "tenants.acme.max_requests_per_minute" in str(refused)
    assert refused.retry_after_s == pytest.approx(20.0)
    assert refused.headers()["retry-after"] == "20"
    comes_back_in_time(gate, refused)


def test_a_retry_after_is_never_too_early() -> None:
    gate = Gate(max_requests_per_minute=7)
    for _ in range(7):
        gate.turn()
    refused = gate.refused()
    gate.clock.advance(int(refused.headers()["retry-after"]))
    gate.turn()


def test_tokens_are_estimated_first_and_settled_by_the_engine() -> None:
    gate = Gate(max_tokens_per_minute=6000)
    gate.turn(tokens=1000, used=5900)
    refused = gate.refused(tokens=1000)
    assert refused.kind == "tokens"
    assert refused.retry_after_s == pytest.approx(9.0)  # 900 of 100 a second
    comes_back_in_time(gate, refused, tokens=1000)


def test_an_estimate_that_was_too_high_is_given_back() -> None:
    gate = Gate(max_tokens_per_minute=6000)
    gate.turn(tokens=5000, used=100)
    gate.turn(tokens=5800)


def test_more_than_was_there_is_owed() -> None:
    gate = Gate(max_tokens_per_minute=600)
    gate.turn(tokens=1, used=1800)
    assert gate.refused(tokens=1).retry_after_s == pytest.approx(120.1)


def test_a_prompt_larger_than_the_bucket_waits_until_it_is_full() -> None:
    gate = Gate(max_tokens_per_minute=600)
    gate.turn(tokens=100)
    refused = gate.refused(tokens=5000)
    assert refused.retry_after_s == pytest.approx(10.0)
    comes_back_in_time(gate, refused, tokens=5000)


def test_a_turn_that_came_to_nothing_costs_no_tokens() -> None:
    gate = Gate(max_tokens_per_minute=600)
    with pytest.raises(UpstreamError), gate.limits.enter(ACME, b"s", 600 * BYTES_PER_TOKEN):
        raise UpstreamError("the engine died")
    gate.turn(tokens=600)


def test_a_stream_without_usage_costs_its_events() -> None:
    gate = Gate(max_tokens_per_minute=600)
    with gate.limits.enter(ACME, b"s", 0) as hold:
        hold.streamed(590)
    assert gate.refused(tokens=20).kind == "tokens"


def test_a_streams_usage_replaces_what_was_counted() -> None:
    gate = Gate(max_tokens_per_minute=600)
    with gate.limits.enter(ACME, b"s", 0) as hold:
        hold.streamed(590)
        hold.used(Usage(50, 0, 50))
    gate.turn(tokens=500)


def test_requests_at_once_are_freed_as_they_end() -> None:
    gate = Gate(max_inflight=2)
    with ExitStack() as running:
        for _ in range(2):
            running.enter_context(gate.limits.enter(ACME, b"s", 0))
        refused = gate.refused()
        assert (refused.kind, refused.retry_after_s) == ("inflight", pytest.approx(0.5))
        assert "tenants.acme.max_inflight" in str(refused)
    gate.turn()


def test_a_session_counts_until_it_has_been_idle() -> None:
    gate = Gate(session_idle_s=30.0, max_sessions=2)
    gate.turn(session="one")
    gate.clock.advance(10)
    gate.turn(session="two")
    refused = gate.refused(session="three")
    assert (refused.kind, refused.retry_after_s) == ("sessions", pytest.approx(20.0))
    gate.turn(session="two")  # those that are there may go on
    comes_back_in_time(gate, refused, session="three")


def test_a_session_that_runs_is_not_forgotten() -> None:
    gate = Gate(session_idle_s=30.0, max_sessions=1)
    with gate.limits.enter(ACME, b"one", 0):
        gate.clock.advance(1000)
        assert gate.refused(session="two").kind == "sessions"


def test_inner_turns_are_charged_and_never_refused() -> None:
    gate = Gate(max_requests_per_minute=1, max_inflight=1, max_tokens_per_minute=600)
    with gate.limits.enter(ACME, b"conv", 0, charge=False):
        for _ in range(3):
            with gate.limits.inner(ACME) as hold:
                hold.used(Usage(400, 300, 100))
    gate.clock.advance(60)
    assert gate.refused().retry_after_s == pytest.approx(30.0)  # 1,500 of 600 a minute


def test_other_tenants_and_open_stacks_have_no_limits() -> None:
    gate = Gate(max_requests_per_minute=1)
    gate.turn()
    gate.refused()
    for tenant in (BOLT, OPEN, Tenant("gone")):
        for _ in range(100):
            with gate.limits.enter(tenant, b"s", 10**9) as hold:
                assert hold.headers() == {}


def test_headers_say_how_things_stand_as_openai_does() -> None:
    gate = Gate(max_requests_per_minute=60, max_tokens_per_minute=6000)
    with gate.limits.enter(ACME, b"s", 1500 * BYTES_PER_TOKEN) as hold:
        assert hold.headers() == {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "6000",
            "x-ratelimit-remaining-tokens": "4500",
            "x-ratelimit-reset-tokens": "15s",
        }
    gate.turn(tokens=4500, used=18_000)
    refused = gate.refused(tokens=1)
    assert refused.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert refused.headers()["x-ratelimit-reset-tokens"] == "3m15s"


def test_a_meter_holds_no_more_sessions_than_it_allows() -> None:
    gate = Gate(session_idle_s=30.0, max_sessions=5)
    for i in range(1000):
        gate.clock.advance(7)
        gate.turn(session=str(i))
    meter = gate.limits._meters["acme"]
    assert len(meter._idle) + len(meter._running) <= 5
