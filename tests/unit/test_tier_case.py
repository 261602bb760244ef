"""What is concluded from an answer gives way to what is known better."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from router.tiers.case import Ledger
from router.tiers.history import History, Kind
from router.tiers.metrics import TierMetrics
from router.tiers.sessions import Answered
from serving.config.stack import StackConfig

KIND = Kind("agent:desk", "", "tool-call")
EXTERNAL = {"engine": "external", "urls": ["http://e"]}


def ledger(**knobs: Any) -> Ledger:
    """Of one small answer, `r1`, whose call was valid."""
    tiers = {"implicit_weight": 0.25, "observed_weight": 0.5, **knobs}
    config = StackConfig.model_validate({"models": {"m": EXTERNAL}, "router": {"tiers": tiers}})
    history = History(config.router.tiers)
    metrics = TierMetrics(CollectorRegistry())
    made = Ledger(SimpleNamespace(config=config), history, metrics)  # type: ignore[arg-type]
    history.came(KIND)
    history.learn(KIND, "small", good=True, weight=0.25)
    made.recent.add("r1", Answered("acme", KIND, "small", True, 0.25))
    return made


def counts(made: Ledger) -> tuple[float, float]:
    """Good and bad small answers, as far as anybody knows."""
    tally = dict(made.history.rows())[KIND]
    return tally.small_good, tally.small_bad


def test_what_the_agent_loop_saw_takes_the_place_of_what_the_answer_looked_like() -> None:
    made = ledger()
    made.observed("acme", "r1", False)
    assert counts(made) == (0.0, pytest.approx(0.5))
    made.observed("acme", "r1", True)
    assert counts(made) == (pytest.approx(0.5), pytest.approx(0.0, abs=1e-3))


def test_and_a_clients_report_takes_the_place_of_both_once() -> None:
    made = ledger()
    made.observed("acme", "r1", False)
    assert made.report("acme", "r1", success=True) == 1
    assert counts(made) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-3))
    made.observed("acme", "r1", False)
    assert made.report("acme", "r1", success=False) == 0
    assert counts(made)[0] == pytest.approx(1.0)


def test_others_answers_and_a_weight_of_nothing_change_nothing() -> None:
    made = ledger()
    made.observed("other", "r1", False)
    made.observed("acme", "r2", False)
    assert counts(made) == (0.25, 0.0)
    made = ledger(observed_weight=0)
    made.observed("acme", "r1", False)
    assert counts(made) == (0.25, 0.0)
