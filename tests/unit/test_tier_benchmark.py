"""The tier benchmark counts right: scores, chance, and changes that nobody priced."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiers_answers, tiers_recorded, tiers_sessions
from benchmarks.tiers_answers import Answered
from benchmarks.tiers_sessions import Outcome, Turn
from router.logs import TurnRecord
from serving.config.model import Prices
from serving.config.router import TiersConfig
from serving.errors import ConfigError
from serving.tables.base import Tier

PRICES: dict[Tier, Prices] = {
    "small": Prices(fresh=1, cached=0.1, output=4),
    "frontier": Prices(fresh=10, cached=1, output=40),
}
KNOBS = TiersConfig(remaining_turns=1)


def questions(task: str, count: int, *, small: float, frontier: float) -> list[Answered]:
    """The first share of them is right."""
    return [Answered(task, 100, i < small * count, i < frontier * count) for i in range(count)]


MIXED = [
    *questions("easy", 300, small=0.9, frontier=0.9),
    *questions("hard", 300, small=0.3, frontier=0.9),
]


def test_a_score_is_a_share_of_the_frontiers_quality_and_cost() -> None:
    score = tiers_recorded.score(MIXED, ["small"] * 300 + ["frontier"] * 300, PRICES)
    assert score.quality == 1
    assert score.cost == pytest.approx(0.55)
    assert score.to_frontier == 0.5


def test_chance_at_the_same_cost_lies_between_the_two_models() -> None:
    coin = tiers_recorded.at_random(MIXED, PRICES, 0.55)
    assert coin.cost == pytest.approx(0.55)
    assert coin.quality == pytest.approx((2 / 3 + 1) / 2)


def test_the_oracle_asks_the_frontier_only_where_it_alone_is_right() -> None:
    oracle = tiers_recorded.oracle(MIXED, PRICES)
    assert oracle.quality == 1
    assert oracle.to_frontier == pytest.approx(180 / 600)


def test_the_policy_finds_the_task_that_needs_the_frontier() -> None:
    [split] = tiers_recorded.run(MIXED, KNOBS, PRICES, 1)
    assert split.policy.quality > 0.95
    assert split.policy.cost < 0.7
    assert split.policy.quality > split.random.quality + 0.1


def test_answers_are_not_peeked_at() -> None:
    """The scored half's answers turned round change the score, never a decision."""
    fit, scored = tiers_recorded.halves(MIXED, 0)
    history = tiers_recorded.learnt(fit, KNOBS)
    turned = [replace(q, small=not q.small, frontier=not q.frontier) for q in scored]
    assert tiers_recorded.chosen(scored, history, KNOBS, PRICES) == tiers_recorded.chosen(
        turned, history, KNOBS, PRICES
    )


def test_recorded_answers_are_read_plain_or_gzipped(tmp_path: Path) -> None:
    rows = "".join(f'a,{i},"What, {i}?\nA. yes",1,{i % 2}\n' for i in range(30))
    text = f"task,index,prompt,small_correct,frontier_correct\n{rows}".encode()
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    assert tiers_answers.read(plain) == tiers_answers.read(packed)
    assert sum(q.frontier for q in tiers_answers.read(plain)) == 15


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no column 'task'"), ("task,prompt,small_correct\n", "no column 'frontier_correct'"),
     ("task,prompt,small_correct,frontier_correct\na,b,1,yes\n", "line 2"),
     ("task,prompt,small_correct,frontier_correct\na,b,1,1\n", "at least 20")],
)  # fmt: skip
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        tiers_answers.read(path)


def record(model: str, reason: str, **fields: Any) -> TurnRecord:
    return TurnRecord("", "r", "/", model=model, reason=reason, **fields)


@pytest.mark.parametrize(
    ("before", "now", "counted"),
    [
        (record("small", "a:stays"), record("small", "a:stays"), None),
        (record("small", "a:stays"), record("frontier", "a:stays"), "unpriced"),
        (record("small", "a:stays"), record("frontier", "a:priced"), "unpriced"),
        (
            record("small", "a:stays"),
            record("frontier", "a:priced", tier_gain_usd=0.1, tier_prices_usd={"small": 1.0}),
            "unpriced",
        ),
        (
            record("small", "a:stays"),
            record("frontier", "a:priced", tier_gain_usd=0.3, tier_prices_usd={"small": 1.0}),
            "priced",
        ),
        (
            record("small", "a:stays"),
            record("frontier", "a:escalated-unsure", tier_gain_usd=-0.1),
            "escalated",
        ),
        (record("frontier", "a:escalated-unsure"), record("small", "a:stays"), "returns"),
        (
            record("frontier", "a:escalated-unsure", tier_change="small->frontier"),
            record("small", "a:stays"),
            "unpriced",
        ),
    ],
)
def test_a_change_without_a_priced_reason_is_counted_as_such(
    before: TurnRecord, now: TurnRecord, counted: str | None
) -> None:
    outcome = Outcome()
    tiers_sessions._judge(outcome, before, now, 0.2)
    assert outcome.changes == (counted is not None)
    for name in ("priced", "escalated", "returns", "unpriced"):
        assert getattr(outcome, name) == (name == counted)


def test_sessions_keep_their_model_unless_it_is_priced() -> None:
    outcomes = tiers_sessions.run(tiers_sessions.synthetic(sessions=60), PRICES)
    auto, frontier = outcomes["auto"], outcomes["always frontier"]
    assert auto.unpriced == 0
    assert auto.changes > 0
    assert auto.usd < frontier.usd
    assert frontier.changes == 0


def test_a_traced_session_shares_what_its_blocks_share() -> None:
    requests = [
        {"in": 130, "out": 10, "hash_ranges": [[1, 2]]},
        {"in": 260, "out": None, "hash_ranges": [[1, 2], [3, 2]]},
        {"in": 200, "out": 5, "hash_ranges": [[1, 1], [9, 2]]},
    ]
    assert tiers_sessions._turns(requests, 64) == [
        Turn(130, 0, 10),
        Turn(260, 128, 1),
        Turn(200, 64, 5),
    ]
