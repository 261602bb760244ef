"""When an engine counts as hung, from what it says of itself."""

from __future__ import annotations

from dataclasses import replace

from serving.cluster.stall import Pulse
from serving.tables.base import EngineLoad

BUSY = EngineLoad(running=2, waiting=1, prompt_tokens=100, generated_tokens=10, kv_usage=0.2)
HUNG_AFTER_S = 60.0


def after(*seen: tuple[float, EngineLoad]) -> Pulse:
    pulse = Pulse(0.0, 0.0)
    for now_s, load in seen:
        pulse = pulse.beat(load, now_s)
    return pulse


def hung(pulse: Pulse, now_s: float) -> str:
    return pulse.hung(now_s, HUNG_AFTER_S)


def test_work_without_a_token_for_so_long_is_hung() -> None:
    pulse = after((1, BUSY), (30, BUSY), (60, BUSY))
    assert hung(pulse, 60.9) == ""
    assert hung(pulse, 61) == "it holds 3 requests and has produced nothing for 60 s"


def test_every_token_is_progress_generated_or_computed() -> None:
    pulse = after((1, BUSY), (50, replace(BUSY, generated_tokens=11)))
    assert hung(pulse, 100) == ""
    pulse = pulse.beat(replace(BUSY, generated_tokens=11, prompt_tokens=900), 100)
    assert hung(pulse, 159) == ""


def test_a_long_prefill_shows_in_the_cache_that_fills() -> None:
    seen = [(float(n), replace(BUSY, kv_usage=0.2 + n / 1000)) for n in range(1, 400, 40)]
    assert hung(after(*seen), 390) == ""


def test_clients_that_come_and_give_up_are_no_progress() -> None:
    one, two = replace(BUSY, running=1, kv_usage=0.1), replace(BUSY, running=2, kv_usage=0.3)
    seen = [(float(n), one if n % 2 else two) for n in range(1, 61)]
    assert hung(after((0, two), *seen), 61) != ""


def test_an_idle_engine_is_not_hung_however_long() -> None:
    rest = EngineLoad(prompt_tokens=100, generated_tokens=10)
    assert hung(after((1, BUSY), (2, rest), (500, rest)), 501) == ""


def test_silence_needs_no_more_patience_than_a_minute() -> None:
    assert after((1, BUSY)).hung(6, 5) == "it has not answered for 5 s"
    assert after((1, BUSY)).hung(60, 300) == ""
    assert after((1, BUSY)).hung(61, 300) == "it has not answered for 60 s"


def test_requests_that_its_scheduler_never_heard_of_count_too() -> None:
    rest = EngineLoad(prompt_tokens=100)
    # One ended and one came between two looks: the same number is not the same request.
    pulse = after(
        (1, replace(rest, running=1, open_requests=1)), (2, replace(rest, open_requests=1))
    )
    assert not pulse.doubtful(20, HUNG_AFTER_S)
    assert pulse.doubtful(32, HUNG_AFTER_S), "so it is asked for a token"
    pulse = pulse.beat(replace(rest, open_requests=2), 62)
    assert "holds 2 requests" in hung(pulse, 62)


def test_a_server_that_forgot_to_count_one_down_works_when_it_answers_the_question() -> None:
    pulse = Pulse(0, 0)
    for asked in range(1, 20):
        forgot = EngineLoad(prompt_tokens=100 + asked, generated_tokens=asked, open_requests=1)
        pulse = pulse.beat(forgot, 31.0 * asked)
        assert not pulse.doubtful(31.0 * asked + 29, HUNG_AFTER_S)
        pulse = pulse.beat(forgot, 31.0 * asked + 30)
        assert pulse.doubtful(31.0 * asked + 30, HUNG_AFTER_S)
        assert not hung(pulse, 31.0 * asked + 30)


def test_an_engine_that_refuses_the_question_is_spared() -> None:
    pulse = after((1, EngineLoad(open_requests=1)), (50, EngineLoad(open_requests=1)))
    assert hung(pulse.spared(50).beat(EngineLoad(open_requests=1), 100), 100) == ""


def test_an_engine_that_has_work_by_its_own_scheduler_is_not_asked() -> None:
    assert not after((1, BUSY)).doubtful(50, HUNG_AFTER_S)
