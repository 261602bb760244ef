"""Trace context: the request's trace goes on, and every attempt is a span of its own."""

from __future__ import annotations

from orchestrator.tools.trace_context import child_of, valid

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_call_continues_the_request_s_trace_with_a_span_of_its_own() -> None:
    first, second = child_of(HEADER, "resp_1", "key:1"), child_of(HEADER, "resp_1", "key:2")
    assert first.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert first.endswith("-01")
    assert len({HEADER, first, second}) == 3
    assert valid(first) == first


def test_the_same_attempt_has_the_same_span_after_a_crash() -> None:
    assert child_of(HEADER, "resp_1", "key:1") == child_of(HEADER, "resp_1", "key:1")


def test_without_a_trace_the_response_begins_one() -> None:
    assert valid(child_of("", "resp_1", "key:1"))
    assert child_of("", "resp_1", "a")[:35] == child_of("nonsense", "resp_1", "b")[:35]


def test_what_is_no_trace_context_is_dropped() -> None:
    assert valid(HEADER) == HEADER
    for wrong in ("", "x", HEADER.upper(), f"00-{'0' * 32}-00f067aa0ba902b7-01", HEADER + "\n"):
        assert valid(wrong) == ""
