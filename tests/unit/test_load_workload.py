"""What the load benchmark says: scripts that repeat, prompts that grow at their end, arrivals."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load_arrivals import as_recorded, even, poisson
from benchmarks.load_workload import Dialogue, Recorded, Shape, Synthetic, read

ALIKE = Shape(spread=0.0, turns=4, head_tokens=50, first_tokens=60, next_tokens=20)
RATES = st.floats(0.01, 50)
SECONDS = st.floats(1, 100)


def flat(prompt: list[dict[str, str]]) -> str:
    return "".join(f"<{m['role']}>{m['content']}" for m in prompt)


def words(text: str) -> int:
    return len(text.split())


def trace(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def request(
    tokens: int, out: int, ranges: list[list[int]], think_s: float = 0.0
) -> dict[str, object]:
    return {"type": "n", "in": tokens, "out": out, "think_time": think_s, "hash_ranges": ranges}


def test_the_same_seed_and_number_give_the_same_session() -> None:
    assert Synthetic(Shape(), 7).script(3) == Synthetic(Shape(), 7).script(3)
    assert Synthetic(Shape(), 7).script(3) != Synthetic(Shape(), 8).script(3)
    assert Synthetic(Shape(), 7).script(3) != Synthetic(Shape(), 7).script(4)


def test_without_spread_all_sessions_are_as_long_as_was_said() -> None:
    for number in range(5):
        script = Synthetic(ALIKE, 1).script(number)
        assert [ask.output_tokens for ask in script.asks] == [48] * 4
        assert [sum(p.tokens for p in m) for m in script.messages] == [50, 60, 20, 20, 20]
        assert script.asks[0].pause_s == 0
        assert {ask.pause_s for ask in script.asks[1:]} <= {0.5, 5.0}


def test_single_turns_stay_single_whatever_the_spread() -> None:
    one = Synthetic(Shape(turns=1, spread=1.5), 1)
    assert {len(one.script(number).asks) for number in range(50)} == {1}


def test_a_session_ends_before_it_outgrows_the_context() -> None:
    shape = Shape(turns=40, context_tokens=1000)
    for number in range(20):
        script = Synthetic(shape, 2).script(number)
        sizes = [sum(p.tokens for p in m) for m in script.messages]
        if len(script.asks) > 1:
            assert sum(sizes) + sum(ask.output_tokens for ask in script.asks) <= 1000


def test_a_prompt_is_the_one_before_it_and_the_answer_and_what_is_new() -> None:
    dialogue = Dialogue(Synthetic(ALIKE, 1).script(0), "run")
    before = flat(dialogue.prompt(0))
    for turn in range(3):
        dialogue.answered(turn, f"answer {turn}")
        after = flat(dialogue.prompt(turn + 1))
        assert after.startswith(f"{before}<assistant>answer {turn}<user>")
        before = after
    assert [m["role"] for m in dialogue.prompt(3)][:4] == ["system", "user", "assistant", "user"]


def test_sessions_share_the_system_prompt_and_runs_share_nothing() -> None:
    load = Synthetic(ALIKE, 1)
    one, two = (Dialogue(load.script(number), "run").prompt(0) for number in (0, 1))
    other = Dialogue(load.script(0), "later").prompt(0)
    assert one[0] == two[0]
    assert one[1]["content"].split()[0] != two[1]["content"].split()[0]
    assert one[0]["content"].split()[0] != other[0]["content"].split()[0]


def test_texts_have_about_as_many_words_as_tokens_were_asked_for() -> None:
    shape = replace(ALIKE, head_tokens=0, first_tokens=100_000, context_tokens=1_000_000)
    prompt = Dialogue(Synthetic(shape, 1).script(0), "run").prompt(0)
    assert words(prompt[0]["content"]) == pytest.approx(100_000, abs=10)


def test_a_recorded_session_says_what_was_new_without_the_answer_that_the_server_gives(
    tmp_path: Path,
) -> None:
    requests = [
        request(640, 100, [[1, 10]]),
        request(1280, 50, [[1, 20]], think_s=500.0),
        request(1920, 50, [[1, 30]], think_s=2.0),
    ]
    path = trace(tmp_path / "t.jsonl", {"id": "a", "block_size": 64, "requests": requests})
    load = read(path, context_tokens=8000, most_think_s=60, scale=1.0)
    script = load.script(0)
    assert [sum(p.tokens for p in m) for m in script.messages] == [640, 540, 590]
    assert [ask.pause_s for ask in script.asks] == [0.0, 60.0, 2.0]
    assert [ask.shows for ask in script.asks] == [(0,), (0, 1), (0, 1, 2)]
    small = read(path, context_tokens=200, most_think_s=60, scale=0.1).script(0)
    assert [sum(p.tokens for p in m) for m in small.messages] == [64, 54, 59]


def test_a_history_that_was_rewritten_has_no_answer_in_between(tmp_path: Path) -> None:
    requests = [
        request(640, 100, [[1, 10]]),
        request(1280, 50, [[1, 20]]),
        request(960, 50, [[1, 10], [40, 5]]),
    ]
    path = trace(tmp_path / "t.jsonl", {"id": "a", "block_size": 64, "requests": requests})
    dialogue = Dialogue(
        read(path, context_tokens=8000, most_think_s=60, scale=1.0).script(0), "run"
    )
    dialogue.answered(0, "first")
    dialogue.answered(1, "second")
    roles = [m["role"] for m in dialogue.prompt(2)]
    assert all(a != b for a, b in pairwise(roles))
    assert "second" not in flat(dialogue.prompt(2))


def test_requests_with_common_blocks_have_a_common_beginning(tmp_path: Path) -> None:
    def line(timestamp: int, blocks: list[int]) -> dict[str, object]:
        tokens = 512 * len(blocks) + 10
        return {
            "timestamp": timestamp,
            "input_length": tokens,
            "output_length": 5,
            "hash_ids": blocks,
        }

    path = trace(tmp_path / "t.jsonl", line(0, [1, 2]), line(500, [1, 3]), line(1500, [9] * 40))
    load = read(path, context_tokens=4000, most_think_s=60, scale=1.0)
    assert load.starts_s == [0.0, 0.5]  # the third does not fit
    one, two = (Dialogue(load.script(i), "run").prompt(0)[0]["content"].split() for i in (0, 1))
    common = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    assert 500 <= common <= 515


def test_where_nothing_fits_the_options_are_named(tmp_path: Path) -> None:
    requests = [request(640, 100, [[1, 10]])]
    path = trace(tmp_path / "t.jsonl", {"id": "a", "block_size": 64, "requests": requests})
    with pytest.raises(ValueError, match=r"--context-tokens, or lower --scale \(now 1\)"):
        read(path, context_tokens=100, most_think_s=60, scale=1.0)


def test_a_trace_that_begins_again_has_other_texts() -> None:
    scripts = [Synthetic(ALIKE, 1).script(number) for number in range(2)]
    load = Recorded("two", scripts, ())
    first, again = load.script(1), load.script(3)
    assert again.asks == first.asks
    assert not {p.name for m in first.messages for p in m} & {
        p.name for m in again.messages for p in m
    }


@given(RATES, SECONDS, st.integers(0, 5))
def test_arrivals_are_as_many_as_the_rate_says_in_order_and_in_the_window(
    rate: float, seconds: float, seed: int
) -> None:
    for times in (poisson(rate, seconds, seed), even(rate, seconds)):
        assert len(times) == max(1, round(rate * seconds))
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= seconds


def test_poisson_gaps_vary_as_an_exponential_does() -> None:
    times = poisson(10, 1000, seed=1)
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((g - mean) ** 2 for g in gaps) / len(gaps)
    assert mean == pytest.approx(0.1, rel=0.01)
    assert variance**0.5 / mean == pytest.approx(1.0, rel=0.1)


def test_a_traces_times_are_kept_or_pressed_to_a_rate_and_repeated() -> None:
    recorded = [10.0, 11.0, 13.0]
    assert as_recorded(recorded, None, 4.0) == [0.0, 1.0, 3.0]
    twice = as_recorded(recorded, 2 * 3 / 4.5, 4.5)
    assert twice == pytest.approx([0.0, 0.5, 1.5, 2.25, 2.75, 3.75])
    with pytest.raises(ValueError, match="recorded no times"):
        as_recorded((), None, 4.0)
