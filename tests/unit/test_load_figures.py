"""What the load benchmark says of a run: latencies from the due time, goodput, doubts, the knee."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import load_outside as outside
from benchmarks.harness.run import Run
from benchmarks.load_figures import Figures, Objectives, doubts, figures, lateness
from benchmarks.load_knee import MOST_TRIES, Bracket, Try, bracket, next_rate, step_s
from benchmarks.load_play import TOO_MANY, Played, Sent


def sent(due_s: float, ttft_s: float = 0.1, **fields: object) -> Sent:
    """An answer of three tokens, 10 ms apart."""
    first = due_s + ttft_s
    made = Sent(
        0,
        0,
        due_s,
        left_s=due_s + 0.001,
        token_s=(first, first + 0.01, first + 0.02),
        end_s=first + 0.02,
        prompt_tokens=100,
        cached_tokens=75,
        output_tokens=3,
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def failed(due_s: float, error: str) -> Sent:
    return Sent(0, 0, due_s, left_s=due_s, end_s=due_s + 1, error=error)


def played(*requests: Sent, seconds: float = 100.0) -> Played:
    return Played(seconds, sent=[*requests], pulses_s=[0.001] * 50, begun=len(requests))


MANY = [sent(float(second)) for second in range(50)]
FOUND = figures(played(*MANY), Objectives(), 0.0)


def test_a_request_that_left_late_has_waited_since_it_was_due() -> None:
    late = sent(10.0, ttft_s=2.5, left_s=12.0)
    assert late.ttft_s == pytest.approx(2.5)
    assert late.latency_s == pytest.approx(2.52)
    assert late.lag_s == pytest.approx(2.0)


def test_goodput_counts_what_met_every_objective_and_errors_count_against_it() -> None:
    run = played(sent(1.0, 0.1), sent(2.0, 0.5), sent(3.0, 0.1, end_s=9.0), failed(4.0, "HTTP 503"))
    found = figures(run, Objectives(ttft_s=0.2, latency_s=2.0), 0.0)
    assert (found.requests, found.good, found.good_share) == (4, 1, 0.25)
    assert found.good_per_s == pytest.approx(0.01)
    assert found.errors == {"HTTP 503": 1}
    assert figures(run, Objectives(), 0.0).good == 3


def test_what_was_due_in_the_warm_up_is_not_counted() -> None:
    found = figures(played(*MANY), Objectives(), 40.0)
    assert found.requests == 10
    assert found.seconds == 60.0


def test_the_figures_of_regular_answers() -> None:
    assert FOUND.ttft.p50 == pytest.approx(0.1)
    assert FOUND.gap.p99 == pytest.approx(0.01)
    assert FOUND.per_token.mean == pytest.approx(0.01)
    assert FOUND.latency.p90 == pytest.approx(0.12)
    assert FOUND.output_tokens_per_s == pytest.approx(1.5)
    assert FOUND.cached_share == 0.75
    assert FOUND.whole_s == 100
    assert figures(played(*MANY, seconds=49.1), Objectives(), 0.0).whole_s == pytest.approx(49.12)


def test_of_nothing_the_figures_are_not_numbers() -> None:
    found = figures(Played(10.0), Objectives(), 0.0)
    assert found.requests == 0
    assert math.isnan(found.ttft.p50)
    assert math.isnan(found.good_share)
    assert math.isnan(found.cached_share)
    assert doubts(found, 0.02)


def test_a_server_that_says_nothing_of_its_cache_has_no_share() -> None:
    found = figures(played(sent(1.0, cached_tokens=None)), Objectives(), 0.0)
    assert math.isnan(found.cached_share)
    assert found.prompt_tokens == 100


def test_a_load_that_still_grows_shows() -> None:
    growing = [sent(second / 10) for second in (*range(0, 500, 8), *range(500, 1000, 2))]
    assert figures(played(*growing), Objectives(), 0.0).growth == pytest.approx(250 / 63)
    even = [sent(second / 2) for second in range(200)]
    assert figures(played(*even), Objectives(), 0.0).growth == 1.0
    few = figures(played(*MANY[:30]), Objectives(), 0.0)
    assert math.isnan(few.growth)


def test_nothing_is_judged_by_a_client_that_was_late_itself() -> None:
    assert doubts(FOUND, 0.02) == []
    slow = replace(FOUND, lag=replace(FOUND.lag, p99=0.5))
    assert "left up to 500 ms late" in doubts(slow, 0.02)[0]
    busy = replace(FOUND, pulse=replace(FOUND.pulse, p99=0.5))
    assert "timers were up to 500 ms late" in lateness(busy, 0.02)[0]


def test_nothing_is_judged_by_a_handful_of_requests_or_with_some_unsent() -> None:
    assert "3 requests were counted" in doubts(replace(FOUND, requests=3), 0.02)[0]
    assert "2 requests were not sent" in doubts(replace(FOUND, errors={TOO_MANY: 2}), 0.02)[0]


def search(knee: float, first: float) -> list[Try]:
    """A server that is good up to its knee, and never above."""
    tries: list[Try] = []
    while (rate := next_rate(tries, 0.9, first)) is not None:
        tries.append(Try(rate, 1.0 if rate <= knee else 0.2))
    return tries


@given(st.floats(0.01, 1000), st.floats(0.01, 1000))
def test_the_knee_is_bracketed_within_a_tenth_in_a_bounded_number_of_tries(
    knee: float, first: float
) -> None:
    tries = search(knee, first)
    found = bracket(tries, 0.9)
    assert len(tries) <= MOST_TRIES
    assert found.found
    assert found.low is not None
    assert found.high is not None
    assert found.low <= knee <= found.high <= found.low * 1.1 + 1e-9


def test_a_server_that_never_fails_or_never_answers_has_no_knee_and_the_search_ends() -> None:
    never = bracket(search(math.inf, 1.0), 0.9)
    assert (never.found, never.high) == (False, None)
    assert str(never).startswith("above")
    always = bracket(search(0.0, 1.0), 0.9)
    assert (always.found, always.low) == (False, None)
    assert str(always).startswith("below")
    assert str(Bracket(None, None)) == "not known"


def test_a_rate_at_which_nothing_was_counted_has_failed() -> None:
    assert bracket([Try(1.0, math.nan)], 0.9) == Bracket(None, 1.0)


def test_a_good_rate_above_one_that_failed_does_not_count() -> None:
    assert bracket([Try(1, 1.0), Try(2, 0.5), Try(4, 0.95)], 0.9) == Bracket(1, 2)


def test_a_step_is_long_enough_for_its_requests() -> None:
    assert step_s(10, 5, least_s=30, least_requests=100) == 30
    assert step_s(0.1, 5, least_s=30, least_requests=100) == pytest.approx(200)


def theirs(path: Path, **fields: float) -> Path:
    result = {
        "completed": 50,
        "total_input_tokens": 5000,
        "total_output_tokens": 150,
        "request_throughput": 0.5,
        "output_throughput": 1.5,
        "median_ttft_ms": 100.0,
        "p99_ttft_ms": 100.0,
        "median_tpot_ms": 10.0,
        "median_e2el_ms": 120.0,
        **fields,
    }
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def report(path: Path, found: Figures) -> Path:
    Run("load", argparse.Namespace()).write(path, {"runs": [{"figures": found}], "knee": None})
    return path


def test_two_harnesses_that_saw_the_same_agree(tmp_path: Path) -> None:
    mine = outside.ours(report(tmp_path / "ours.json", FOUND))
    lines = outside.compare([mine], [outside.vllm_bench(theirs(tmp_path / "theirs.json"))])
    assert {"answers/s", "first token, p50", "first token, p99", "a token, p50"} <= {
        line.what for line in lines
    }
    assert all(abs(line.percent) < 0.01 for line in lines)
    assert outside.other_load(lines) == []
    judged = outside.bars(lines)
    assert len(judged) == 5
    assert not any(bar.missed for bar in judged)


def test_a_difference_beyond_a_tenth_misses_the_bar_pair_by_pair(tmp_path: Path) -> None:
    mine = outside.ours(report(tmp_path / "ours.json", FOUND))
    slow = outside.vllm_bench(theirs(tmp_path / "theirs.json", median_ttft_ms=80.0))
    lines = outside.compare([mine, mine], [slow, slow])
    missed = [bar.what for bar in outside.bars(lines) if bar.missed]
    assert missed == ["first token, p50: |ours ÷ theirs - 1|"]
    (line,) = (line for line in lines if line.what == "first token, p50")
    assert line.percent == pytest.approx(25.0)
    with pytest.raises(ValueError, match="2 of ours and 1 of theirs are no pairs"):
        outside.compare([mine, mine], [slow])


def test_another_load_is_said_to_be_another(tmp_path: Path) -> None:
    mine = outside.ours(report(tmp_path / "ours.json", FOUND))
    long = outside.vllm_bench(theirs(tmp_path / "theirs.json", total_input_tokens=8000))
    assert "prompt tokens: -37.5 %" in outside.other_load(outside.compare([mine], [long]))[0]


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    for text in ("[]", "{}", "{", '{"figures": {"runs": []}}', '{"completed": 0}'):
        path.write_text(text, encoding="utf-8")
        for reader in (outside.vllm_bench, outside.ours):
            with pytest.raises(ValueError, match=r"other\.json"):
                reader(path)
